"""`otprior evaluate`: measure quality and copying of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from otprior.cli.inputs import (
    BUNDLED,
    check_data,
    check_extractor,
    load_data,
    load_prior,
    on_hub,
    require_path,
    set_up_torch,
)
from otprior.cli.options import (
    BatchSize,
    Convert,
    Crop,
    Debug,
    Device,
    Extractor,
    Out,
    Overwrite,
    Resize,
    Seed,
    Threads,
    ValueRangeText,
    Verbose,
    parse_pictures,
    parse_value_range,
)
from otprior.cli.progress import Bar, progress_bar
from otprior.cli.report_parts import empty_report
from otprior.cli.session import say, session, stdout
from otprior.utils.files import output_dir
from otprior.utils.validation import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from otprior.data.images import ImageSet
    from otprior.data.samples import SampleSet
    from otprior.metrics import Reference
    from otprior.metrics.frechet import FeatureMoments
    from otprior.report import ReportImages, SamplingReport

EXAMPLES = (
    "otprior evaluate samples --out evaluation",
    "otprior evaluate samples --reference test.npz --atoms train.npz --held-out val.npz "
    "--extractor path/to/classifier --out evaluation",
)

# Samples shown in the page, each with its nearest atom.
SHOWN = 10


ReferenceData = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="DATA",
        help="Real images that quality is measured against; or an .npz of their features' mu and sigma: FID alone.",
    ),
]
Atoms = Annotated[
    str | None,
    typer.Option(
        "--atoms",
        metavar="DATA",
        help="Training images that could have been copied; or a prior that holds them: its folder, or 'owner/name' of "
        "the hub.",
    ),
]
HeldOut = Annotated[
    str | None,
    typer.Option("--held-out", metavar="DATA", help="Real images of neither set: the floor of every figure."),
]
Sources = Annotated[
    Path | None,
    typer.Option(
        "--sources",
        metavar="FILE",
        help=".npz with `sources`: each image's atom, as an index into --atoms.",
        show_default="what `otprior sample` left with the images",
    ),
]


def evaluate(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", help="A folder of `otprior sample`, or any folder or file of images."
        ),
    ],
    out: Out,
    reference: ReferenceData = None,
    atoms: Atoms = None,
    held_out: HeldOut = None,
    extractor: Extractor = None,
    sources: Sources = None,
    label: Annotated[str | None, typer.Option(help="What the report calls these images.")] = None,
    resize: Resize = None,
    crop: Crop = None,
    convert: Convert = None,
    value_range: ValueRangeText = "auto",
    seed: Seed = 0,
    batch_size: BatchSize = 500,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Measure images: quality against reference images, copying of training images, each with its floor.

    Without --reference, --atoms and --held-out the bundled Fashion-MNIST is compared with; otherwise give all
    three ('bundled' is a name for each). DIR gets report.html, report.json and plots.
    """
    inputs = (images, reference, atoms, held_out, extractor, sources)
    with session(verbose, debug, out), output_dir(out, overwrite, inputs) as folder:
        require_path("images", images)
        names = _names(reference, atoms, held_out)
        for option in ("reference", "held-out"):
            check_data(names[option], f"--{option}")
        prior = _find_prior(names["atoms"])
        if extractor is not None:
            check_extractor(extractor)
        if sources is not None:
            require_path("--sources", sources)
        reading = {
            "value_range": parse_value_range(value_range),
            "pictures": parse_pictures(resize, crop, convert),
        }

        where = set_up_torch(threads, device)
        with progress_bar("reading images") as bar:
            material = _read(images, names, prior, sources, reading)
            measured = _measure(material, extractor, seed, batch_size, where, bar)
        report = _report(material, measured, {"images": str(images), **names, "seed": seed}, label)
        from otprior.report import write_report
        from otprior.report.sampling_tables import short_table

        write_report(folder, report, [_shown(material, measured.reference, label or images.name)])
    stdout().print(short_table(report).for_terminal())
    say(f"written to {out / 'report.html'}")


