"""Everyone on one set of atoms: ours, the search for the peers' best settings, then all in turn, and ours once more.

Our first time to each target is the measure of everybody's limits. Ours runs again in every round and at the end, so
that a machine that became slower or faster meanwhile shows.
"""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from peers import OURS, Peer, Settings, load

from harness import atom_sets
from harness.measuring import ChiSquaredMeter
from harness.results import Entry, SetResult
from harness.running import Job, Runner
from harness.tuning import Trial, describe, tune

# Only here, and where no settings are looked for, runs are repeated.
HEADLINE = "fashion-10k"
# Settings are those that were best on a smaller set of the same kind.
SETTINGS_OF = {"fashion-60k": "fashion-10k"}
# Settings are chosen on other draws than those they are shown on.
TUNING_SEED, FIRST_SEED = 1, 1001
TUNING_FACTOR = 2.0
NO_LIMIT = 1e9
CURVE_FACTOR = 2.0
# Limits follow from our first times; the table compares with the median of all, which may be longer.
MARGIN = 1.2


class Race:
    """All solvers on one set of atoms.

    Arguments:
        name: Of the set.
        work: Folder for this benchmark's pieces.
        args: Of the command.
        known: The settings found best, by set and peer; those of this set are added.
    """

    def __init__(
        self, name: str, work: Path, args: Namespace, known: dict[tuple[str, str], Settings]
    ) -> None:
        self.name, self.args, self.known = name, args, known
        self.problem = atom_sets.make(name, args.dtype, args.source, work / name)
        self.runner = Runner(work / name, ChiSquaredMeter(self.problem), args.threads)
        self.targets: list[float] = sorted(args.targets, reverse=True)
        self.rounds = args.repeats if name == HEADLINE or args.settings else 1
        self.notes: list[str] = []
        self.tuning: dict[str, list[dict[str, Any]]] = {}

    def run(self) -> SetResult:
        """Does all runs, or reads what was done before."""
        say(f"{self.name}: N = {len(self.problem):,}, d = {self.problem.atoms.shape[1]}")
        ours = self.doors("float32")
        self.first_times = {target: runs[0]["seconds"] for target, runs in ours.items()}
        peers = {name: peer for name in self.args.peers if (peer := self.available(name))}
        self.announce(len(peers))
        best = {name: settings for name, peer in peers.items() if (settings := self.tuned(name, peer))}

        tuned: dict[str, list[dict[str, Any]]] = {name: [] for name in best}
        for seed in range(FIRST_SEED, FIRST_SEED + self.rounds):
            if seed > FIRST_SEED:
                self.doors("float32", seed, ours)
            for name, settings in best.items():
                tuned[name] += self.attempt(name, "tuned", settings, seed, self.args.limit_tuned)
        default = {
            name: self.attempt(name, "default", peer.defaults, FIRST_SEED, self.args.limit_default)
            for name, peer in peers.items()
        }
        self.doors("float32", FIRST_SEED + self.rounds, ours)

        for target, runs in ours.items():
            seconds = ", ".join(f"{run['seconds']:.3g}" for run in runs)
            self.note(f"otprior, seconds of each run to χ² ≤ {target:g}, first to last: {seconds}.")

        entries = [Entry(OURS, "otprior", "door", {}, ours)]
        fastest = self.doors("auto")
        facts = ours[self.targets[0]][0]["facts"]
        if fastest[self.targets[0]][0]["facts"]["precision"] != facts["precision"]:
            entries.append(Entry(OURS, "otprior", "auto", {"precision": "auto"}, fastest))
        if facts["method"] == "sgd" and (runs := self.attempt(OURS, "curve", {}, FIRST_SEED, CURVE_FACTOR)):
            entries.append(self.entry(OURS, "curve", {}, runs))
        entries += [self.entry(name, "tuned", best[name], runs) for name, runs in tuned.items() if runs]
        entries += [self.entry(name, "default", peers[name].defaults, r) for name, r in default.items() if r]
        return SetResult(
            name=self.name,
            what=atom_sets.SETS[self.name].what,
            atoms=len(self.problem),
            dim=self.problem.atoms.shape[1],
            effective_dim=atom_sets.effective_dimension(self.problem.atoms),
            entries=entries,
            ours={target: median(run["seconds"] for run in runs) for target, runs in ours.items()},
            tuning=self.tuning,
            notes=self.notes,
        )

    def doors(
        self, precision: str, seed: int = FIRST_SEED, runs: dict[float, list[dict[str, Any]]] | None = None
    ) -> dict[float, list[dict[str, Any]]]:
        """A run of ours for every target, until it says that it is done; added to `runs`."""
        runs = {target: [] for target in self.targets} if runs is None else runs
        for target in self.targets:
            settings = {"tol": target, "precision": precision}
            runs[target].append(self.report(Job(OURS, "door", settings, seed, ((target, NO_LIMIT),))))
        return runs

    def limits(self, factor: float) -> tuple[tuple[float, float], ...]:
        """A multiple of our time for each target, but never less than `--shortest`."""
        return tuple((t, max(MARGIN * factor * s, self.args.shortest)) for t, s in self.first_times.items())

    def announce(self, peers: int) -> None:
        """An upper bound for what follows; measuring comes on top."""
        tuned, default = (
            self.limits(factor)[-1][1] for factor in (self.args.limit_tuned, self.args.limit_default)
        )
        trials = 15 * self.limits(TUNING_FACTOR)[0][1]
        minutes = peers * (trials + self.rounds * tuned + default) / 60
        say(f"  the peers take at most about {minutes:.0f} minutes, and measuring them some more")

    def available(self, name: str) -> Peer | None:
        """The peer, or None and a note if its library is not there."""
        peer = load(name)
        if peer.missing:
            self.note(f"{peer.label}: not installed, so not run ({peer.missing}).")
            return None
        return peer

    def tuned(self, name: str, peer: Peer) -> Settings | None:
        """The best settings for the first target; None and a note if the peer failed."""
        if start := self.known.get((SETTINGS_OF.get(self.name, self.name), name)):
            if self.args.settings:
                return start
            peer = replace(peer, starts=(start,), axes={})
        target, seconds = self.limits(TUNING_FACTOR)[0]

        def measure(settings: Settings) -> Trial:
            job = Job(name, "tuning", settings, TUNING_SEED, ((target, seconds),), measure_last_only=True)
            result = self.report(job)
            chi2, reached = result["curve"][-1]["chi2"], result["reached"].get(str(target))
            reached_at = reached["seconds"] if reached else math.inf
            return Trial(settings, math.inf if chi2 is None else chi2, reached_at)

        try:
            settings, trials = tune(peer, measure)
        except RuntimeError as error:
            self.note(f"{peer.label}: failed; {error}.")
            return None
        self.known[self.name, name] = settings
        self.tuning[name] = [
            {key: None if value == math.inf else value for key, value in asdict(t).items()} for t in trials
        ]
        what = f"settings tried ({', '.join(settings)}), with seconds to χ² ≤ {target:g} or χ² after {seconds:.3g} s"
        self.note(f"{peer.label}, {what}: {'; '.join(map(str, trials))}.")
        return settings

    def attempt(
        self, name: str, variant: str, settings: Settings, seed: int, factor: float
    ) -> list[dict[str, Any]]:
        """A peer's run; none, and a note, if it failed."""
        try:
            return [self.report(Job(name, variant, settings, seed, self.limits(factor)))]
        except RuntimeError as error:
            self.note(f"{load(name).label}, {variant}: failed; {error}.")
            return []

    def entry(self, peer: str, variant: str, settings: Settings, runs: list[dict[str, Any]]) -> Entry:
        """With the same runs for every target."""
        return Entry(peer, load(peer).label, variant, settings, dict.fromkeys(self.targets, runs))

    def report(self, job: Job) -> dict[str, Any]:
        """Does a job and says what came out."""
        result = self.runner(job)
        point = result["curve"][-1]
        chi2 = "diverged" if point["chi2"] is None else f"χ² {point['chi2']:.4g} (upper {point['upper']:.4g})"
        reached = "".join(f"; {t} at {p['seconds']:.3g} s" for t, p in result["reached"].items())
        took = f"{point['seconds']:.3g} s, {point['draws']:,} draws"
        say(f"  {job.peer} {job.variant} [{describe(job.settings)}]: {chi2}, {took}{reached}")
        return result

    def note(self, text: str) -> None:
        """For the table, and said at once."""
        self.notes.append(f"- {text}")
        say(f"  {text}")


def say(text: str) -> None:
    """Progress, on the terminal."""
    print(text, flush=True)
