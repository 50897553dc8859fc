"""`otprior compare`: compare starts on the same seeds."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.options import (
    Convert,
    Crop,
    Debug,
    Device,
    Extractor,
    Guidance,
    NegativePrompt,
    NullLabel,
    OptionalData,
    Out,
    Overwrite,
    Prompt,
    Resize,
    ValueRangeText,
    Variant,
    Verbose,
    parse_pictures,
    parse_value_range,
)
from otprior.cli.prior_options import prior_names
from otprior.cli.session import session
from otprior.cli.studies import Compile, Workers, print_reports, run_parts, run_study
from otprior.cli.user_inputs import Conditional, Limit, UserInputs, split_name
from otprior.utils.files import output_dir
from otprior.utils.validation import require

if TYPE_CHECKING:
    from otprior.cli.studies import Reports

EXAMPLES = (
    "otprior compare bundled bundled --starts none@20,gaussian@5,mixture@5,semidiscrete@5 --out compared",
    "otprior compare path/to/ddpm path/to/train.npz --starts tuned/settings.json,none@20 "
    "--reference path/to/test.npz --held-out path/to/val.npz --extractor path/to/classifier --out compared",
    "otprior compare --preset headline --samples 500 --seed-sets 3 --out rehearsal",
    "otprior compare --preset baselines --out baselines",
)

OptionalModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A diffusers folder, 'owner/name' of the Hugging Face hub, 'bundled' or 'bundled-by-class'.",
    ),
]
Starts = Annotated[
    str | None,
    typer.Option(
        "--starts",
        metavar="START,...",
        help="Starts to compare, each NAME[:OPTION=VALUE...]@STEPS. NAME is none (white noise at T) or a prior: "
        f"{prior_names()}. OPTION is one of the prior's, t for t*, by default where the prior is usually best, "
        "scheduler (dpm++2m, unipc, …) or spacing (karras, grid:log_snr, …). A settings.json of tune stands for "
        "the starts in it.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A comparison on the bundled network instead. headline: the coupled start against the best of N(0, I). "
        "baselines: against all that could explain it away. conditional: by class, with guidance. better-priors: "
        "experiments. frontier: every number of evaluations, and of atoms. perfect: networks whose errors are known.",
        show_default="headline, if no starts are given",
    ),
]
ReferenceData = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="DATA",
        help="Real images that quality is measured against.",
        show_default="the bundled ones",
    ),
]
HeldOut = Annotated[
    str | None,
    typer.Option(
        "--held-out",
        metavar="DATA",
        help="Real images that nothing was fitted to: the floor of every figure.",
        show_default="the bundled ones",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        min=12,
        help="Images of a start in one set of seeds. Fewer than 250 are a rehearsal.",
        show_default="4,000 for the headline, else 2,000",
    ),
]
SeedSets = Annotated[
    int | None,
    typer.Option(
        "--seed-sets",
        min=1,
        help="Sets of seeds: with two or more, intervals are over them.",
        show_default="5 for the headline, else 1",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        "--dtype",
        metavar="float32|bfloat16",
        help="Precision of the network.",
        show_default="float32; in presets but the headline what is faster here",
    ),
]
Full = Annotated[
    bool, typer.Option("--full", help="Presets: 5 sets of 4,000 in float32, and the parts that take hours.")
]
Training = Annotated[
    Path | None,
    typer.Option(
        "--training",
        metavar="DATA",
        help="Presets: 60,000 training images, for the frontier's largest numbers of atoms; or the images that the "
        "perfect network's law is fitted to, with their --extractor.",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tol", help="χ² that the solve of a transport has to reach, as for fit.", show_default="0.05"
    ),
]


def compare(
    model: OptionalModel = None,
    data: OptionalData = None,
    starts: Starts = None,
    preset: Preset = None,
    out: Out = Path("compare-report"),
    reference: ReferenceData = None,
    held_out: HeldOut = None,
    extractor: Extractor = None,
    samples: Samples = None,
    seed_sets: SeedSets = None,
    limit: Limit = None,
    tol: Tolerance = None,
    precision: Precision = None,
    full: Full = False,
    training: Training = None,
    conditional: Conditional = False,
    null_label: NullLabel = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance_scale: Guidance = None,
    resize: Resize = None,
    crop: Crop = None,
    convert: Convert = None,
    value_range: ValueRangeText = "auto",
    variant: Variant = None,
    device: Device = "cpu",
    workers: Workers = None,
    compiled: Compile = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare starts on the same seeds: quality, copying and their intervals.

    Give MODEL, DATA and --starts, or a --preset. An interrupted run continues from DIR.work; delete it when done.
    """
    read = (model, data, reference, held_out, extractor, training)
    # (An interrupted run leaves its pieces, so `out` is not said to be all there is.)
    with session(verbose, debug), output_dir(out, overwrite, read) as folder:
        run: Any = {"folder": folder, "out": out, "workers": workers, "compiled": compiled, "device": device}
        own = {"MODEL": model, "DATA": data, "--starts": starts}
        of_starts = {"--reference": reference, "--held-out": held_out, "--limit": limit, "--tol": tol,
            "--resize": resize, "--crop": crop, "--convert": convert, "--prompt": prompt,
            "--negative-prompt": negative_prompt, "--guidance-scale": guidance_scale, "--null-label": null_label,
            "--conditional": conditional, "--variant": variant}  # fmt: skip
        if not any(own.values()):
            _refuse(of_starts, "left out without --starts")
            more = {"precision": precision, "training": training, "extractor": extractor}
            reports = _run_preset(preset or "headline", samples, full, run, seed_sets=seed_sets, **more)
        else:
            _refuse({"--preset": preset, "--full": full, "--training": training}, "left out with --starts")
            _require_all(own)
            inputs = UserInputs(
                str(model), str(data), extractor, null_label, parse_value_range(value_range), limit,
                0.05 if tol is None else tol, precision or "float32", parse_pictures(resize, crop, convert),
                tuple(prompt or ()), negative_prompt, guidance_scale, device, variant, conditional,
            )  # fmt: skip
            reports = _run_starts(inputs, str(starts), reference, held_out, samples, seed_sets, **run)
    print_reports(reports, out)


