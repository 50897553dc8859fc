"""The claim at full size: paired sets of seeds of the coupled start and of the best of N(0, I)."""

from __future__ import annotations

from otprior.experiments.chosen import chosen_starts
from otprior.experiments.comparison import Comparison
from otprior.experiments.gates import headline_gates
from otprior.experiments.run import run_comparison
from otprior.experiments.study import Part, Request
from otprior_studies.comparisons import HeadlineSettings
from otprior_studies.comparisons.stages import Stages


def run(request: Request) -> dict[str, Part]:
    """The comparison: one report."""
    settings: HeadlineSettings = request.settings
    Stages.of(request).check_samples(request.samples)
    chosen = chosen_starts()
    comparison = Comparison(
        "headline",
        tuple(chosen[name] for name in ("coupled_5", "coupled_3", "none_10", "none_20")),
        request.samples,
        settings.seed_sets,
        precision=settings.precision,
        block=500,
        device=request.device,
    )
    # (Its pieces are in the work folder itself: it is the only stage.)
    result = run_comparison(comparison, request.work, workers=request.workers, listen=request.listen)
    return {"": result.with_report(gates=headline_gates(result, chosen))}
