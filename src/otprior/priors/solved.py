"""What priors share whose seeds are sent to atoms by a transport that was solved for: one Brenier potential a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.priors.base import Prior
from otprior.priors.data import rows_by_class
from otprior.priors.options import PriorOptions, option
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.potential import BrenierPotential
from otprior.transport.solution import Solution
from otprior.transport.whitening import CellPoints, Whitening
from otprior.utils.random import seed_from
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
        noise: "coupled", "fresh", "whitened" or another way.
    """

    records_source = True
    atoms_name: ClassVar[str] = "atoms"
    noise: str
    potential: Tensor  # (N,) float64; −∞ for atoms that no seed is sent to
    classes: Tensor  # (N,) int64; all 0 when unconditional
    # Of the whitening of each class's cells, if it was sampled; see `otprior.transport.whitening`.
    directions: Tensor  # (N, coordinates that cells are found from)
    whitening_axes: Tensor  # (K, the same coordinates, r)
    whitening_gains: Tensor  # (K, r)

    def whiten(self, *, draws: int | None = None, generator: torch.Generator | None = None) -> Self:
        """The same map with noise="whitened": the seed's own noise, carried back to N(0, I) within each cell.

        Nothing is solved again, but the cells' adjacency is sampled, for each class. Every other kind of noise stays
        available by `with_options`.

        Arguments:
            draws: Draws for the adjacency of each class's cells; by default two an atom, and 4,096 at least.
            generator: Seeds them; None stands for a fixed seed.

        Examples:
            >>> prior = SemiDiscretePrior.fit(images, scheduler).whiten()  # or fit(..., noise="whitened")
            >>> prior.with_options(noise="coupled")
        """
        seed = seed_from(generator)
        parts = []
        for label in self.classes[torch.isfinite(self.potential)].unique().tolist():
            brenier, index = self._map_of(label)
            found = Whitening.sample(DiscreteMeasure.build(brenier.atoms), brenier.offsets.cpu(), seed, draws)
            parts.append((label, index, found))
        kept = max(len(found.gains) for _, _, found in parts)
        other = type(self)(**{**self._own_config(), "noise": "whitened", "whitening": kept})
        for label, index, found in parts:
            other.directions[index.cpu()] = found.directions
            rank = len(found.gains)
            other.whitening_axes[label, :, :rank], other.whitening_gains[label, :rank] = (
                found.axes,
                found.gains,
            )
        names = ("directions", "whitening_axes", "whitening_gains")
        own = {name: getattr(other, name).to(self.potential.device) for name in names}
        other.load_state_dict({**self.state_dict(), **own}, assign=True)
        other._anchor = self._anchor
        return other.eval()

    @classmethod
    def fit_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Also the noise, if it is whitened, since that takes the cells' adjacency."""
        whitened = {"noise": "whitened"} if options.get("noise") == "whitened" else {}
        return super().fit_options(options) | whitened

    def _allot_whitening(self, dim: int, axes: int | None) -> None:
        """The buffers of a whitening with so many axes, in coordinates of so many dimensions; none without axes."""
        hint = "Call prior.whiten(), or fit with noise='whitened'."
        rule = "of another kind: this prior has no whitening"
        require(axes is not None or self.noise != "whitened", "noise", rule, "'whitened'", hint)
        if axes is None:
            return
        maps = self.num_classes or 1
        self.register_buffer("directions", torch.zeros(len(self.potential), dim))
        self.register_buffer("whitening_axes", torch.zeros(maps, dim, axes))
        self.register_buffer("whitening_gains", torch.ones(maps, axes))

    def _map_of(self, label: int) -> tuple[BrenierPotential, Tensor]:
        """The potential of one class, over its atoms that seeds are sent to, and their indices."""
        raise NotImplementedError

    def _seen(self, rows: Tensor) -> Tensor:
        """What of rows (B, d) cells are found from."""
        return rows

    def _unseen(self, rows: Tensor) -> Tensor:
        """The rows (B, d) that have these coordinates, and no others, in what cells are found from."""
        return rows

    def _source_and_white(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The atom of each seed, (B,), and its whitened noise, (B, d)."""
        source = torch.empty(len(z), dtype=torch.int64, device=z.device)
        white = torch.empty_like(z)
        for rows, whitening, cells in self._cells_to_whiten(z, labels):
            source[rows] = cells.index
            white[rows] = z[rows] + self._unseen(whitening.apply(cells) - cells.points)
        return source, white

    def whitening_entropy(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """What each seed adds to the relative entropy that whitening leaves, without −ln p_i of its cell.

        The mean over seeds, plus the entropy of the cells' masses, bounds ½ W2² between whitened and fresh noise; see
        `otprior.transport.whitening`.

        Arguments:
            z: Seed noise, shape (B, C, H, W).
            labels: Class labels, (B,), if the prior is conditional.

        Returns:
            Shape (B,), float64.
        """
        require(self.noise == "whitened", "noise", "'whitened'", self.noise)
        labels = self._check_call(z, labels)
        found = torch.empty(len(z), dtype=torch.float64, device=z.device)
        for rows, whitening, cells in self._cells_to_whiten(z.float().flatten(1), labels):
            found[rows] = whitening.entropies(cells)
        return found

    def _cells_to_whiten(
        self, z: Tensor, labels: Tensor | None
    ) -> Iterator[tuple[Tensor | slice, Whitening, CellPoints]]:
        """For each class its rows of z, its whitening, and where the rows lie."""
        for label, rows in rows_by_class(labels):
            brenier, index = self._map_of(label)
            seen = self._seen(z[rows])
            cell = brenier.assign(seen)
            own = Whitening(self.directions, self.whitening_axes[label], self.whitening_gains[label])
            yield rows, own, CellPoints(brenier, seen, cell, index[cell])

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