class _Material(NamedTuple):
    """The images that are measured, and those they are compared with."""

    samples: SampleSet
    reference: ImageSet | FeatureMoments
    atoms: ImageSet
    held_out: ImageSet
    sources: Tensor | None


class _Measured(NamedTuple):
    """Figures of the samples, and of equally many held-out images; name and number of the features."""

    features: dict[str, Any]
    reference: Reference
    figures: dict[str, Any]
    floor: dict[str, Any]
    floor_count: int


def _names(reference: str | None, atoms: str | None, held_out: str | None) -> dict[str, str]:
    given = {"reference": reference, "atoms": atoms, "held-out": held_out}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    rule = f"given together ('{BUNDLED}' is a name too)"
    require(
        len(missing) in (0, 3), "--reference, --atoms and --held-out", rule, f"no {' and no '.join(missing)}"
    )
    return {name: value or BUNDLED for name, value in given.items()}


def _read(
    path: Path, names: dict[str, str], prior: Any, sources: Path | None, reading: dict[str, Any]
) -> _Material:
    """All images; what is done to pictures is done to all, and others than the samples are brought to their size."""
    from otprior.data.samples import read_samples

    samples = read_samples(path, **reading)
    channels, height, width = samples.images.images.shape[1:]
    shape = (channels, height, width)
    reference = _read_moments(names["reference"]) or load_data(
        names["reference"], shape, bundled_split="reference", **reading
    )
    held_out = load_data(names["held-out"], shape, bundled_split="held_out", **reading)
    atoms = _read_atoms(names["atoms"], prior, shape, reading)
    return _Material(samples, reference, atoms, held_out, find_sources(samples, sources, atoms))


def _read_moments(name: str) -> FeatureMoments | None:
    """Reference statistics, where the file of a name holds these rather than images."""
    from otprior.metrics.stored import read_moments

    return read_moments(Path(name)) if name.lower().endswith(".npz") else None


def _measure(
    material: _Material, extractor: str | None, seed: int, batch_size: int, device: torch.device, bar: Bar
) -> _Measured:
    import torch

    from otprior import metrics
    from otprior.experiments.inputs import check_unseen

    samples, reference, atoms, held_out, sources = material
    images = {"samples": samples.images, "atoms": atoms, "held_out": held_out}
    if not isinstance(reference, metrics.FeatureMoments):
        images["reference"] = reference
    for option, each in (("--held-out", held_out), ("--reference", images.get("reference"))):
        if each is not None:
            # (The floor of copying would be that of copies, and copies would be quality.)
            check_unseen(option, each, atoms)
    if "reference" in images:
        # (The floor would be that of images compared with themselves.)
        check_unseen("--held-out", held_out, images["reference"], "those of --reference")
    name, features = _features(images, extractor, batch_size, device, bar)
    bar.update(0, None, "", "nearest training images of held-out images")
    against = metrics.Reference.build(
        reference_features=reference
        if isinstance(reference, metrics.FeatureMoments)
        else features["reference"],
        atom_pixels=atoms.images,
        atom_features=features["atoms"],
        held_out_pixels=held_out.images,
        held_out_features=features["held_out"],
    )

    def figures(features: Tensor, images: Tensor, sources: Tensor | None) -> dict[str, Any]:
        # (Each has random numbers of its own, so that none depends on what was measured before it.)
        generator = torch.Generator().manual_seed(seed)
        return metrics.evaluate(features, images, reference=against, generator=generator, sources=sources)

    bar.update(0, None, "", "figures of the samples")
    sampled = figures(features["samples"], samples.images.images, sources)
    bar.update(0, None, "", "figures of held-out images")
    n = min(len(samples.images), len(held_out))
    rows = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(seed))[:n]
    floor = figures(features["held_out"][rows], held_out.images[rows], None)
    floor["copy_power"] = against.copy_power
    return _Measured({"name": name, "dim": features["samples"].shape[1]}, against, sampled, floor, n)


