"""The maps behind pairs: which image a noise is paired with, for one map or one a class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from otprior.data.images import check_labels
from otprior.priors.data import rows_by_class
from otprior.priors.solved import CellMaps
from otprior.transport.potential import BrenierPotential
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import require


@dataclass(frozen=True, eq=False)
class PairMaps:
    """Brenier potentials over flat images, one for each class or one for all.

    Attributes:
        atoms: Images as rows, (N, d), float32.
        potential: Offsets h, (N,), float64; −∞ for images of weight zero and for later duplicates.
        classes: Which map each image belongs to, int64 (N,); all 0 where there is one map.
        class_mass: Probability of each class, (K,), float64, on the CPU; None where there is one map.
        entropy: ε, in units of a score; 0 where each noise has one image.
        axes: Columns along which cells are found, (d, rank), float64; None for all directions.
    """

    atoms: Tensor
    potential: Tensor
    classes: Tensor
    class_mass: Tensor | None = None
    entropy: float = 0.0
    axes: Tensor | None = None
    _known: CellMaps = field(default_factory=CellMaps, repr=False)

    def to(self, device: str | torch.device) -> PairMaps:
        """The same maps on another device."""
        moved = (self.atoms.to(device), self.potential.to(device), self.classes.to(device))
        return PairMaps(
            *moved, self.class_mass, self.entropy, None if self.axes is None else self.axes.to(device)
        )

    @plain_torch()
    def assign(self, noise: Tensor, labels: Tensor | None, uniform: Tensor | None) -> Tensor:
        """The image of each noise, int64 (B,).

        Arguments:
            noise: Rows, (B, d), float32.
            labels: Checked labels, (B,), or None where there is one map.
            uniform: Draws from [0, 1), (B,), float64; where there is entropy.
        """
        index = torch.empty(len(noise), dtype=torch.int64, device=noise.device)
        for brenier, own, rows in self._by_class(labels):
            seen = self._seen(noise[rows])
            if self.entropy:
                assert uniform is not None
                cells = brenier.draw(seen, self.entropy, uniform.to(noise.device)[rows])
            else:
                cells = brenier.assign(seen)
            index[rows] = own[cells]
        return index

    def barycentre(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Σ s_i(z) y_i of each noise; (B, d), float32. Only with entropy."""
        mean = torch.empty_like(noise)
        for brenier, _, rows in self._by_class(labels):
            mean[rows] = brenier.barycentre(noise[rows], self.entropy)
        return mean

    def check_labels(self, labels: Any, count: int) -> Tensor | None:
        """Labels of a batch, which name a map each.

        Raises:
            ValueError: If they are missing, or given to one map, or not labels of maps.
        """
        if self.class_mass is None:
            require(labels is None, "labels", "None: this coupling has one map for all classes", "labels")
            return None
        maps = len(self.class_mass)
        require(labels is not None, "labels", f"given: this coupling has {maps} maps, one a class", None)
        return check_labels(labels, count, maps).to(self.atoms.device)

    def draw_labels(self, uniform: Tensor) -> Tensor | None:
        """Classes with the probabilities of the data, from draws (B,) of [0, 1); None where there is one map."""
        if self.class_mass is None:
            return None
        total = self.class_mass.cumsum(0)
        place = torch.searchsorted(total, uniform.cpu() * total[-1], right=True)
        # (What rounds up to the end belongs to the last class that has images.)
        return place.clamp(max=int(torch.nonzero(self.class_mass).max())).to(self.atoms.device)

    def _by_class(self, labels: Tensor | None) -> Iterator[tuple[BrenierPotential, Tensor, Tensor | slice]]:
        for label, rows in rows_by_class(labels):
            yield *self._known.find(label, self.atoms, self.potential, self.classes, self._seen), rows

    def _seen(self, rows: Tensor) -> Tensor:
        """The coordinates that cells are found from; in float64, so that a row's do not depend on other rows."""
        return rows if self.axes is None else (rows.double() @ self.axes).to(rows.dtype)
