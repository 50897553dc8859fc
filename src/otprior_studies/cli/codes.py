"""`otprior codes`: test whether the map to codes is optimal transport."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.encode import Method
from otprior.cli.inputs import (
    BUNDLED,
    check_data,
    check_model,
    find_model,
    load_data,
    load_model,
    set_up_torch,
)
from otprior.cli.options import (
    Debug,
    ModelArgument,
    NullLabel,
    Out,
    Overwrite,
    Seed,
    Threads,
    ValueRangeText,
    Variant,
    Verbose,
    parse_labels,
    parse_value_range,
)
from otprior.cli.progress import progress_bar
from otprior.cli.session import say, session, stdout
from otprior.cli.studies import StudyDevice, Workers, default_workers, follow, work_folder
from otprior.utils.files import output_dir
from otprior.utils.validation import invalid, require

if TYPE_CHECKING:
    from otprior.data.images import ImageSet
    from otprior_studies.codes.record import CodesReport
    from otprior_studies.codes.run import CodeResult
    from otprior_studies.codes.study import CodeStudy, CodeSubject, Network

EXAMPLES = (
    "otprior codes bundled --out codes-study",
    "otprior codes bundled --fast --out rehearsal",
    "otprior codes path/to/ddpm path/to/images --images 1000 --swaps 0 --out codes-study",
    "otprior codes path/to/ddpm path/to/images --other path/to/other --other-data path/to/others --out swapped",
)

# What --fast measures; its figures are a rehearsal.
FAST = {"images": 200, "subset": 50, "refined": 40, "probed": 8, "probes": 1, "swaps": 2, "block": 20}
FAST_ENCODER = {"method": "heun", "steps": 10}
FAST_ATOMS = 2000
SHOWN_MISSING = 5
# Between two networks there is one kind of swap, between ten classes there are ninety: so many times the images.
BETWEEN_NETWORKS = 10

OptionalData = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="Images: a folder, .npz, .npy, .safetensors, or 'bundled', which a bundled model may leave out.",
        show_default=False,
    ),
]
Classes = Annotated[
    str | None, typer.Option(metavar="LABELS", help="Of the images, those of these classes: 3, or 0-4.")
]
Images = Annotated[
    int | None, typer.Option(min=8, help="Images to encode, and seeds to decode.", show_default="2000")
]
Subset = Annotated[
    int | None,
    typer.Option(min=4, help="Points of a set; intervals are over disjoint sets.", show_default="500"),
]
Conditional = Annotated[
    bool, typer.Option("--conditional", help="Give the network each image's class, instead of none.")
]
MethodOption = Annotated[
    Method | None, typer.Option(help="Method of encoding; see `otprior encode`.", show_default="rk4")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of that method.", show_default="12")]
Probed = Annotated[
    int | None, typer.Option(min=0, help="Images at which the Jacobian is probed.", show_default="96")
]
Atoms = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Images that the fast priors are fitted to.",
        show_default="DATA; the bundled atoms for bundled data",
    ),
]

_SWAPS = "Swapping codes"
Swaps = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Images of a class that are decoded as every class; with --other the images that are decoded by it. "
        "0 leaves it out.",
        show_default="20, where images and network know classes; 200 with --other",
        rich_help_panel=_SWAPS,
    ),
]
Other = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A second network, to decode the first one's codes, instead of swapping classes.",
        rich_help_panel=_SWAPS,
    ),
]
OtherData = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="Images like its own.", show_default="DATA", rich_help_panel=_SWAPS),
]
OtherNullLabel = Annotated[
    int | None,
    typer.Option(min=0, help="Its label for no class.", show_default="the model's", rich_help_panel=_SWAPS),
]
OtherClasses = Annotated[
    str | None, typer.Option(metavar="LABELS", help="Of those, these classes.", rich_help_panel=_SWAPS)
]


def codes(
    model: ModelArgument,
    data: OptionalData = None,
    out: Out = Path("codes-study"),
    fast: Annotated[bool, typer.Option("--fast", help="A rehearsal in under three minutes.")] = False,
    images: Images = None,
    subset: Subset = None,
    classes: Classes = None,
    conditional: Conditional = False,
    method: MethodOption = None,
    steps: Steps = None,
    probed: Probed = None,
    atoms: Atoms = None,
    timestep: Annotated[float, typer.Option(help="t* of the fast priors.")] = 500,
    swaps: Swaps = None,
    other: Other = None,
    other_data: OtherData = None,
    other_null_label: OtherNullLabel = None,
    other_classes: OtherClasses = None,
    null_label: NullLabel = None,
    variant: Variant = None,
    value_range: ValueRangeText = "auto",
    device: StudyDevice = "cpu",
    workers: Workers = None,
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Study a model's codes: each map between images and noise against exact optimal transport, and swapped codes.

    DIR gets report.json, a page, plots, pictures and the codes. Pieces are kept in DIR.work: an interrupted run
    continues from there when it is started again. Delete that folder when you are done.
    """
    # (An interrupted run leaves its pieces, so `out` is not said to be all there is.)
    read = (model, data, atoms, other, other_data)
    with session(verbose, debug), output_dir(out, overwrite, read) as folder:
        given = _Given(
            model, data, classes, atoms, null_label, other, other_data, other_classes, other_null_label, device, variant
        )  # fmt: skip
        started = time.perf_counter()
        given.check()
        with progress_bar("loading") as bar:
            from otprior_studies.codes.run import run_code_study
            from otprior_studies.codes.study import check_subject

            # (The work's threads are those of each process; this one takes what it is left.)
            count = workers or default_workers(set_up_torch(threads, device))
            subject = given.read(parse_value_range(value_range), seed, FAST_ATOMS if fast else None)
            study = _study(
                subject, fast, images=images, subset=subset, probed=probed, swaps=swaps, method=method, steps=steps,
                conditional=conditional, timestep=timestep, seed=seed,
            )  # fmt: skip
            check_subject(study, subject)
            with work_folder(out) as work:
                result = run_code_study(study, subject, work, workers=count, listen=follow(bar))
            report = _report(result, study, model, given.images, time.perf_counter() - started)
            _write(folder, report, result)
    _print(report, out)


