"""Bundled comparisons, one file each; `docs/studies.md` says what they answer.

The headline measures settings that were chosen before. The others choose on validation images first, and measure on
the reference images then. `stages` runs the stages of a comparison; `candidates`, `spacings` and `equal_copying` are
stages that several comparisons share. Nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otprior.experiments.study import Size, Study
from otprior.utils.validation import check_choice, check_integer, require


@dataclass(frozen=True)
class Settings:
    """How a comparison is measured.

    Attributes:
        seed_sets: Sets of seeds; with two or more, intervals are over the sets.
        precision: Precision of the network: "float32", "bfloat16", or "auto" for the faster one on this machine.
        full: Whether parts that take hours are done too.
    """

    seed_sets: int = 1
    precision: str = "auto"
    full: bool = False

    def __post_init__(self) -> None:
        check_integer("seed_sets", self.seed_sets, 1)
        check_choice("precision", self.precision, ("auto", "float32", "bfloat16"))


@dataclass(frozen=True)
class HeadlineSettings(Settings):
    """The same, over five sets of seeds in float32."""

    seed_sets: int = 5
    precision: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("seed_sets", self.seed_sets, 2)  # the headline's intervals are over them


@dataclass(frozen=True)
class FrontierSettings(Settings):
    """The same, for more atoms than are bundled.

    Attributes:
        training: 60,000 training images, as a path, for the largest numbers of atoms.
    """

    training: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.training and not Path(self.training).exists():
            raise FileNotFoundError(f"training {self.training}: there is no such file or folder")


@dataclass(frozen=True)
class PerfectSettings(FrontierSettings):
    """The same, for a law that is fitted to other images than the bundled ones.

    Attributes:
        training: These images, as a path.
        extractor: The feature extractor for them.
    """

    extractor: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "given together with --training, whose images it is for"
        require(bool(self.training) == bool(self.extractor), "--extractor", rule, self.extractor or "nothing")


def _study(name: str, title: str, summary: str, **changes: Any) -> Study:
    study = Study(
        title=title,
        summary=summary,
        module=f"{__name__}.{name}",
        settings=Settings,
        usual=Size(2000),
        fast=Size(48),
        full=Size(4000, {"seed_sets": 5, "precision": "float32", "full": True}),
        minutes="docs/studies.md says how long it takes.",
    )
    return replace(study, **changes)


HEADLINE = _study(
    "headline",
    "The coupled start against the best of N(0, I)",
    "Excess FID and copying at 5 and 3 evaluations, over paired sets of seeds.",
    settings=HeadlineSettings,
    usual=Size(4000),
)
BASELINES = _study(
    "baselines",
    "The coupled start against all that could explain its quality away",
    "Solvers and spacings, other priors, and a random training image with fresh noise at equal copying.",
)
CONDITIONAL = _study(
    "conditional",
    "Starts by class, with and without guidance",
    "One map a class, at equal network evaluations, for four scales of guidance.",
)
BETTER_PRIORS = _study(
    "better_priors",
    "Starts that keep the seed's image, and starts that hold no image",
    "Gaussian priors, smoothed coupled ones and mixtures, tried on the validation images.",
)
PERFECT = _study(
    "perfect",
    "Which start is right when the network is perfect, or nearly",
    "Every start from 1 to 20 evaluations with the exact denoiser of a known law, and with errors of known size.",
    settings=PerfectSettings,
    fast=Size(24),
)
FRONTIER = _study(
    "frontier",
    "Each prior at each number of evaluations and of atoms",
    "Quality from 1 to 20 evaluations; 100 to 10,000 atoms; atoms that no network saw, and none from data.",
    settings=FrontierSettings,
)