def _require_all(given: dict[str, Any]) -> None:
    missing = [name for name, value in given.items() if value is None]
    require(not missing, "MODEL, DATA and --starts", "given together", f"no {' and no '.join(missing)}")


def _refuse(given: dict[str, Any], rule: str) -> None:
    for name, value in given.items():
        require(value is None or value is False, name, rule, value)


def _run_preset(name: str, samples: int | None, full: bool, run: dict[str, Any], **settings: Any) -> Reports:
    from otprior.experiments.study import find_study

    study = find_study(name, "--preset")
    given = {key: str(value) for key, value in settings.items() if value is not None}
    known = {entry.name for entry in fields(study.settings)}
    for key in sorted(given.keys() - known):
        rule = f"left out: {name} has no such setting"
        require(False, f"--{key.replace('_', '-')}", rule, given[key])
    return run_study(study, size="full" if full else "usual", samples=samples, settings=given, **run)


def _run_starts(
    inputs: UserInputs,
    text: str,
    reference: str | None,
    held_out: str | None,
    samples: int | None,
    seed_sets: int | None,
    **run: Any,
) -> Reports:
    from otprior.experiments.inputs import Inputs
    from otprior.experiments.run import run_comparison
    from otprior.experiments.starts import read_starts
    from otprior.sampling.start_spec import StartSpec

    inputs.check(reference=reference, held_out=held_out)
    splits = split_name(reference, "reference"), split_name(held_out, "held_out")
    # (The starts depend on the model's scheduler.)
    size = (samples or 2000, *splits, seed_sets or 1)
    comparison = inputs.comparison("compare", (StartSpec("none", 0, 1),), *size)
    starts = read_starts(text, Inputs.of(comparison).scheduler)
    comparison = inputs.comparison("compare", starts, *size)

    def work(folder: Path, workers: int, listen: Any) -> dict[str, Any]:
        Inputs.of(comparison).check_disjoint(*splits)
        return {"": run_comparison(comparison, folder, workers=workers, listen=listen)}

    return run_parts(work, **run)
