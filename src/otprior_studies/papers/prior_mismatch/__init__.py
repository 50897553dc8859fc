"""Prior mismatch: p_T is not what sampling starts from; what that costs in samples, and what a corrected start mends.

The paper measures W2 between where the forward process ends and where the reverse process begins, and removes it by a
transport map from N(0, I). Here that is done for networks of six schedules that differ in how much of the image they
leave at T (`training.schedules`), trained on the same images with the same seed:

- *at T*: N(0, I) as usual; the gaussian prior, the transport map onto the Gaussian with p_T's moments; the semidiscrete
  map with fresh noise, whose law is the data's p_T up to the cells' masses; and coupled;
- *at t\\**, of log-SNR −2 in every schedule: the same, where the error of N(0, I) is large whatever the schedule;
- each for all images and class by class, W2 as an interval for the given data and for the population;
- the competing fix, a schedule that ends at zero SNR with v-prediction (Lin et al., 2023): nothing is left to correct.

The images are the bundled Fashion-MNIST at 16 x 16 (padded to 32 x 32, averaged over 2 x 2), so that six networks can
be trained in under an hour. Settings are fixed beforehand, none is chosen by its results.

Settings are checked at once; nothing heavy is imported here.

Modules: `places` (what is sampled where), `networks` (the run), `tables` (what it found).

References:
    Wang et al., Solving prior distribution mismatch in diffusion models via optimal transport (2024),
    https://arxiv.org/abs/2410.13431
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from otprior.experiments.study import Size, Study
from otprior.utils.validation import check_choice, check_integer, require


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        schedules: Names of `training.training_scheduler`, with commas between them.
        steps: Steps of each network's training.
        batch_size: Images a step.
        layers: Residual blocks a level; channels are the bundled network's.
        precision: Precision of the training: "float32", "bfloat16", or "auto" for the faster one here.
        epochs: Epochs of the classifier's training.
        atoms: Training images, for networks, classifier and priors.
        tol: χ² that the semi-discrete solves reach.
        level: log-SNR of t*.
        few: Evaluations from T, where steps are what errs most.
        many: Evaluations from T, where the start is.
        from_start: Evaluations from t*.
        draws: Of p_t, that the data's own flow couples with their codes, for upper bounds on W2.
        sampling: Precision of the networks when they sample, likewise.
    """

    schedules: str = "linear,scaled-linear,shifted:16,ve:5,cosine,zero-snr"
    steps: int = 3000
    batch_size: int = 64
    layers: int = 1
    precision: str = "auto"
    epochs: int = 8
    atoms: int = 10_000
    tol: float = 0.05
    level: float = -2.0
    few: int = 10
    many: int = 50
    from_start: int = 5
    draws: int = 32
    sampling: str = "auto"

    def __post_init__(self) -> None:
        names = self.names
        require(len(set(names)) == len(names) and all(names), "schedules", "different names", self.schedules)
        for name in ("steps", "batch_size", "layers", "epochs", "few", "from_start"):
            check_integer(name, getattr(self, name), 1)
        check_integer("many", self.many, self.few + 1)
        check_integer("atoms", self.atoms, 100)
        check_integer("draws", self.draws, 2)
        for name in ("precision", "sampling"):
            check_choice(name, getattr(self, name), ("auto", "float32", "bfloat16"))
        require(0 < self.tol < math.inf, "tol", "a positive number", self.tol)
        require(-10 < self.level < 0, "level", "a log-SNR in (−10, 0)", self.level)

    @property
    def names(self) -> tuple[str, ...]:
        """The schedules."""
        return tuple(part.strip() for part in self.schedules.split(","))


STUDY = Study(
    title="Solving prior distribution mismatch in diffusion models via optimal transport (arXiv:2410.13431)",
    summary="Networks of six schedules trained anew; prior error and excess FID before and after a correction at T "
    "and at t*, for all images and by class.",
    module=f"{__name__}.networks",
    settings=Settings,
    usual=Size(1500),
    fast=Size(
        24,
        {
            "schedules": "shifted:16,zero-snr",
            "steps": 20,
            "epochs": 1,
            "atoms": 500,
            "many": 12,
            "tol": 0.2,
            "draws": 4,
        },
    ),
    minutes="About an hour and three quarters on two cores; a rehearsal takes a few minutes.",
)
