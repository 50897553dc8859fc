"""Which start is right when the network is good? Starts compared on networks whose errors are known.

A mixture of low-rank Gaussians is fitted to the bundled images, or to others (`MixturePrior.fit`), with equal weights.
Atoms, held-out, validation and reference images are drawn from it, and the network is its exact denoiser
(`MixtureNetwork`): only the start and the steps can be wrong. (Images are kept as 8-bit pixels, as samples are, so that
values beyond black and white are clipped alike in all of them.)

- "": each start at 1 to 20 evaluations, with the solver, t* and grid that are best on the validation images, and
  once more on the grid that is fitted to it (`fit_grid`). N(0, I) has every stock spacing, our grids and its fitted
  grid, too.
- "errors": the starts at 5 evaluations, on networks with a fixed smooth error of growing size: where coupled and fresh
  noise cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import diffusers
import numpy as np

from otprior.data import bundled
from otprior.data.images import to_uint8
from otprior.data.streams import load_images
from otprior.diffusion.mixture_network import MixtureNetwork
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.comparison import BUNDLED, ComparisonResult
from otprior.experiments.grids import with_fitted_grid
from otprior.experiments.study import Part, Request, StageProgress
from otprior.priors import MixturePrior
from otprior.report import Curves, ReportRow
from otprior.sampling import OTPriorPipeline
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior.utils.arrays import write_arrays
from otprior.utils.random import stream_generator
from otprior_studies.comparisons import PerfectSettings
from otprior_studies.comparisons.candidates import DPM_SOLVER, LAST, UNIPC, UNIPC_SOLVER, best_spacings
from otprior_studies.comparisons.stages import Stages, Subject

EVALUATIONS = (1, 2, 3, 4, 5, 7, 8, 10, 20)
HEADLINE = 5
SOLVERS = (UNIPC_SOLVER, DPM_SOLVER)
SPACINGS = ("karras", OWN_GRID + "log_snr")
# Each start, its options and where it is looked for.
STARTS: dict[str, tuple[str, dict[str, str], tuple[int, ...]]] = {
    "coupled": ("semidiscrete", {}, (300, 400, 525, 650, 800)),
    "whitened": ("semidiscrete", {"noise": "whitened"}, (300, 400, 525, 650, 800)),
    "fresh": ("semidiscrete", {"noise": "fresh"}, (300, 400, 525, 650, 800)),
    "gaussian": ("gaussian", {}, (525, 600, 700, 800)),
    "mixture": ("mixture", {}, (200, 300, 400, 525, 650)),
    "mixture whitened": ("mixture", {"noise": "whitened"}, (200, 300, 400, 525, 650)),
    "mixture fresh": ("mixture", {"noise": "fresh"}, (200, 300, 400, 525, 650)),
}
# Sizes of the error, in units of a pixel's range of [-1, 1]; and the starts that it is tried on.
ERRORS = (0.0, 0.1, 0.2, 0.4, 0.8)
WITH_ERRORS = ("coupled", "whitened", "fresh")
ERRORS_FROM = 525
# Of the law: images of a component, and axes of it; how many images of each kind are drawn.
IMAGES_PER_COMPONENT, RANK = 32, 10
DRAWN = {"atoms": 10_000, "validation": 2000, "held_out": 4000, "reference": 6000}
REHEARSED = {"atoms": 100, "validation": 60, "held_out": 60, "reference": 60}
BLOCK = 500
STARTS_FITTED_TO = 128


def run(request: Request) -> dict[str, Part]:
    """Both reports."""
    settings: PerfectSettings = request.settings
    stages = replace(Stages.of(request), subject=Subject(extractor=settings.extractor or BUNDLED))
    law = _law(stages, settings.training)
    exact = replace(stages, subject=_subject(stages, law, 0.0))
    flow = StartSpec("none", LAST, 10 if stages.rehearsal else 50, UNIPC, "trailing", "full sampler, UniPC")
    return {"": _evaluations(exact, flow), "errors": _errors(stages, law, flow)}


def _evaluations(stages: Stages, flow: StartSpec) -> ComparisonResult:
    evaluations = (HEADLINE,) if stages.rehearsal else EVALUATIONS
    solvers = SOLVERS[:1] if stages.rehearsal else SOLVERS
    white = best_spacings(stages, solvers, evaluations, stages.share(0.25))
    starts: list[StartSpec] = []
    for nfe in evaluations:
        for solver in solvers:
            starts += _with_grid(stages, white[solver.name, nfe])
        for name in ("whitened", "fresh") if stages.rehearsal else STARTS:
            best = stages.best(f"choosing {nfe} {name}", candidates(name, nfe, stages.rehearsal))
            starts += _with_grid(stages, best)
    different = {start.key: start for start in starts}
    result = stages.run("evaluations", [*different.values(), flow], flow=flow)
    return result.with_report(headline_nfe=HEADLINE)


def candidates(name: str, nfe: int, rehearsal: bool = False) -> list[StartSpec]:
    """The settings at which a start is tried."""
    prior, options, timesteps = STARTS[name]
    found = []
    # (With one call all solvers and spacings are the same.)
    few = 1 if nfe == 1 or rehearsal else None
    for t, solver, spacing in product(
        timesteps[1:2] if rehearsal else timesteps, SOLVERS[:few], SPACINGS[:few]
    ):
        label = f"{name}, t* = {t}, {solver.name}, {spacing}, {nfe}"
        settings = (prior, t, nfe, solver.scheduler, spacing, label)
        found.append(StartSpec(*settings, options=tuple(options.items())))
    return found


def _with_grid(stages: Stages, start: StartSpec) -> list[StartSpec]:
    """The start, and the same on its fitted grid."""
    if start.steps == 1:
        return [start]
    # (A stage fits the priors that its starts need; this one has been run on them.)
    stage = stages.comparison("inputs", [start])
    work, priors = stages.work / "grids", stages.priors(stage)
    seeds = 8 if stages.rehearsal else STARTS_FITTED_TO
    fitted = with_fitted_grid(stage, start, work, priors, stages.options(stage)["listen"], seeds)
    return [start, replace(fitted, label=f"{start.label.rsplit(', ', 2)[0]}, fitted grid, {start.steps}")]


def _errors(stages: Stages, law: MixtureNetwork, flow: StartSpec) -> ComparisonResult:
    """One report of all sizes of error, with curves."""
    results = []
    for error in ERRORS[:2] if stages.rehearsal else ERRORS:
        wrong = replace(stages, subject=_subject(stages, law, error))
        starts = [
            replace(
                each,
                start_timestep=ERRORS_FROM,
                label=f"error {error:g}: {name}, t* = {ERRORS_FROM}, {HEADLINE}",
            )
            for name in WITH_ERRORS[:: 2 if stages.rehearsal else 1]
            for each in candidates(name, HEADLINE)[:1]
        ]
        plain = StartSpec("none", LAST, 20, UNIPC, OWN_GRID + "log_snr", f"error {error:g}: N(0, I), 20")
        full = replace(flow, label=f"error {error:g}: full sampler")
        results.append(wrong.run(f"error {error:g}", [*starts, plain, full]))
    rows = [row for result in results for row in result.report.rows]
    report = results[0].report.replace(rows=rows, curves=[_curve(rows)])
    return ComparisonResult(report, [image for result in results for image in result.images], {})


def _curve(rows: Sequence[ReportRow]) -> Curves:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        error, what = (row.label or "").removeprefix("error ").split(": ", 1)
        series.setdefault(what, []).append((float(error), row.measured("excess_fid")))
    title, x = "Starts on networks with an error", "size of the network's error, a pixel"
    return Curves.build(
        name="errors", title=title, x=x, y="FID above the floor", series=series, log="", points=False
    )


# The law, its images and its networks ------------------------------------------------------------------------


def _law(stages: Stages, training: str) -> MixtureNetwork:
    """The exact network of the mixture that is fitted to these images, or the bundled ones, kept in the work folder."""
    folder = stages.work / "law"
    scheduler = bundled.load_scheduler()
    if not folder.exists():
        stages.listen(StageProgress("fitting the law", 0, 1))
        images = load_images(training) if training else bundled.atoms()
        if stages.rehearsal:
            images = images.select(slice(200))
        count = len(images) // IMAGES_PER_COMPONENT
        # (Only the clusters matter; the transport to their means need not be exact.)
        fitted = MixturePrior.fit(images, scheduler, components=count, rank=RANK, tol=0.5, throw=False)
        parts = (fitted.means, fitted.bases, fitted.variances, fitted.residuals)
        shape = (int(fitted.shape[0]), int(fitted.shape[1]), int(fitted.shape[2]))
        network = MixtureNetwork.of(shape, NoiseSchedule.from_scheduler(scheduler), *parts)
        network.save_pretrained(folder)
    return MixtureNetwork.from_pretrained(folder).eval()


def _subject(stages: Stages, law: MixtureNetwork, error: float) -> Subject:
    """The files of a network with this error, and the images of the law, unless they are there."""
    sizes = REHEARSED if stages.rehearsal else DRAWN
    paths = {name: stages.work / "images-of-the-law" / f"{name}.npz" for name in sizes}
    for name, path in paths.items():
        if not path.exists():
            write_arrays(path, {"images": _draw(law, name, sizes[name])}, compressed=True)
    model = stages.work / "networks" / f"error-{error:g}"
    if not model.exists():
        config = {**law.config, "error": error}
        network = MixtureNetwork(**{k: v for k, v in config.items() if not k.startswith("_")})
        network.load_state_dict(law.state_dict())
        known: Any = bundled.load_scheduler()
        scheduler = diffusers.DPMSolverMultistepScheduler.from_config(known.config)
        pipe: Any = OTPriorPipeline(network.eval(), scheduler)
        pipe.save_pretrained(model)
    names = {name: str(path) for name, path in paths.items()}
    return replace(stages.subject, model=str(model), **names)


def _draw(law: MixtureNetwork, name: str, count: int) -> np.ndarray:
    """Pixels (count, C, H, W), uint8."""
    parts = []
    for first in range(0, count, BLOCK):
        generator = stream_generator(0, f"images of the law, {name}", first // BLOCK)
        parts.append(to_uint8(law.draw(min(BLOCK, count - first), generator)))
    return np.concatenate(parts)
