"""The rival that costs nothing: a random training image, noised afresh.

α y_i + σ ε with i drawn by the masses and ε independent of i: exactly the empirical p_t*, without any transport. So
whatever the semi-discrete prior gains over it at equal copying is what the coupling is worth. The atom's index is
read off the seed noise itself, through the normal distribution function of its projection on the diagonal, which
leaves the start a function of the seed like every other prior's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from otprior.priors.base import Prior
from otprior.priors.data import read_data
from otprior.priors.semidiscrete import SemiDiscretePrior
from otprior.utils.validation import require


class RandomAtomPrior(Prior):
    """T(z, ε) = α y_{i(z)} + σ ε, i uniform over the atoms (of the label, if fitted with labels).

    Build it with `fit`.

    Arguments:
        shape: Shape of a latent, such as (C, H, W).
        schedule: `NoiseSchedule.to_dict()`.
        timestep: t*.
        num_atoms: N.
        num_classes: Number of class labels, or None.

    Examples:
        >>> rival = RandomAtomPrior.fit(images, scheduler, timestep=400)
        >>> rival(z, fresh=torch.randn_like(z)).shape
        torch.Size([2, 1, 28, 28])
    """

    kind = "random_atom"
    fit_is_free = True
    needs_fresh = True
    atoms: Tensor  # (N, d)
    classes: Tensor  # (N,) int64; all 0 when unconditional

    @register_to_config
    def __init__(
        self,
        shape: list[int],
        schedule: dict[str, Any],
        timestep: float,
        num_atoms: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.set_up(shape, schedule, timestep, num_classes)
        # (One zero, until the images take its place.)
        self.register_buffer("atoms", torch.zeros(1, 1).expand(num_atoms, self.dim))
        self.register_buffer("classes", torch.zeros(num_atoms, dtype=torch.int64))

    @classmethod
    def fit(
        cls,
        data: Any,
        schedule: Any,
        timestep: float | None = None,
        labels: Tensor | None = None,
        *,
        num_classes: int | None = None,
        value_range: Any = "auto",
    ) -> Self:
        """Stores the images; arguments as for `SemiDiscretePrior.fit`."""
        noise_schedule, timestep = cls.read_start(schedule, timestep)
        images, count = read_data(data, labels, value_range, num_classes)
        atoms = images.images.flatten(1).contiguous()
        prior = cls(
            shape=list(images.images.shape[1:]),
            schedule=noise_schedule.to_dict(),
            timestep=timestep,
            num_atoms=len(atoms),
            num_classes=count,
        )
        prior.atoms = atoms
        if images.labels is not None:
            prior.classes = images.labels
        return prior.to(atoms.device).eval()

    @classmethod
    def of(cls, prior: SemiDiscretePrior | RandomAtomPrior, timestep: float) -> Self:
        """The rival of another prior of atoms, on the same atoms (with equal weights), which it shares."""
        rival = cls(
            shape=list(prior.shape),
            schedule=prior.schedule.to_dict(),
            timestep=timestep,
            num_atoms=len(prior.atoms),
            num_classes=prior.num_classes,
        )
        rival.atoms, rival.classes, rival._anchor = prior.atoms, prior.classes, prior._anchor
        return rival.eval()

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> str:
        """What it is."""
        return "random image + noise"

    def _source(self, z: Tensor, labels: Tensor | None) -> Tensor:
        quantile = torch.special.ndtr(z.double().sum(dim=1) / z.shape[1] ** 0.5)
        wanted = torch.zeros(len(z), dtype=torch.int64, device=z.device) if labels is None else labels
        source = torch.empty_like(wanted)
        for label in wanted.unique().tolist():
            index = torch.nonzero(self.classes == label).reshape(-1)
            known = "classes that the prior was fitted on"
            require(len(index) > 0, "labels", known, f"{label}, which had no image")
            rows = wanted == label
            source[rows] = index[(quantile[rows] * len(index)).long().clamp(max=len(index) - 1)]
        return source

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        return self._start_and_source(z, labels, fresh)[0]

    def _start_and_source(
        self, z: Tensor, labels: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert fresh is not None
        source = self._source(z, labels)
        return self.alpha * self.atoms[source] + self.sigma * fresh, source

    def _card(self) -> str:
        return f"# This folder holds training images\n\nAll {len(self.atoms)}, in full: sharing it shares them.\n"
