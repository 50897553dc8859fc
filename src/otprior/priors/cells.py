"""The cells of a prior that was solved for: one Brenier potential a class, built when first asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from otprior.transport.potential import BrenierPotential
from otprior.utils.validation import invalid


class CellMaps:
    """The potential of each class, kept for as long as the prior keeps its buffers."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, BrenierPotential, Tensor]] = {}

    def of(
        self,
        label: int,
        atoms: Tensor,
        potential: Tensor,
        classes: Tensor,
        seen: Callable[[Tensor], Tensor] = lambda rows: rows,
    ) -> tuple[BrenierPotential, Tensor]:
        """The potential of one class, over its atoms that seeds are sent to, and their indices.

        Arguments:
            label: The class.
            atoms: Of all classes, shape (N, d).
            potential: Their offsets, (N,), float64; −∞ for atoms that no seed is sent to.
            classes: The class of each, int64 (N,).
            seen: What of atoms cells are found from.

        Raises:
            ValueError: If the class has no atom.
        """
        known = self._known.get(label)
        # `assign=True` and `.to(device)` replace buffers; a map built on old ones must not survive them.
        if known is None or known[0] is not potential:
            index = torch.nonzero((classes == label) & torch.isfinite(potential)).reshape(-1)
            if not len(index):
                raise invalid(
                    "labels", "classes that the prior was fitted on", f"{label}, which had no image"
                )
            own = atoms if len(index) == len(atoms) else atoms[index]
            known = potential, BrenierPotential.build(seen(own), potential[index]), index
            self._known[label] = known
        return known[1:]
