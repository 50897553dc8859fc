"""What a bundled study of several stages is made of.

A stage is a `Comparison` in a folder of its own below the work folder. Stages on the same atoms share
the fitted priors. A preset is a function from stages to reports; the main report has the name "".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from otprior.experiments.chosen import headline, settings_rows
from otprior.experiments.comparison import (
    Comparison,
    ComparisonResult,
    Listener,
    StageProgress,
)
from otprior.experiments.gates import CopyLimit, headline_gates
from otprior.experiments.inputs import check_floor, images_of
from otprior.experiments.run import run_comparison
from otprior.experiments.sampling import network_precision
from otprior.experiments.search import (
    best_of,
    halving,
    other_turns,
    own_limit,
    rungs,
)
from otprior.sampling.start_spec import StartSpec
from otprior.utils.validation import require
from otprior_studies.comparisons.subject import Subject

# Seeds that settings are chosen on: far from those of any report.
CHOOSING = 1_100_000_000
# Ends the label of a start that, wherever it was looked for, could not be shown to copy little enough.
OVER_LIMIT = ", copying limit not shown"
# Fewer images of a row than this are a rehearsal.
REHEARSAL = 250

Parts = dict[str, ComparisonResult]


@dataclass(frozen=True)
class Scale:
    """How large a study is, and how it is computed.

    Attributes:
        samples: Images of a row; other numbers are in proportion to it.
        seed_sets: Sets of seeds; with two or more, intervals are over them.
        precision: Of the network.
        workers: Processes.
        threads: Threads of each.
        full: Whether parts that take hours are done too.
        training: More training images than are bundled, as a path; see `presets.frontier`.
    """

    samples: int
    seed_sets: int = 1
    precision: str = "float32"
    workers: int = 1
    threads: int = 1
    full: bool = False
    training: str = ""

    @property
    def rehearsal(self) -> bool:
        """Whether this is too small to mean anything: then a tenth of the atoms is solved for, and less exactly."""
        return self.samples < REHEARSAL

    def share(self, part: float) -> int:
        """A part of `samples`, at least the 12 that a study takes."""
        return max(12, round(self.samples * part))


@dataclass(frozen=True)
class Preset:
    """A bundled study: the function that does it, and its size if no other is asked for.

    Attributes:
        run: From stages to reports, the main one under "".
        samples: Images of a row.
        seed_sets: Sets of seeds.
        precision: Of the network; "auto" for the faster one here.
    """

    run: Callable[[Stages], Parts]
    samples: int = 2000
    seed_sets: int = 1
    precision: str = "auto"

    def scale(
        self, samples: int | None, seed_sets: int | None, precision: str | None, full: bool, **others: Any
    ) -> Scale:
        """The size asked for: what was named, else the preset's; `full` is 5 sets of 4,000 in float32."""
        usual = (4000, 5, "float32") if full else (self.samples, self.seed_sets, self.precision)
        computed_in = network_precision(precision or usual[2])
        return Scale(samples or usual[0], seed_sets or usual[1], computed_in, full=full, **others)


