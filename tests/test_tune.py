"""The search: its copying rule against simulation, who goes on to the next rung, and candidates in every schedule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
from report_example import bare_row
from scipy import stats

from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments import search as tune_module
from otprior.experiments.candidates import at_every_other, candidates, family, neighbours, of_families
from otprior.experiments.comparison import Comparison
from otprior.experiments.gates import CopyLimit
from otprior.experiments.own_sampler import WEAK, OwnSampler
from otprior.experiments.search import (
    Search,
    Trial,
    best_of,
    challenger,
    of_each_kind,
    other_turns,
    rungs,
    runner_up,
    survivors,
)
from otprior.experiments.search_report import edges, write_search
from otprior.metrics import Interval
from otprior.report.record import Report
from otprior.sampling.start_spec import StartSpec

VP = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
EDM = NoiseSchedule.edm(0.002, 80)
FLOW = NoiseSchedule.flow(1000)
LIMIT = CopyLimit(0.0065, 2000)


def trial(name: str, fid: float, copies: float, samples: int = 2000) -> Trial:
    row = StartSpec("semidiscrete", 500, 5, label=name)
    return Trial(row, samples, bare_row(fid=fid, copy_rate=copies, source_rate=0.4))


def names(rows: list[StartSpec]) -> list[str]:
    return [row.label for row in rows]


# The copying rule ------------------------------------------------------------------------------------------


def test_the_rule_holds_for_few_copies_and_not_for_many() -> None:
    # Clopper and Pearson's limit of 13 in 2,000, and the error of the limit's own rate.
    most = stats.beta.ppf(0.95, 14, 1987)
    assert stats.binom.cdf(13, 2000, most) == pytest.approx(0.05)
    error = ((most - 0.0065) ** 2 + stats.norm.ppf(0.95) ** 2 * 0.0065 * 0.9935 / 2000) ** 0.5
    assert LIMIT.upper(0.0065, 2000) == pytest.approx(error)
    assert LIMIT.allows(0.010, 2000)
    assert not LIMIT.allows(0.013, 2000)
    assert not LIMIT.allows(0.010, 250)  # nothing can be said of so few
    assert not CopyLimit(0.0, None, margin=0.1).allows(0.0, 12)  # not even if none copies
    # A limit that was set has no error of its own.
    assert CopyLimit(0.05, None, margin=0.0).allows(0.04, 2000)
    assert not CopyLimit(0.05, None, margin=0.0).allows(0.05, 2000)


@pytest.mark.parametrize("copies", [0, 2, 4])
def test_chances_of_passing_are_those_of_simulated_rates(copies: int) -> None:
    """Rates from Jeffreys' posterior after 250 samples, then 2,000 more: 20,000 times, an error of 0.0035."""
    generator = np.random.default_rng(0)
    rates = generator.beta(copies + 0.5, 250 - copies + 0.5, size=20_000)
    found = generator.binomial(2000, rates) / 2000
    share = np.mean([LIMIT.allows(rate, 2000) for rate in found])
    assert LIMIT.chance(copies / 250, 250, 2000) == pytest.approx(share, abs=0.012)


# Rungs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [12, 48, 250, 2000, 2001, 4000])
def test_a_rung_begins_with_the_blocks_of_the_one_before(samples: int) -> None:
    block, sizes = rungs(samples)
    assert sizes[-1] == samples
    assert sizes == sorted(set(sizes))
    assert all(size % block == 0 for size in sizes[:-1])
    assert min(sizes) >= 12


def test_half_of_the_places_go_to_those_that_will_probably_pass() -> None:
    """On 250 samples: "good" and "fair" hardly copy, "close" may still pass, "copier" cannot."""
    tried = [
        trial("copier", 1.0, 0.08, 250),
        trial("close", 5.0, 0.02, 250),
        trial("closer", 6.0, 0.02, 250),
        trial("good", 8.0, 0.0, 250),
        trial("fair", 9.0, 0.0, 250),
        trial("poor", 30.0, 0.0, 250),
    ]
    assert names(survivors(tried, 4, LIMIT, 2000)) == ["good", "fair", "close", "closer"]
    assert names(survivors(tried, 2, LIMIT, 2000)) == ["good", "close"]
    # If all copy, the one that does least goes on: something must.
    assert names(survivors(tried[:1], 4, LIMIT, 2000)) == ["copier"]