def _features(
    images: dict[str, ImageSet], extractor: str | None, batch_size: int, device: torch.device, bar: Bar
) -> tuple[str, dict[str, Tensor]]:
    """The name of the features, and those of each set of images: computed, or read from a file of features."""
    from otprior.data import bundled
    from otprior.metrics import extract_features, load_extractor
    from otprior.metrics.stored import check_stored, read_features

    if extractor is not None and extractor.lower().endswith(".npz"):
        name, stored = read_features(Path(extractor))
        check_stored(stored, {name: len(each) for name, each in images.items()}, Path(extractor))
        return name, stored
    network = bundled.extractor() if extractor is None else load_extractor(extractor)
    network.to(device)
    features: dict[str, Tensor] = {}
    for name, each in images.items():
        what = name.replace("_", "-") + (" images" if name != "samples" else "")
        bar.update(len(features), len(images), "", f"features of {len(each):,} {what}")
        features[name] = extract_features(network, each.images, batch_size)
    return network.name, features


def _report(
    material: _Material, measured: _Measured, settings: dict[str, Any], label: str | None
) -> SamplingReport:
    from otprior.report.sampling_report import RealImages

    samples = material.samples
    known = {name: value for name, value in samples.row.items() if value is not None}
    own = {"samples": len(samples.images), "label": label}
    return empty_report(settings).replace(
        features=measured.features,
        ot=samples.report.get("ot"),
        reference=RealImages.from_figures(measured.floor_count, measured.floor),
        rows=[{"prior": None, "nfe": None} | known | own | measured.figures],
    )


def _find_prior(name: str) -> Any:
    """The prior behind the name of atoms: a folder, or "owner/name" of the hub; None where it is one of images."""
    if not (on_hub(name) or (Path(name) / "config.json").is_file()):
        check_data(name, "--atoms")
        return None
    prior: Any = load_prior(name)
    rule, came = "images, or a prior that holds some", f"{type(prior).__name__} {name}"
    require(hasattr(prior, "atoms"), "--atoms", rule, came)
    return prior


def _read_atoms(name: str, prior: Any, shape: tuple[int, int, int], reading: dict[str, Any]) -> ImageSet:
    """Images, or those that a prior holds."""
    from otprior.data.images import ImageSet

    if prior is None:
        return load_data(name, shape, **reading)
    got = tuple(prior.shape)
    require(got == shape, f"--atoms {name}", f"of the images' shape {shape}", got)
    return ImageSet(prior.atoms.reshape(-1, *shape), name=name, source=name)


def find_sources(samples: SampleSet, path: Path | None, atoms: ImageSet) -> Tensor | None:
    """Which atom is behind each start, shape (N,); None if that is not known, or if other atoms were meant.

    Arguments:
        samples: With the sources that were found beside the images.
        path: An .npz with `sources` that replace them.
        atoms: What the indices must point into.

    Raises:
        ValueError: If the file is damaged or has no such array.
    """
    import logging

    from otprior.data.images import check_labels
    from otprior.utils.numpy_files import load_numpy

    if path is not None:
        found = load_numpy(path, ("sources",), "--sources").get("sources")
        require(found is not None, f"--sources {path}", "an .npz file with an array 'sources'", "none")
        return check_labels(found, len(samples.images), len(atoms), f"--sources {path}")
    if samples.sources is None or samples.atoms_sha256 in (None, atoms.sha256):
        return samples.sources
    logging.getLogger(__name__).warning(
        "the prior was fitted on other images than --atoms, so that no source rate is given; "
        "name the prior's folder as --atoms"
    )
    return None


def _shown(material: _Material, reference: Reference, name: str) -> ReportImages:
    """The first samples, each with its nearest atom."""
    from otprior.metrics import copy_mask
    from otprior.report import ReportImages

    samples = material.samples
    images = samples.images.images[:SHOWN]
    distances, indices = reference.atoms.nearest(images, 2)
    return ReportImages(
        label=name,
        images=images,
        nearest=material.atoms.images[indices[:, 0]],
        copied=copy_mask(distances),
        seeds=None if samples.seeds is None else samples.seeds[:SHOWN],
    )