@dataclass(frozen=True)
class _Given:
    """Networks and images as they are named on the command line."""

    model: str
    data: str | None
    classes: str | None
    atoms: str | None
    null_label: int | None
    other: str | None
    other_data: str | None
    other_classes: str | None
    other_null_label: int | None
    device: str
    variant: str | None

    @property
    def images(self) -> str:
        """The name of the images; a bundled model may leave it out."""
        return self.data or BUNDLED

    def check(self) -> None:
        """Refuses paths at which there is nothing, and options without the one that they belong to."""
        check_model(self.model)
        given = self.data is not None or self.model == BUNDLED
        require(given, "DATA", f"given, unless the model is '{BUNDLED}'", "nothing")
        check_data(self.images)
        if self.other is not None:
            check_model(self.other)
        for name in ("other_data", "other_classes", "other_null_label"):
            value, option = getattr(self, name), f"--{name.replace('_', '-')}"
            require(value is None or self.other is not None, option, "left out without --other", value)
        for option, path in (("--atoms", self.atoms), ("--other-data", self.other_data)):
            if path is not None:
                check_data(path, option)

    def read(self, pixels: Any, seed: int, atoms: int | None) -> CodeSubject:
        """The networks and images; the first so many images for the fast priors."""
        from otprior_studies.codes.study import CodeSubject

        network, shape = _network(self.model, self.variant, self.null_label)
        source = _Source(shape, pixels, seed)
        images = source.read(self.images, self.classes)
        fitted = images
        if self.atoms is not None:
            fitted = load_data(self.atoms, shape, pixels)
        elif self.images == BUNDLED:
            fitted = source.read(BUNDLED, self.classes, split="atoms")
        subject = CodeSubject(Path(self.model).name, network, images, fitted.select(slice(0, atoms)))
        subject = replace(subject, network=replace(network, device=self.device))
        if self.other is None:
            return subject
        others = source.read(self.other_data or self.images, self.other_classes, "--other-classes")
        other, _ = _network(self.other, self.variant, self.other_null_label, shape, "--other-null-label")
        return replace(subject, other=replace(other, device=self.device), other_images=others)