def test_the_best_is_on_most_seeds_and_allowed() -> None:
    tried = [
        trial("few", 1.0, 0.0, 1000),
        trial("copies", 2.0, 0.05),
        trial("b", 4.0, 0.0),
        trial("a", 3.0, 0.0),
    ]
    best = best_of(tried, LIMIT)
    assert best is not None
    assert best.start.label == "a"
    # What passed on fewer seeds does not count: nobody looked whether it still does.
    assert best_of([trial("few", 1.0, 0.0, 1000), trial("copies", 2.0, 0.05)], LIMIT) is None


def test_if_none_passes_the_best_of_those_left_behind_has_a_turn() -> None:
    rows = [replace(trial("", 0, 0).start, start_timestep=t, label=str(t)) for t in (400, 450, 500, 550, 600)]
    figures = [(2000, 2.0, 0.05), (1000, 6.0, 0.004), (1000, 5.0, 0.012), (1000, 1.0, 0.09), (250, 3.0, 0.0)]

    def with_sources(*rates: float) -> list[Trial]:
        return [
            Trial(row, n, bare_row(fid=fid, copy_rate=copies, source_rate=rate))
            for row, (n, fid, copies), rate in zip(rows, figures, rates)
        ]

    tried = with_sources(0.9, 0.5, 0.5, 0.5, 0.5)
    following = runner_up(tried, LIMIT, 2000)
    assert following is not None
    # 550 cannot pass; of 450 and 500, on most seeds, 450 probably will.
    assert following.label == "450"
    # Who keeps its atom as often as one that failed is not tried.
    following = runner_up(with_sources(0.4, 0.4, 0.3, 0.3, 0.2), LIMIT, 2000)
    assert following is not None
    assert following.label == "500"
    assert runner_up(tried[:1], LIMIT, 2000) is None
    assert runner_up([tried[0], tried[3]], LIMIT, 2000) is None


def test_others_have_a_turn_until_one_passes_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [replace(trial("", 0, 0).start, start_timestep=t, label=str(t)) for t in (400, 450, 500, 550)]

    def tried(row: StartSpec, samples: int, copies: float) -> Trial:
        return Trial(
            row, samples, bare_row(fid=1.0, copy_rate=copies, source_rate=1 - row.start_timestep / 1000)
        )

    copying = {"450": 0.04, "500": 0.0, "550": 0.0}

    def run(study: Any, going: list[StartSpec], *_: Any, **__: Any) -> list[Trial]:
        return [tried(row, 2000, copying[row.label]) for row in going]

    monkeypatch.setattr(tune_module, "halving", run)
    monkeypatch.setattr(tune_module, "CLEARLY_LESS", 1.0)
    trials = [tried(rows[0], 2000, 0.05), *(tried(row, 1000, 0.003) for row in rows[1:])]
    found = other_turns(None, trials, Path(), LIMIT, 2000)  # type: ignore[arg-type]
    assert [each.start.label for each in found] == ["450", "500"]
    passed = [tried(rows[3], 2000, 0.0)]
    assert other_turns(None, [*trials, *passed], Path(), LIMIT, 2000) == []  # type: ignore[arg-type]


def test_who_was_left_behind_may_challenge_the_winner() -> None:
    rows = [replace(trial("", 0, 0).start, start_timestep=t, label=str(t)) for t in (500, 525, 550, 575, 600)]

    def tried(row: StartSpec, samples: int, fid: float, copies: float) -> Trial:
        return Trial(row, samples, bare_row(fid=fid, copy_rate=copies, source_rate=0.4))

    trials = [
        tried(rows[0], 2000, 9.0, 0.02),
        tried(rows[4], 500, 16.0, 0.002),
        tried(rows[4], 2000, 12.0, 0.005),
        tried(rows[1], 500, 14.0, 0.03),
        tried(rows[2], 500, 15.0, 0.004),
        tried(rows[3], 500, 15.5, 0.0),
        # (On fewer seeds every FID is higher, and the winner has none there to compare it with.)
        tried(rows[0], 250, 11.0, 0.0),
    ]
    # 525 copies; of 550 and 575, both ahead of the winner's 16.0, the first is further ahead.
    found = challenger(trials, LIMIT, 2000)
    assert found is not None
    assert found.label == "550"
    trials += [tried(rows[2], 2000, 11.5, 0.003)]
    # Beside the new winner's 15.0 on as many seeds, nobody is ahead.
    assert challenger(trials, LIMIT, 2000) is None
    assert challenger(trials[:1], LIMIT, 2000) is challenger(trials[1:2], LIMIT, 2000) is None


