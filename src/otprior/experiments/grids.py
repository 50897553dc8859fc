"""Fitting the grid of a start in a comparison's work folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from otprior.experiments.comparison import Comparison
from otprior.experiments.inputs import Inputs
from otprior.experiments.sampling import build_pipeline
from otprior.experiments.study import Listener, StageProgress
from otprior.sampling import StartSpec, fit_grid
from otprior.sampling.start_spec import FITTED
from otprior.utils.files import read_json, write_json

# Images that a grid is fitted to.
STARTS = 128


def with_fitted_grid(
    comparison: Comparison, start: StartSpec, work: Path, priors: Path, listen: Listener, starts: int = STARTS
) -> StartSpec:
    """The start on a grid that is fitted to it, or that was found in the work folder.

    Arguments:
        comparison: Whose network samples.
        start: Its grid is replaced.
        work: Folder of pieces.
        priors: The folder of fitted priors.
        listen: Called as work proceeds.
        starts: Seeds that the grid is fitted to.
    """
    path = work / "grids" / f"{start.key}.json"
    if not path.exists():
        models = Inputs.of(comparison).models(
            priors, comparison.precision, start.conditional, comparison.device
        )
        pipe, _ = build_pipeline(models, start)
        labels = models.classes if start.conditional and models.classes else None
        about = starts * (2 * 64 + 40 * start.evaluations)

        def told(evaluations: int) -> None:
            listen(StageProgress("fitting a grid", min(evaluations, about), about))

        found = fit_grid(
            pipe.unet,
            pipe.prior,
            start.steps,
            pipe.scheduler,
            starts=starts,
            null_class_label=pipe.config.null_class_label,
            class_labels=labels,
            guidance_scale=start.guidance,
            listen=told,
        )
        write_json(path, {"timesteps": found.timesteps, "distance": found.distance})
    return replace(start, spacing=FITTED, grid=tuple(read_json(path)["timesteps"]))