def _network(
    name: str,
    variant: str | None,
    null_label: int | None,
    shape: tuple[int, int, int] | None = None,
    option: str = "--null-label",
) -> tuple[Network, Any]:
    """A network and the shape of its images; it is loaded here to find out whether it can be."""
    from otprior.diffusion.codes import ImageCoder
    from otprior.sampling.inputs import latent_shape, num_classes, takes_labels
    from otprior_studies.codes.study import Network

    pipe: Any = load_model(name, null_label=null_label, variant=variant)
    # (That refuses a process which has no codes.)
    ImageCoder(pipe.unet, pipe.scheduler)
    found = latent_shape(pipe.unet)
    require(shape is None or found in (None, shape), f"images of {name}", f"of shape {shape}", found)
    folder = find_model(name, variant).resolve()
    if not takes_labels(pipe.unet):
        return Network(folder, variant=variant), found
    label = pipe.config.null_class_label
    if label is None:
        rule = f"given: {name} takes class labels, and does not say which means none"
        raise invalid(option, rule, None)
    count = num_classes(pipe.unet)
    # The label for no class is the last one, or it is not known how many classes there are.
    return Network(folder, label, label if count == label + 1 else 0, variant=variant), found


@dataclass(frozen=True)
class _Source:
    """Reads images of a shape and range of pixels, and puts them in a random order."""

    shape: Any
    pixels: Any
    seed: int

    def read(
        self, name: str, classes: str | None, option: str = "--classes", split: str = "held_out"
    ) -> ImageSet:
        """The images of these classes, or of all; `split` is what "bundled" stands for."""
        import torch

        images = load_data(name, self.shape, self.pixels, bundled_split=split)
        # (Folders come sorted by class; the first so many are to be of all.)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        images = images.select(order)
        if classes is None:
            return images
        if images.labels is None:
            raise invalid(option, "left out: the images have no labels", classes)
        wanted = torch.tensor(parse_labels(classes, option))
        missing = wanted[~torch.isin(wanted, images.labels)].tolist()
        few = ", ".join(map(str, missing[:SHOWN_MISSING])) + (", …" if len(missing) > SHOWN_MISSING else "")
        got = f"{classes}, of which no image has {few}"
        require(not missing, option, "labels that some image has", got)
        return images.select(torch.nonzero(torch.isin(images.labels, wanted)).reshape(-1))


def _study(subject: CodeSubject, fast: bool, **given: Any) -> CodeStudy:
    from otprior.cli.encode import check_heeded
    from otprior.diffusion.codes import Encoder
    from otprior_studies.codes.study import CodeStudy

    own: dict[str, Any] = dict(FAST) if fast else {}
    encoder: dict[str, Any] = dict(FAST_ENCODER) if fast else {"method": "rk4", "steps": 12}
    method, steps = given.pop("method"), given.pop("steps")
    encoder |= {} if method is None else {"method": method.value}
    if steps is not None:
        check_heeded(encoder["method"], {"steps": steps})
        encoder["steps"] = steps
    count = given["images"] or own.get("images", CodeStudy.images)
    wished = own.get("swaps", CodeStudy.swaps) * (1 if subject.other is None else BETWEEN_NETWORKS)
    own["swaps"] = min(wished, _possible_swaps(subject, count))
    t = given["timestep"]
    given["timestep"] = int(t) if t.is_integer() else t
    own |= {name: value for name, value in given.items() if value is not None}
    return CodeStudy(encoder=Encoder(**encoder), **own)


def _possible_swaps(subject: CodeSubject, count: int) -> int:
    """The most images of each kind that can be swapped, among the first `count`."""
    import torch

    if subject.other is not None:
        assert subject.other_images is not None
        return min(count, len(subject.other_images))
    labels, classes = subject.images.labels, subject.network.classes
    if labels is None or classes < 2:
        return 0
    return int(torch.bincount(labels[:count], minlength=classes)[:classes].min())


def _report(result: CodeResult, study: CodeStudy, model: str, data: str, seconds: float) -> CodesReport:
    from otprior.cli.report_parts import provenance
    from otprior_studies.codes.record import CodesReport

    found = {"codes": result.part, "timings": {"seconds_of_the_last_run": seconds}}
    return CodesReport.from_json(found | provenance({"model": model, "data": data} | asdict(study)))


def _write(folder: Path, report: CodesReport, result: CodeResult) -> None:
    from otprior_studies.codes.page import write_codes_report

    result.codes.save(folder / "codes.safetensors")
    write_codes_report(folder, report, result.swaps, result.beside)


def _print(report: CodesReport, out: Path) -> None:
    from otprior_studies.codes.page import codes_tables
    from otprior_studies.codes.text import codes_summary

    console = stdout()
    for table in codes_tables(report.codes):
        console.print(table.for_terminal())
    say(*codes_summary(report.codes), f"report: {out / 'report.html'}")
