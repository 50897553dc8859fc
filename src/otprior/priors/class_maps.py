"""The transport from N(0, I) to the images of each class: what a semi-discrete prior is fitted by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from otprior.transport.measure import DiscreteMeasure
from otprior.transport.potential import natural_scale
from otprior.transport.projection import Projection, excess_share, project
from otprior.transport.solution import Solution
from otprior.transport.solve import solve_semidiscrete
from otprior.utils.random import seed_from
from otprior.utils.validation import require

if TYPE_CHECKING:
    from otprior.priors.semidiscrete import SemiDiscreteOptions


class ClassMaps:
    """The maps of a semi-discrete prior, solved one after another.

    Attributes:
        potential: (N,), float64; −∞ for atoms that no seed is sent to.
        scales: (K,) median τ of each class.
        solutions: One a class that has images.
        excess: By how large a share of W2² the worst of the maps along few axes is above the optimum at most.
    """

    def __init__(
        self, options: SemiDiscreteOptions, atoms: Tensor, labels: Tensor | None, num_classes: int | None
    ) -> None:
        self.options, self.atoms = options, atoms
        self.by_class = num_classes is not None
        self.classes = torch.zeros(len(atoms), dtype=torch.int64) if labels is None else labels
        self.potential = torch.full((len(atoms),), float("-inf"), dtype=torch.float64)
        self.scales = torch.ones(num_classes or 1)
        self.projection: Projection | None = None
        self.solutions: list[Solution] = []
        self.excess = 0.0

    def solve(self, generator: torch.Generator, checkpoints: str | Path | None, **solver: Any) -> None:
        """Solves all, from a generator and with what else `solve_semidiscrete` takes."""
        options, weights = self.options, self.options.weights
        whole, seen = None, self.atoms
        if not self.by_class or weights is not None or options.rank is not None:
            whole = DiscreteMeasure.build(self.atoms, weights)
        if options.rank is not None:
            assert whole is not None
            self.projection = project(self.atoms, whole.given_weights(), options.rank)
            seen = self.projection.apply(self.atoms)
        present = self.classes.unique().tolist()
        for label in present if weights is not None else ():
            positive = bool((torch.as_tensor(weights).cpu()[self.classes == label] > 0).any())
            require(positive, "weights", f"positive somewhere in class {label}", "all zero")
        for label in present:
            rows = torch.nonzero(self.classes == label).reshape(-1)
            # (A selection is a copy, which atoms mapped from a file had better be spared.)
            own = seen[rows] if self.by_class else seen
            if own is self.atoms and weights is None:
                assert whole is not None
                measure = whole
            else:
                measure = DiscreteMeasure.build(own, None if weights is None else _mass(weights, rows))
            solver["checkpoint"] = (
                None if checkpoints is None else Path(checkpoints) / f"map-{label}.safetensors"
            )
            self._solve_class(label, rows, measure, generator, solver)

    def _solve_class(
        self,
        label: int,
        rows: Tensor,
        measure: DiscreteMeasure,
        generator: torch.Generator,
        solver: dict[str, Any],
    ) -> None:
        """Solves the map onto a measure of the atoms in `rows`."""
        chosen = {name: getattr(self.options, name) for name in ("tol", "max_draws", "throw", "precision")}
        solution = solve_semidiscrete(measure, generator=generator, **chosen, **solver)
        # A duplicate is never chosen, as ties go to the first; −∞ keeps it out of the softmax as well.
        self.potential[rows[measure.index]] = solution.potential.cpu()[measure.index]
        # (One atom alone has no scale, and needs none.)
        self.scales[label] = float(natural_scale(measure.atoms, measure.weights).median()) or 1.0
        self.solutions.append(solution)
        if self.projection is not None:
            own = self.atoms[rows[measure.index].to(self.atoms.device)]
            offsets = solution.potential[measure.index]
            share = excess_share(self.projection, own, measure.atoms, offsets, seed_from(generator))
            self.excess = max(self.excess, share)

    def tensors(self) -> dict[str, Tensor]:
        """The prior's buffers; its axes only if they are few."""
        found = {"atoms": self.atoms, "potential": self.potential, "classes": self.classes}
        axes = {} if self.projection is None else {"axes": self.projection.axes}
        return {**found, "scales": self.scales, **axes}

    def projection_facts(self) -> dict[str, Any]:
        """What solving along few axes keeps, and what it costs, as measured; {} along all."""
        if self.projection is None:
            return {}
        return {"variance_kept": self.projection.variance_kept, "cost_excess_share": self.excess}


def _mass(weights: Tensor, rows: Tensor) -> Tensor:
    """The masses of some atoms, rescaled to sum 1."""
    mass = torch.as_tensor(weights).double().cpu()[rows]
    return mass / mass.sum()