@dataclass(frozen=True)
class Stages:
    """Runs stages of one size in a work folder.

    Attributes:
        scale: The size.
        work: The folder.
        listen: Called as work proceeds.
        subject: Network and images.
    """

    scale: Scale
    work: Path
    listen: Listener = field(default=lambda _: None)
    subject: Subject = field(default_factory=Subject)

    def run(
        self, name: str, rows: Sequence[StartSpec], samples: int | None = None, **changes: Any
    ) -> ComparisonResult:
        """A stage on the reference images with the size's seed sets; `changes` are other fields of its `Comparison`."""
        study = replace(self.study(name, rows, samples), **changes)
        return self.run_comparison(study)

    def choose(self, name: str, rows: Sequence[StartSpec], samples: int, **changes: Any) -> ComparisonResult:
        """A stage on the validation images, with seeds that no report uses."""
        given = {"split": self.subject.validation, "seed_sets": 1, "first_seed": CHOOSING}
        return self.run(name, rows, samples, **{**given, **changes})

    def best(
        self, name: str, rows: Sequence[StartSpec], part: float = 0.5, margin: float = 0.01, **changes: Any
    ) -> StartSpec:
        """The best of the candidates on validation images, by halving, under the copying rule of `tune`.

        Where none passes, the one that copies least, and its label says so.

        Arguments:
            name: Of the stage.
            rows: The candidates.
            part: Of the size's samples, on which the last ones are judged.
            margin: Of the copying rule.
            changes: Other fields of the stage's `Comparison`.
        """
        block, sizes = rungs(self.scale.share(part), (1 / 4, 1 / 2, 1))
        own = self.subject.validation
        given = {"split": own, "real_split": own, "seed_sets": 1, "first_seed": CHOOSING}
        study = replace(self.study(name, rows, sizes[0]), **{**given, "block": block, **changes})
        folder = self.folder(study)
        limit = own_limit(study, folder, margin)
        options = {"priors": self.priors(study), **self.options(name)}
        trials = halving(study, rows, folder, limit, sizes, keep=4, **options)
        trials += other_turns(study, trials, folder, limit, sizes[-1], **options)
        best = best_of(trials, limit)
        if best is not None:
            return best.row
        least = min(trials, key=lambda trial: (-trial.samples, trial.copy_rate)).row
        return replace(least, label=least.label + OVER_LIMIT)

    def copy_limit(self) -> CopyLimit:
        """The copying rule of `tune`: as often as the validation images."""
        own = self.subject.validation
        study = replace(self.study("copy limit", [StartSpec("none", 0, 1)]), split=own, real_split=own)
        return own_limit(study, self.folder(study))

    def check_samples(self, samples: int) -> None:
        """Requires as many held-out images as a row has samples; see `check_floor`."""
        count = len(images_of(self.study("floor", [StartSpec("none", 0, 1)]), self.subject.held_out))
        check_floor(samples, count, "; take more seed sets instead")

    def study(self, name: str, rows: Sequence[StartSpec], samples: int | None = None) -> Comparison:
        """What `run` runs."""
        study = Comparison(
            name,
            tuple(rows),
            samples or self.scale.samples,
            self.scale.seed_sets,
            precision=self.scale.precision,
            block=250,
            **self.subject.material(),
        )
        return replace(study, atoms=1000, tol=0.2) if self.scale.rehearsal else study

    def run_comparison(self, study: Comparison) -> ComparisonResult:
        """Runs a stage."""
        options = self.options(study.name)
        return run_comparison(study, self.folder(study), priors=self.priors(study), **options)

    def folder(self, study: Comparison) -> Path:
        """Where the pieces of a stage are: it has the stage's name."""
        return self.work / study.name.replace(" ", "-")

    def priors(self, study: Comparison) -> Path:
        """Where the priors on a study's atoms are."""
        return self.work / "priors" / f"{Path(study.atoms_from).stem}-{study.atoms}"

    def options(self, name: str) -> dict[str, Any]:
        """What runs of studies are given; the listener names the stage."""

        def listen(at: StageProgress) -> None:
            self.listen(replace(at, stage=f"{name}: {at.stage}"))

        return {"workers": self.scale.workers, "threads": self.scale.threads, "listen": listen}


def run_headline(stages: Stages) -> Parts:
    """The claim at full size; see `chosen.headline`."""
    scale = stages.scale
    require(scale.seed_sets > 1, "seed_sets", "two or more: the headline's intervals are over them", 1)
    stages.check_samples(scale.samples)
    study = headline(scale.samples, scale.seed_sets, scale.precision)
    # (In the work folder itself: its only stage.)
    result = run_comparison(
        study, stages.work, workers=scale.workers, threads=scale.threads, listen=stages.listen
    )
    result.report["gates"] = headline_gates(result, settings_rows())
    return {"": result}
