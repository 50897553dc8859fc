"""The frontier: each prior at each number of evaluations; how many atoms, which atoms, and none from data.

t* of each prior, and how much of a coupled start's noise is drawn anew, are chosen on validation images under the
copying rule, for each number of evaluations and set of atoms apart; the sampler from t* is UniPC, evenly in log-SNR.
For N(0, I) at T, solver and spacing are chosen.

- "": each prior at 1 to 20 evaluations, with the images after which its fitting has paid for itself.
- "atoms", "unseen", "model": the coupled start on other sets of atoms; see `comparisons.atom_sets`.
"""

from __future__ import annotations

from collections.abc import Sequence

from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.study import Part, Request
from otprior.report import Curves, ReportRow
from otprior.report.rows import ends, evaluations, family
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior_studies.comparisons import FrontierSettings
from otprior_studies.comparisons.atom_sets import check_training, model_atoms, numbers_of_atoms, unseen
from otprior_studies.comparisons.candidates import (
    FULL_SAMPLER,
    LAST,
    MIXTURE_STARTS,
    RANDOM_STARTS,
    UNIPC,
    Solver,
    at_each,
    best_coupled,
    best_spacings,
)
from otprior_studies.comparisons.stages import Stages

EVALUATIONS = (1, 2, 3, 4, 5, 8, 10, 20)
# A start with as many evaluations as N(0, I) needs would be put first by its FID alone.
HEADLINE = 5
SPACINGS = ("trailing", "karras", OWN_GRID + "time", OWN_GRID + "log_snr")
WHITE = (Solver("DPM++2M", "DPMSolverMultistepScheduler", SPACINGS), Solver("UniPC", UNIPC, SPACINGS))
# The other priors, with their options, and where each is looked for: up to where it is worse again, or to the end.
STARTS: dict[str, tuple[str, dict[str, str], tuple[int, ...]]] = {
    "frozen (DPM-OT's map)": ("semidiscrete", {"noise": "frozen"}, (250, 350, 425, 500, 600)),
    "gaussian": ("gaussian", {}, (400, 500, 600, 700, 800, 900)),
    "mixture": ("mixture", {}, MIXTURE_STARTS),
    "identity": ("identity", {}, (600, 700, 800, 900, 950)),
    "random image + fresh noise": ("random_atom", {}, RANDOM_STARTS),
}


def run(request: Request) -> dict[str, Part]:
    """The four comparisons.

    Raises:
        ValueError: If the file of training images does not hold enough, or others than the network's.
    """
    settings: FrontierSettings = request.settings
    stages, training = Stages.of(request), settings.training
    if training:
        check_training(stages, training)
    return {
        "": _evaluations(stages),
        "atoms": numbers_of_atoms(stages, training),
        "unseen": unseen(stages),
        "model": model_atoms(stages, training),
    }


def _evaluations(stages: Stages) -> ComparisonResult:
    white = best_spacings(stages, WHITE, EVALUATIONS, stages.share(0.25))
    starts: list[StartSpec] = []
    for nfe in EVALUATIONS:
        plain = StartSpec("none", LAST, nfe, UNIPC, OWN_GRID + "log_snr")
        starts += [white[solver.name, nfe] for solver in WHITE]
        starts.append(best_coupled(stages, nfe))
        for name, (prior, options, timesteps) in STARTS.items():
            candidates = at_each(plain.with_prior(prior, **options), name, timesteps)
            starts.append(stages.best(f"choosing {nfe} {options.get('noise', prior)}", candidates))
    result = stages.run("evaluations", [*starts, FULL_SAMPLER], flow=FULL_SAMPLER)
    rows = result.report.rows
    return result.with_report(
        rows=[row.replace(break_even=break_even(row, rows, stages.workers)) for row in rows],
        headline_nfe=HEADLINE,
        curves=_curves([row for row in rows if evaluations(row) <= max(EVALUATIONS)]),
    )


def break_even(row: ReportRow, rows: Sequence[ReportRow], workers: int = 1) -> float | None:
    """Images after which the time that the prior took ("fit_seconds") is saved, or None if none is ever saved.

    Against the N(0, I) row that takes least time among those of FID no higher than the row's; if there is none, among
    those that cannot be told from the best of them (whose intervals overlap), which are all worse than the row.

    Arguments:
        row: The prior's row.
        rows: All rows of the report.
        workers: Processes that sampled at the same time: each image took its seconds in one of them.
    """
    white = [other for other in rows if other.prior == "none"]
    if row.fit_seconds is None or not white:
        return None
    best = min(white, key=lambda other: other.measured("fid"))
    rivals = [other for other in white if other.measured("fid") <= row.measured("fid")]
    rivals = rivals or [other for other in white if _overlap(other, best)]
    saved = min(other.measured("seconds_per_image") for other in rivals) - row.measured("seconds_per_image")
    return row.fit_seconds * workers / saved if saved > 0 else None


def _overlap(row: ReportRow, best: ReportRow) -> bool:
    """Whether the interval of a row's FID reaches down to that of the best one."""
    mine, other = ends(row, "fid"), ends(best, "fid")
    assert mine is not None
    assert other is not None
    return mine[0] <= other[1]


def _curves(rows: Sequence[ReportRow]) -> list[Curves]:
    """What the plots of quality leave out, by kind of start."""
    families = list(dict.fromkeys(family(row) for row in rows))

    def curves(name: str, title: str, y: str, key: str) -> Curves:
        def points(kind: str) -> list[tuple[float, float]]:
            of_kind = [row for row in rows if family(row) == kind]
            best = {evaluations(row): row for row in sorted(of_kind, key=lambda row: -row.measured("fid"))}
            return [(nfe, best[nfe].measured(key)) for nfe in sorted(best)]

        series = {kind: points(kind) for kind in families}
        x = "network evaluations an image (NFE)"
        values = {"name": name, "title": title, "x": x, "y": y, "series": series, "log": "x", "points": False}
        return Curves.from_json(values)

    full = "share of seeds with the full flow's class"
    return [
        curves("agreement", "The seed's own image", full, "seed_agreement"),
        curves("recall", "Recall", "share of real images", "recall"),
        curves("coverage", "Coverage", "share of real images", "coverage"),
    ]
