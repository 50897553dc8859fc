"""Choosing prior, t*, noise, smoothing, scheduler and grid on validation images: the best quality that does not copy.

Successive halving: every candidate is sampled on a few seeds, the better part of them on more, and so on. The seeds of
a rung begin with those of the rung before, so images that a candidate has already are used again. The goal is the
lowest FID among candidates that pass the copying rule: at 95 % confidence they copy no more than the limit allows
(`CopyLimit`; by default the validation images' own rate). On few images no candidate can pass. So half of the places on
the next rung go to the candidates of lowest FID that will probably pass, the other half to those of lowest FID that
still may. A second search follows in the neighbourhood of the winner. Last, candidates that were dropped in favour of
others that then failed, and candidates that may be better than the one that passed, are tried on all of the seeds.

References:
    Jamieson & Talwalkar, Non-stochastic best arm identification and hyperparameter optimization (2016),
    arXiv:1502.07943.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from otprior.experiments.candidates import (
    PRIORS,
    at_every_other,
    candidates,
    family,
    labelled,
    neighbours,
    of_families,
)
from otprior.experiments.comparison import Comparison
from otprior.experiments.gates import CopyLimit
from otprior.experiments.grids import with_fitted_grid
from otprior.experiments.inputs import Inputs
from otprior.experiments.measuring import real_figures
from otprior.experiments.own_sampler import OwnSampler, beside, usual_scheduler
from otprior.experiments.run import claim_work, run_comparison
from otprior.experiments.sampling import BATCH
from otprior.experiments.study import ignore
from otprior.report import ReportRow
from otprior.sampling.start_spec import StartSpec
from otprior.utils.validation import check_integer, require

logger = logging.getLogger(__name__)

# Far from the seeds of any report.
FIRST_SEED = 1_300_000_000
# Candidates on the second rung of the two searches; and families of starts that the first rung tries at every t*.
FIRST_KEPT, FINER_KEPT, FAMILIES = 8, 4, 4
# How many more are tried on all of the seeds if none of the last rung passes; and how many once one has.
MOST_TURNS = 6
CLEARLY_LESS = 0.85
# Chances of passing the copying rule in the end: probably, and not yet ruled out.
PROBABLY, POSSIBLY = 0.5, 0.05


@dataclass(frozen=True)
class Trial:
    """A candidate on so many seeds, with its figures in the report."""

    start: StartSpec
    samples: int
    figures: ReportRow = field(repr=False)

    @property
    def fid(self) -> float:
        """FID against the validation images."""
        return self.figures.measured("fid")

    @property
    def copy_rate(self) -> float:
        """Share of samples that count as copies."""
        return self.figures.measured("copy_rate")

    @property
    def source_rate(self) -> float:
        """Share of samples whose nearest atom is their own; 0 for starts that are built on none."""
        return self.figures.source_rate or 0.0


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        best: The chosen candidate on the most seeds, or None if none passed.
        trials: Everything that was tried, in order.
        limit: The copying rule.
        evaluations: Network evaluations that the trials rest on.
        own_sampler: The network's own sampler beside the best (on the first rung's seeds if time was up), or None.
    """

    best: Trial | None
    trials: tuple[Trial, ...]
    limit: CopyLimit
    evaluations: int
    own_sampler: OwnSampler | None = None


