"""The stages of a comparison: first those on which settings are chosen, then those that are reported.

A stage is a `Comparison` in a folder of its own below the work folder. Stages on the same atoms share the fitted
priors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from otprior.experiments.comparison import BUNDLED, Comparison, ComparisonResult
from otprior.experiments.gates import CopyLimit
from otprior.experiments.inputs import Inputs, check_floor
from otprior.experiments.run import run_comparison
from otprior.experiments.search import best_of, halving, other_turns, own_limit, rungs
from otprior.experiments.study import Listener, Request, StageProgress, ignore
from otprior.sampling.start_spec import StartSpec
from otprior_studies.comparisons import Settings

# Seeds that settings are chosen on: far from those of any report.
CHOOSING = 1_100_000_000
# Ends the label of a start for which no candidate could be shown to copy little enough.
OVER_LIMIT = ", copying limit not shown"
# Fewer images of a start than this are a rehearsal, which solves for fewer atoms, and less exactly.
REHEARSAL, REHEARSAL_ATOMS = 250, 1000
# For comparisons of which only the images matter.
ANY = StartSpec("none", 0, 1)


@dataclass(frozen=True)
class Subject:
    """A network with its images, named as `Comparison` names them; by default what is bundled.

    Attributes:
        model: A diffusers folder, or "bundled".
        extractor: Folder of the feature extractor, or "bundled".
        atoms: Images that priors are fitted to.
        validation: Real images that settings are chosen on.
        held_out: Real images that give the floor.
        reference: Images that quality is measured against.
    """

    model: str = BUNDLED
    extractor: str = BUNDLED
    atoms: str = "atoms"
    validation: str = "validation"
    held_out: str = "held_out"
    reference: str = "reference"


@dataclass(frozen=True)
class Stages:
    """Runs stages of one size in a work folder.

    Attributes:
        work: The folder.
        samples: Images of a start; other numbers are in proportion to it.
        seed_sets: Sets of seeds.
        precision: Precision of the network.
        workers: Processes.
        listen: Called as work proceeds.
        subject: Network and images.
        device: Where networks sample.
    """

    work: Path
    samples: int
    seed_sets: int = 1
    precision: str = "float32"
    workers: int = 1
    listen: Listener = ignore
    subject: Subject = field(default_factory=Subject)
    device: str = "cpu"

    @classmethod
    def of(cls, request: Request) -> Self:
        """The stages that a request asks for, on what is bundled."""
        settings: Settings = request.settings
        size = (request.samples, settings.seed_sets, settings.precision)
        return cls(request.work, *size, request.workers, request.listen, device=request.device)

    @property
    def rehearsal(self) -> bool:
        """Whether there are too few samples for the figures to mean anything."""
        return self.samples < REHEARSAL

    @property
    def inputs(self) -> Inputs:
        """The network and images of the subject."""
        return Inputs.of(self.comparison("inputs", [ANY]))

    def share(self, part: float) -> int:
        """A part of `samples`, at least the 12 that a comparison takes."""
        return max(12, round(self.samples * part))

    def run(
        self, name: str, starts: Sequence[StartSpec], samples: int | None = None, **changes: Any
    ) -> ComparisonResult:
        """Runs a stage on the reference images with all seed sets.

        Arguments:
            name: Name of the stage.
            starts: What is compared.
            samples: Images of a start, if not `self.samples`.
            changes: Other fields of the stage's `Comparison`.
        """
        stage = replace(self.comparison(name, starts, samples), **changes)
        return run_comparison(stage, self.folder(stage), **self.options(stage))

    def choose(
        self, name: str, starts: Sequence[StartSpec], samples: int, **changes: Any
    ) -> ComparisonResult:
        """Runs a stage on the validation images, with seeds that no report uses."""
        given = {"split": self.subject.validation, "seed_sets": 1, "first_seed": CHOOSING}
        return self.run(name, starts, samples, **{**given, **changes})

    def best(
        self, name: str, starts: Sequence[StartSpec], part: float = 0.5, margin: float = 0.01, **changes: Any
    ) -> StartSpec:
        """The best of the candidates on validation images, by halving, under the copying rule of `tune`.

        If none passes, it is the one that copies least, and its label says so.

        Arguments:
            name: Name of the stage.
            starts: The candidates.
            part: Share of `samples` on which the last ones are judged.
            margin: Margin of the copying rule.
            changes: Other fields of the stage's `Comparison`.
        """
        block, sizes = rungs(self.share(part), (1 / 4, 1 / 2, 1))
        own = self.subject.validation
        given = {"split": own, "real_split": own, "seed_sets": 1, "first_seed": CHOOSING}
        stage = replace(self.comparison(name, starts, sizes[0]), **{**given, "block": block, **changes})
        folder, options = self.folder(stage), self.options(stage)
        limit = own_limit(stage, folder, margin)
        trials = halving(stage, starts, folder, limit, sizes, keep=4, **options)
        trials += other_turns(stage, trials, folder, limit, sizes[-1], **options)
        best = best_of(trials, limit)
        if best is not None:
            return best.start
        least = min(trials, key=lambda trial: (-trial.samples, trial.copy_rate)).start
        return replace(least, label=least.label + OVER_LIMIT)

    def copy_limit(self) -> CopyLimit:
        """The copying rule of `tune`: as often as the validation images."""
        own = self.subject.validation
        stage = replace(self.comparison("copy limit", [ANY]), split=own, real_split=own)
        return own_limit(stage, self.folder(stage))

    def check_samples(self, samples: int) -> None:
        """Requires as many held-out images as a start has samples; see `check_floor`."""
        check_floor(samples, len(self.inputs.real), "; take more seed sets instead")

    def comparison(self, name: str, starts: Sequence[StartSpec], samples: int | None = None) -> Comparison:
        """The comparison that `run` runs."""
        subject = self.subject
        stage = Comparison(
            name,
            tuple(starts),
            samples or self.samples,
            self.seed_sets,
            precision=self.precision,
            block=250,
            model=subject.model,
            extractor=subject.extractor,
            atoms_from=subject.atoms,
            split=subject.reference,
            real_split=subject.held_out,
            device=self.device,
        )
        count = len(Inputs.of(stage).atoms)
        if self.rehearsal:
            return replace(stage, atoms=min(count, REHEARSAL_ATOMS), tol=0.2)
        return replace(stage, atoms=count)

    def folder(self, stage: Comparison) -> Path:
        """Where the pieces of a stage are: it has the stage's name."""
        return self.work / stage.name.replace(" ", "-")

    def priors(self, stage: Comparison) -> Path:
        """Where the priors on a stage's atoms are."""
        return self.work / "priors" / f"{Path(stage.atoms_from).stem}-{stage.atoms}"

    def options(self, stage: Comparison) -> dict[str, Any]:
        """Options of `run_comparison`; the listener names the stage."""

        def listen(at: StageProgress) -> None:
            self.listen(replace(at, stage=f"{stage.name}: {at.stage}"))

        return {"priors": self.priors(stage), "workers": self.workers, "listen": listen}
