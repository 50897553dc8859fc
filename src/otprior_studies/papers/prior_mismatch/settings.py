"""What can be changed, checked before anything long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from otprior.utils.validation import check_choice, check_integer, require


@dataclass(frozen=True)
class Settings:
    """Of one run.

    Attributes:
        schedules: Names of `training.training_scheduler`, with commas between them.
        steps: Of each network's training.
        batch_size: Images a step.
        layers: Residual blocks a level; channels are the bundled network's.
        precision: Of the training: "float32", "bfloat16", or "auto" for the faster one here.
        epochs: Of the classifier's training.
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
