"""`otprior evaluate`: measure quality and copying of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.inputs import BUNDLED, check_data, load_data, require_path, set_up_torch
from otprior.cli.options import Debug, Device, Overwrite, Threads, ValueRangeText, Verbose, parse_value_range
from otprior.cli.progress import progress_bar
from otprior.cli.report_parts import empty_report
from otprior.cli.session import session, stdout
from otprior.utils.files import check_output_dir, output_dir
from otprior.utils.validation import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from otprior.data.images import ImageSet
    from otprior.data.samples import SampleSet
    from otprior.metrics import Reference
    from otprior.report import ReportImages, SamplingReport

EXAMPLES = (
    "otprior evaluate samples --out evaluation",
    "otprior evaluate samples --reference test.npz --atoms train.npz --held-out val.npz "
    "--extractor path/to/classifier --out evaluation",
)

# Samples shown in the page, each with its nearest atom.
SHOWN = 10


def evaluate(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", help="A folder of `otprior sample`, or any folder or file of images."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.", show_default=False)],
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Real images that quality is measured against.", show_default=False
        ),
    ] = None,
    atoms: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Training images that could have been copied, or the prior's folder that holds them.",
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Real images of neither set: the floor of every figure.", show_default=False
        ),
    ] = None,
    extractor: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The feature extractor; by default the bundled one.")
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=".npz with `sources`: each image's atom, as an index into --atoms. "
            "By default what `otprior sample` left beside the images.",
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="What the report calls these images.")] = None,
    value_range: ValueRangeText = "auto",
    seed: Annotated[
        int, typer.Option(min=0, help="Of resampling, and of which held-out images are taken.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time through the extractor.")] = 500,
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
    with session(verbose, debug, out):
        check_output_dir(out, overwrite)
        require_path("images", images)
        names = _names(reference, atoms, held_out)
        for option, name in names.items():
            check_data(name, f"--{option}")
        for option, path in (("--extractor", extractor), ("--sources", sources)):
            if path is not None:
                require_path(option, path)
        pixels = parse_value_range(value_range)

        where = set_up_torch(threads, device)
        report, shown = _measure(images, names, extractor, sources, label, pixels, seed, batch_size, where)
        from otprior.report import write_report
        from otprior.report.sampling_tables import short_table

        with output_dir(out, overwrite) as folder:
            write_report(folder, report, [shown])
        console = stdout()
        console.print(short_table(report).for_terminal())
        console.print(f"written to {out / 'report.html'}", soft_wrap=True, highlight=False)


def _names(reference: str | None, atoms: str | None, held_out: str | None) -> dict[str, str]:
    given = {"reference": reference, "atoms": atoms, "held-out": held_out}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    rule = f"given together ('{BUNDLED}' is a name too)"
    require(
        len(missing) in (0, 3), "--reference, --atoms and --held-out", rule, f"no {' and no '.join(missing)}"
    )
    return {name: value or BUNDLED for name, value in given.items()}


def _measure(
    path: Path,
    names: dict[str, str],
    extractor_path: Path | None,
    sources_path: Path | None,
    label: str | None,
    value_range: Any,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> tuple[SamplingReport, ReportImages]:
    """The report of one set of images, and some of them to show."""
    import torch

    from otprior import metrics
    from otprior.data import bundled
    from otprior.data.samples import read_samples
    from otprior.metrics.features import extract_features, load_extractor
    from otprior.report.sampling_report import RealImages

    with progress_bar("reading images") as bar:
        samples = read_samples(path, value_range)
        channels, height, width = samples.images.images.shape[1:]
        shape = (channels, height, width)
        reference = load_data(names["reference"], shape, value_range, bundled_split="reference")
        held_out = load_data(names["held-out"], shape, value_range, bundled_split="held_out")
        atoms = _read_atoms(names["atoms"], shape, value_range)
        sources = find_sources(samples, sources_path, atoms)
        extractor = bundled.extractor() if extractor_path is None else load_extractor(extractor_path)
        extractor.to(device)

        sets = {
            "samples": samples.images,
            "reference": reference,
            "atoms": atoms,
            "held-out images": held_out,
        }
        features: dict[str, Tensor] = {}
        for name, images in sets.items():
            bar.update(len(features), len(sets), "", f"features of {len(images):,} {name}")
            features[name] = extract_features(extractor, images.images, batch_size)
        bar.update(0, None, "", "nearest training images of held-out images")
        against = metrics.Reference.build(
            reference_features=features["reference"],
            atom_pixels=atoms.images,
            atom_features=features["atoms"],
            held_out_pixels=held_out.images,
            held_out_features=features["held-out images"],
        )
        bar.update(0, None, "", "figures of the samples")
        generator = torch.Generator().manual_seed(seed)
        figures = metrics.evaluate(
            features["samples"],
            samples.images.images,
            reference=against,
            generator=generator,
            sources=sources,
        )
        bar.update(0, None, "", "figures of held-out images")
        n = min(len(samples.images), len(held_out))
        rows = torch.randperm(len(held_out), generator=generator)[:n]
        floor = metrics.evaluate(
            features["held-out images"][rows],
            held_out.images[rows],
            reference=against,
            generator=generator,
        )
        shown = _shown(samples, atoms, against, label or path.name)
    known = {name: value for name, value in samples.row.items() if value is not None}
    row = {"prior": None, "nfe": None} | known | {"samples": len(samples.images), "label": label} | figures
    report = empty_report({"images": str(path), **names, "seed": seed}).replace(
        features={"name": extractor.name, "dim": extractor.dim},
        ot=samples.report.get("ot"),
        reference=RealImages.from_figures(n, floor),
        rows=[row],
    )
    return report, shown


def _read_atoms(name: str, shape: tuple[int, int, int], value_range: Any) -> ImageSet:
    """Images, or those that a prior holds."""
    from otprior.data.images import ImageSet
    from otprior.priors import Prior

    if name == BUNDLED or not (Path(name) / "config.json").is_file():
        return load_data(name, shape, value_range)
    prior: Any = Prior.from_pretrained(name)
    require(
        hasattr(prior, "atoms"),
        "--atoms",
        "images, or a prior that holds some",
        f"{type(prior).__name__} {name}",
    )
    require(
        tuple(prior.shape) == shape, f"--atoms {name}", f"of the images' shape {shape}", tuple(prior.shape)
    )
    return ImageSet(prior.atoms.reshape(-1, *prior.shape), name=name, source=name)


def find_sources(samples: SampleSet, path: Path | None, atoms: ImageSet) -> Tensor | None:
    """Which atom is behind each start, shape (N,); None if nobody said, or if other atoms were meant.

    Arguments:
        samples: With the sources that were found beside the images.
        path: An .npz with `sources` that replace them.
        atoms: What the indices must point into.

    Raises:
        ValueError: If the file is damaged or has no such array.
    """
    import logging
    from zipfile import BadZipFile

    import numpy as np

    from otprior.data.images import check_labels

    if path is not None:
        try:
            # (A .npy file is an array, which has no names to look up and cannot be closed.)
            with np.load(path, allow_pickle=False) as file:
                found = file["sources"]
        except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile) as error:
            raise ValueError(f"--sources {path} is damaged or has no array 'sources': {error}") from error
        return check_labels(found, len(samples.images), len(atoms), f"--sources {path}")
    if samples.sources is None or samples.atoms_sha256 in (None, atoms.sha256):
        return samples.sources
    logging.getLogger(__name__).warning(
        "the prior was fitted on other images than --atoms, so that no source rate is given; "
        "name the prior's folder as --atoms"
    )
    return None


def _shown(samples: SampleSet, atoms: ImageSet, reference: Reference, name: str) -> ReportImages:
    from otprior.metrics import copy_mask
    from otprior.report import ReportImages

    images = samples.images.images[:SHOWN]
    distances, indices = reference.atoms.nearest(images, 2)
    return ReportImages(
        label=name,
        images=images,
        nearest=atoms.images[indices[:, 0]],
        copied=copy_mask(distances),
        seeds=None if samples.seeds is None else samples.seeds[:SHOWN],
    )