def test_no_kind_fills_a_rung() -> None:
    def tried(noise: str, t: int, spacing: str, fid: float, copies: float) -> Trial:
        start = StartSpec("semidiscrete", t, 5, spacing=spacing, options=(("noise", noise),))
        return Trial(start, 250, bare_row(fid=fid, copy_rate=copies))

    fresh = [tried("fresh", t, "karras", 1.0 + t / 1000, 0.0) for t in (400, 500, 600, 700)]
    grid = [tried("fresh", t, "grid:log_snr", 3.0 + t / 1000, 0.0) for t in (400, 500, 600)]
    # Of the whitened ones the best two will probably copy too much, and the third may not.
    whitened = [tried("whitened", t, "karras", 2.0 + t / 1000, 5 / t) for t in (100, 150, 500, 600)]
    kept = of_each_kind([*fresh, *grid, *whitened], LIMIT, 2000)
    assert kept == [*fresh[:2], *grid[:2], *whitened[2:]]


# Candidates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [VP, EDM, FLOW], ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("prior", ["semidiscrete", "mixture", "gaussian"])
def test_candidates_are_different_starts_of_the_schedule(schedule: NoiseSchedule, prior: str) -> None:
    rows = candidates(schedule, 5, [prior])
    # Seven t*, with what each kind varies besides: three correlations and two noises; three noises; nothing.
    count = {"semidiscrete": 35, "mixture": 21, "gaussian": 7}[prior]
    assert len({row.key for row in rows}) == len(rows) == count
    for row in rows:
        schedule.check_timestep(row.start_timestep)
    near = neighbours(schedule, rows[0])
    assert len({row.key for row in [*near, rows[0]]}) == len(near) + 1
    for row in near:
        schedule.check_timestep(row.start_timestep)
        assert 0 < row.correlation <= 1
        assert row.label != rows[0].label


def test_the_first_rung_has_every_other_t_of_each_family() -> None:
    every = candidates(VP, 5)
    first = at_every_other(every)
    for each in {family(start) for start in every}:
        times = sorted(start.start_timestep for start in every if family(start) == each)
        assert sorted(start.start_timestep for start in first if family(start) == each) == times[::2]
    # The two leading families at their seven t*, on both spacings.
    leaders = [first[0], first[0], first[-1], first[5]]
    more = of_families(every, leaders, 2)
    assert {family(start) for start in more} == {family(first[0]), family(first[-1])}
    assert len({start.key for start in more}) == len(more) == 2 * 2 * 7
    flow = candidates(FLOW, 5, ["gaussian"], "FlowMatchEulerDiscreteScheduler")
    assert of_families(flow, flow, 4) == flow
    single = candidates(VP, 1, ["gaussian"])
    assert of_families(single, single, 4) == single


def test_scheduler_and_spacing_are_tried_together() -> None:
    start = candidates(VP, 5, ["gaussian"])[0]
    pairs = {(each.scheduler, each.spacing) for each in [start, *neighbours(VP, start)]}
    assert len(pairs) == 6