def rungs(samples: int, shares: Sequence[float] = (1 / 8, 1 / 4, 1 / 2, 1)) -> tuple[int, list[int]]:
    """Block size, and the numbers of seeds of each rung, which are multiples of it but for the last."""
    check_integer("samples", samples, 12)
    # (Whole batches of `sample_block`, wherever there are enough.)
    block = BATCH if samples >= 4 * BATCH else max(12, samples // 8)
    sizes = [max(1, round(samples * share / block)) * block for share in shares if share < 1]
    return block, [*sorted({size for size in sizes if size < samples}), samples]


def survivors(trials: Sequence[Trial], keep: int, limit: CopyLimit, final: int) -> list[StartSpec]:
    """The candidates of the next rung, as the module says; at least one.

    Arguments:
        trials: The rung's.
        keep: How many go on.
        limit: The copying rule.
        final: Seeds of the last rung, on which the rule will be applied.
    """
    by_fid = sorted(trials, key=lambda trial: trial.fid)
    chances = {id(t): limit.chance(t.copy_rate, t.samples, final) for t in by_fid}
    probable = [t for t in by_fid if chances[id(t)] >= PROBABLY][: -(-keep // 2)]
    chosen = {id(t) for t in probable}
    possible = [t for t in by_fid if id(t) not in chosen and chances[id(t)] >= POSSIBLY]
    going = [*probable, *possible[: keep - len(probable)]]
    if not going:
        going = sorted(trials, key=lambda trial: trial.copy_rate)[:1]
    return [trial.start for trial in going]


def of_each_kind(trials: Sequence[Trial], limit: CopyLimit, final: int) -> list[Trial]:
    """The two trials of each family and spacing that would go on, so that one kind does not fill a rung.

    Few seeds tell neighbours in t* apart no better than kinds.

    Arguments: as of `survivors`.
    """
    kinds: dict[Any, list[Trial]] = {}
    for trial in trials:
        kinds.setdefault((family(trial.start), trial.start.spacing), []).append(trial)
    going = {start for group in kinds.values() for start in survivors(group, 2, limit, final)}
    return [trial for trial in trials if trial.start in going]


def best_of(trials: Sequence[Trial], limit: CopyLimit) -> Trial | None:
    """The lowest FID among the trials on most seeds that are allowed; None if none of those is."""
    most = max((trial.samples for trial in trials), default=0)
    last = [trial for trial in trials if trial.samples == most]
    allowed = [trial for trial in last if limit.allows(trial.copy_rate, most)]
    return min(allowed, key=lambda trial: trial.fid, default=None)


def runner_up(trials: Sequence[Trial], limit: CopyLimit, final: int) -> StartSpec | None:
    """The candidate to try next on `final` seeds: of those dropped latest, the best that may pass.

    None if no candidate can pass or one already has.

    Copying and the share of samples that keep their own atom rise and fall together. So a candidate that keeps it
    nearly as often as one that has failed is not tried.
    """
    if best_of(trials, limit) is not None:
        return None
    latest = on_most_seeds(trials)
    failed = [trial.source_rate for trial in latest.values() if trial.samples == final]
    waiting = [
        trial
        for trial in latest.values()
        if trial.samples < final and trial.source_rate < CLEARLY_LESS * min(failed, default=1.5)
    ]
    possible = [t for t in waiting if limit.chance(t.copy_rate, t.samples, final) >= POSSIBLY]
    if not possible:
        return None
    # (FIDs on different numbers of seeds do not compare.)
    most = max(trial.samples for trial in possible)
    return survivors([trial for trial in possible if trial.samples == most], 1, limit, final)[0]


def challenger(trials: Sequence[Trial], limit: CopyLimit, final: int) -> StartSpec | None:
    """A candidate not yet tried on `final` seeds that will probably pass, and may be better than the best that passed.

    Its FID is compared with the best's on as many seeds. None if no such FID is lower, or no candidate has passed.
    """
    best = best_of([trial for trial in trials if trial.samples == final], limit)
    if best is None:
        return None
    known = {trial.samples: trial.fid for trial in trials if trial.start == best.start}
    ahead = {
        trial.start: trial.fid - known[trial.samples]
        for trial in on_most_seeds(trials).values()
        if trial.samples < final
        and trial.samples in known
        and limit.chance(trial.copy_rate, trial.samples, final) >= PROBABLY
    }
    start = min(ahead, key=ahead.__getitem__, default=None)
    return start if start is not None and ahead[start] < 0 else None


def on_most_seeds(trials: Sequence[Trial]) -> dict[StartSpec, Trial]:
    """Each candidate's trial on the most seeds."""
    return {trial.start: trial for trial in sorted(trials, key=lambda trial: trial.samples)}


def own_limit(study: Comparison, work: Path, margin: float = 0.01) -> CopyLimit:
    """The default rule: as often as the comparison's real images, which nothing was fitted to.

    Raises:
        ValueError: If some of these are among the atoms, so that the rule would allow copies; or if `work` holds pieces
            of another comparison.
    """
    claim_work(work, study, growing=True)
    real = real_figures(study, work / "figures")
    inputs = Inputs.of(study)
    inputs.check_not_atoms(study.real_split)
    return CopyLimit(real.measured("copy_rate"), len(inputs.real), margin)


def halving(
    study: Comparison,
    starts: Sequence[StartSpec],
    work: Path,
    limit: CopyLimit,
    sizes: Sequence[int],
    keep: int,
    deadline: float = math.inf,
    **options: Any,
) -> list[Trial]:
    """Successive halving of `starts`: all trials, those of the last rung at the end.

    Arguments:
        study: The comparison; its starts and numbers of seeds are replaced.
        starts: The candidates.
        work: Folder of pieces, which searches of one comparison share.
        limit: The copying rule.
        sizes: Seeds of each rung.
        keep: Candidates on the second rung; half of them on the third, and so on.
        deadline: Time by `time.monotonic` after which no rung but the first is begun.
        options: As for `run_comparison`.
    """
    trials: list[Trial] = []
    going = list(starts)
    for number, size in enumerate(sizes):
        if number and time.monotonic() > deadline:
            logger.warning(
                "the time is up; %d candidates are judged on %d seeds", len(going), sizes[number - 1]
            )
            break
        rung = replace(study, starts=tuple(going), samples=size)
        result = run_comparison(rung, work, growing=True, **options)
        found = [Trial(start, size, figures) for start, figures in zip(going, result.report.rows)]
        trials += found
        going = survivors(found, max(1, keep >> number), limit, sizes[-1])
    return trials


def other_turns(
    study: Comparison,
    trials: Sequence[Trial],
    work: Path,
    limit: CopyLimit,
    size: int,
    deadline: float = math.inf,
    choose: Callable[[Sequence[Trial], CopyLimit, int], StartSpec | None] = runner_up,
    **options: Any,
) -> list[Trial]:
    """Further trials on all of the `size` seeds, one at a time, until no candidate remains.

    Arguments:
        trials: The trials so far.
        choose: Picks the next candidate: `runner_up` or `challenger`.
        deadline, options: As for `halving`.
    """
    every = list(trials)
    for _ in range(MOST_TURNS):
        start = choose(every, limit, size)
        if start is None or time.monotonic() > deadline:
            break
        every += halving(study, [start], work, limit, [size], 1, **options)
    return every[len(trials) :]


def tune(
    study: Comparison,
    work: str | Path,
    *,
    steps: int,
    priors: Sequence[str] = PRIORS,
    limit: CopyLimit | None = None,
    margin: float = 0.01,
    minutes: float = math.inf,
    **options: Any,
) -> Search:
    """Searches for the best start in `steps` steps under a copying limit; `best` is None if no candidate passed.

    Arguments:
        study: Network, images, and the number of seeds of the last rung (`samples`). Of its starts the first says with
            what guidance to sample, and whether by class; a search has its own, and its own first seed.
        work: Folder of pieces; an interrupted search goes on from it.
        steps: Steps of the sampler.
        priors: The kinds of prior that are tried.
        limit: The copying rule; by default the rate of the comparison's real images, with `margin`.
        minutes: No further rung is begun after so long; what is chosen then rests on fewer seeds.
        options: As for `run_comparison`: `workers`, `threads`, `listen`, `priors`.

    Raises:
        ValueError: If a setting is out of range, images to judge by are atoms, or `work` is another comparison's.

    Example: `tune(comparison, "search.work", steps=5).best`.
    """
    require(minutes > 0, "minutes", "positive", minutes)
    deadline, folder = time.monotonic() + 60 * minutes, Path(work)
    block, sizes = rungs(study.samples)
    schedule = Inputs.of(study).schedule
    tried = candidates(schedule, steps, priors, usual_scheduler(Inputs.of(study).scheduler))
    every = [start.told_as(study.starts[0]) for start in tried]
    require(bool(every), "steps", "at most the timesteps below every t* that is tried", steps)
    study = replace(study, starts=tuple(every), block=block, first_seed=FIRST_SEED)
    Inputs.of(study).check_not_atoms(study.split)
    rule = limit or own_limit(replace(study, samples=sizes[0]), folder, margin)
    trials = _over_all_kinds(study, every, folder, rule, sizes, deadline, **options)
    # The winner's neighbourhood, with the winner, and with the others that are still in.
    last = [trial for trial in trials if trial.samples == trials[-1].samples]
    ahead = survivors(last, 2, rule, sizes[-1])
    near = {start.key: start for start in [*ahead, *neighbours(schedule, ahead[0])]}
    if time.monotonic() < deadline:
        second = sizes[1:] or sizes
        trials += halving(study, list(near.values()), folder, rule, second, FINER_KEPT, deadline, **options)
    # Those that came through may fail the rule on all of the seeds; and one that passes may not be the best.
    for choose in (runner_up, challenger):
        trials += other_turns(study, trials, folder, rule, sizes[-1], deadline, choose, **options)
    trials += _on_a_fitted_grid(study, best_of(trials, rule), folder, rule, sizes[-1], deadline, **options)
    evaluations = sum(trial.start.evaluations * trial.samples for trial in on_most_seeds(trials).values())
    different = {(trial.start, trial.samples): trial for trial in trials}
    best, own = best_of(trials, rule), None
    if best is not None:
        size = best.samples if time.monotonic() < deadline else sizes[0]
        own = beside(study, best.start, size, folder, **options)
    return Search(best, tuple(different.values()), rule, evaluations, own)


def _over_all_kinds(
    study: Comparison,
    every: Sequence[StartSpec],
    work: Path,
    limit: CopyLimit,
    sizes: Sequence[int],
    deadline: float,
    **options: Any,
) -> list[Trial]:
    """The first search: every other t*, then all t* of the leading families, then all rungs but the last."""
    final, first = sizes[-1], at_every_other(every)
    trials = halving(study, first, work, limit, sizes[:1], FIRST_KEPT, **options)
    if time.monotonic() < deadline:
        leading = of_families(every, survivors(trials, FIRST_KEPT, limit, final), FAMILIES)
        more = [start for start in leading if start not in first]
        if more:
            trials += halving(study, more, work, limit, sizes[:1], FIRST_KEPT, **options)
    if time.monotonic() < deadline and sizes[1:-1]:
        going = survivors(of_each_kind(trials, limit, final), FIRST_KEPT, limit, final)
        trials += halving(study, going, work, limit, sizes[1:-1], FIRST_KEPT // 2, deadline, **options)
    return trials


def _on_a_fitted_grid(
    study: Comparison,
    best: Trial | None,
    work: Path,
    limit: CopyLimit,
    size: int,
    deadline: float,
    **options: Any,
) -> list[Trial]:
    """The best start once more, on a grid that is fitted to it."""
    if best is None or best.start.steps == 1 or time.monotonic() > deadline:
        return []
    if Inputs.of(study).stock:
        logger.warning("no grid is fitted to a stock pipeline: the best start keeps its scheduler's spacing")
        return []
    priors = options.get("priors") or work / "priors"
    fitted = with_fitted_grid(study, best.start, work, priors, options.get("listen", ignore))
    return halving(study, [labelled(fitted)], work, limit, [size], 1, **options)
