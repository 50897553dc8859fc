"""What priors share whose seeds are sent to atoms by a transport that was solved for: one Brenier potential a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.priors.base import Prior
from otprior.priors.options import PriorOptions, option
from otprior.transport.potential import BrenierPotential
from otprior.transport.solution import Solution
from otprior.utils.validation import invalid, require


@dataclass(frozen=True)
class SolveOptions(PriorOptions):
    """How far the transport is solved."""

    tol: float = option(0.05, "Upper 95 % limit of χ² of the cells' masses to reach, for each class's map.")
    max_draws: int | None = option(None, "When to give up, for each map.", type=int, minimum=1)
    throw: bool = option(True, "Save even if tol is not reached.", flag="keep-unconverged")


class SolvedPrior(Prior, abstract=True):
    """A prior that finds the atom of a seed by a potential.

    Attributes:
        facts: What is known of data and solve: source, license, sha256; chi2, draws, seconds.
    """

    records_source = True
    atoms_name: ClassVar[str] = "atoms"
    potential: Tensor  # (N,) float64; −∞ for atoms that no seed is sent to

    def check_tensor(self, name: str, tensor: Tensor) -> None:
        if name == "potential":
            finite = bool((tensor < float("inf")).all())  # (false for NaN, too)
            require(finite, name, "finite, or −∞", "NaN or infinity")
        else:
            super().check_tensor(name, tensor)

    def transport_facts(self) -> dict[str, Any]:
        """Size of the problem, χ² and effort of the solve; see `fit_facts`."""
        keys = ("chi2", "chi2_upper", "seconds", "draws", "outcome", "variance_kept", "cost_excess_share")
        known = {key: self.facts.get(key) for key in keys}
        return {"atoms": len(self.potential), "dim": self.dim, **known}

    def summary(self) -> list[tuple[str, str]]:
        """Number of atoms, χ², draws; what few axes keep and cost, if there are few."""
        solve = self.transport_facts()
        limit = f"upper 95 % limit {solve['chi2_upper']:.4f} ({solve['outcome']})"
        rows = [
            (self.atoms_name, f"{solve['atoms']:,}"),
            ("χ²", f"{solve['chi2']:.4f}, {limit}"),
            ("draws", f"{solve['draws']:,} in {solve['seconds']:.1f} s"),
        ]
        if solve["variance_kept"] is None:
            return rows
        kept = f"{self.config['rank']} of {self.dim:,}, {solve['variance_kept']:.1%} of the variance"
        above = f"W2² above the optimum by at most {solve['cost_excess_share']:.2%}"
        return [*rows, ("axes", f"{kept}; {above}")]


class CellMaps:
    """The potential of each class, kept for as long as the prior keeps its buffers."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, BrenierPotential, Tensor]] = {}

    def find(
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
            atoms: Atoms of all classes, shape (N, d).
            potential: Their offsets, (N,), float64; −∞ for atoms that no seed is sent to.
            classes: The class of each, int64 (N,).
            seen: The coordinates of atoms that cells are found from.

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


def fit_facts(images: ImageSet, solutions: list[Solution]) -> dict[str, Any]:
    """Where the images are from; the worst χ² over the classes' maps, and their summed effort."""
    worst = max(solutions, key=lambda solution: solution.chi2.upper)
    return {
        "source": images.source,
        "license": images.license,
        "sha256": images.sha256,
        "chi2": worst.chi2.value,
        "chi2_upper": worst.chi2.upper,
        "outcome": worst.outcome.value,
        "method": worst.stats["method"],
        "draws": sum(solution.stats["draws"] for solution in solutions),
        "seconds": sum(solution.stats["seconds"] for solution in solutions),
    }