@pytest.mark.parametrize("best", ["karras", "grid:log_snr"])
def test_a_spacing_whose_best_t_is_elsewhere_is_found(monkeypatch: pytest.MonkeyPatch, best: str) -> None:
    """As on the perfect network: each spacing has a valley of its own, and nothing leads from one to the other."""
    valley = {"grid:log_snr": 382, "grid:karras": 382, "karras": 620}

    def fid(start: StartSpec) -> float:
        floor = {"semidiscrete": 1.0, "mixture": 2.0, "gaussian": 3.0}[start.prior] - (start.noise == "fresh")
        return floor + abs(start.start_timestep - valley[start.spacing]) / 50 + 0.5 * (start.spacing != best)

    def run(study: Any, work: Path, **options: Any) -> Any:
        rows = [bare_row(fid=fid(start), copy_rate=0.0, source_rate=0.0) for start in study.starts]
        return SimpleNamespace(report=SimpleNamespace(rows=rows))

    own = SimpleNamespace(
        schedule=VP, scheduler=diffusers.DDPMScheduler(), stock=True, check_not_atoms=lambda split: None
    )
    monkeypatch.setattr(tune_module, "run_comparison", run)
    monkeypatch.setattr(tune_module, "beside", lambda *given, **options: None)
    monkeypatch.setattr(tune_module, "Inputs", SimpleNamespace(of=lambda study: own))
    study = Comparison("tune", (StartSpec("none", 0, 1),), 2000)
    found = tune_module.tune(study, "unused", steps=5, limit=LIMIT).best
    assert found is not None
    assert (found.start.spacing, found.start.noise) == (best, "fresh")
    assert found.start.start_timestep == pytest.approx(valley[best], abs=25)
    assert found.samples == 2000


def test_no_candidate_asks_for_more_steps_than_there_are_timesteps() -> None:
    short = NoiseSchedule.vp(diffusers.DDPMScheduler(num_train_timesteps=20).alphas_cumprod)
    rows = candidates(short, 10, ["gaussian"])
    assert all(row.start_timestep >= 10 for row in rows)


def test_correlation_stays_in_range() -> None:
    row = candidates(VP, 5, ["semidiscrete"])[0].with_options(correlation=1.0)
    assert {each.correlation for each in neighbours(VP, row)} == {0.9, 1.0}


@pytest.mark.parametrize(("timestep", "end"), [(300, "lowest"), (400, None), (500, "highest")])
def test_a_choice_at_the_edge_of_the_search_is_said_to_be_there(timestep: int, end: str | None) -> None:
    figures = bare_row(fid=1.0, copy_rate=0.0)
    tried = [Trial(StartSpec("gaussian", t, 5), 100, figures) for t in (300, 400, 500)]
    tried.append(Trial(StartSpec("mixture", 100, 5), 100, figures))
    best = next(each for each in tried if each.start.start_timestep == timestep)
    said = edges(Search(best, tuple(tried), CopyLimit(0.0, None, 0.01), 0))
    assert len(said) == (end is not None)
    assert all(str(end) in text for text in said)


@pytest.mark.parametrize("found", [True, False])
def test_a_search_is_written_as_a_page_that_opens_with_what_was_chosen(tmp_path: Path, found: bool) -> None:
    def tried(t: int, samples: int, fid: float) -> Trial:
        start = StartSpec("gaussian", t, 3, label=f"gaussian, t* = {t}")
        return Trial(start, samples, bare_row(label=start.label, prior="gaussian", fid=fid, copy_rate=0.0))

    trials = (tried(400, 250, 20.0), tried(500, 250, 14.0), tried(500, 500, 12.0))
    gain, excess = Interval(15.0, 16.0, 15.5), Interval(17.0, 19.0, 18.0)
    own = OwnSampler(bare_row(label="N(0, I)", fid=30.0), excess, gain, trials[-1].start)
    best, own_sampler = (trials[-1], own) if found else (None, None)
    search = Search(best, trials, CopyLimit(0.01), 3000, own_sampler)
    write_search(tmp_path, search, "validation", Report.build(command="otprior tune"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    opening, table = page.split("<h1>")[1].split("</h1>")[0], page.split("<tbody>")[1].split("</tbody>")[0]
    assert ("t*\u00a0=\u00a0500" in opening) is found
    assert (WEAK.split(":")[0] in page) is found
    # A start stands once, on the most seeds that it was tried on; the network's own sampler is one more.
    assert table.count("<tr") == (3 if found else 2)
    assert "12.0" in table
    assert "14.0" not in table
    record = json.loads((tmp_path / "trials.json").read_text())
    assert [entry["evaluations"] for entry in record["trials"]] == [750, 750, 750]
    assert ("own_sampler" in record) is found
    assert (tmp_path / "tuning.png").read_bytes()[:4] == b"\x89PNG"
