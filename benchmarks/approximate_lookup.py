"""Approximate lookup of a cell: argmax_i ⟨z, y_i⟩ + h_i as a search for the nearest neighbour.

⟨z, y_i⟩ + h_i is the inner product of (z, 1) with v_i = (y_i, h_i). One more coordinate brings all atoms to one norm,
and then the largest inner product belongs to the nearest of (v_i, √(max |v|² − |v_i|²)) to (z, 1, 0). A graph over
those vectors (HNSW) finds a near one without looking at all N. (A graph by inner products themselves finds far fewer:
they are no distance.) What it misses is measured, not promised: a seed has nothing in common with an atom's direction,
which is hard for such graphs, the more so the higher the dimension. `lookup_quality` says how often another
atom is found, and what that costs: how much lower its score is, in units of τ (by which a mass changes by a factor of
e), and χ² of the masses that the map then has.

Needs hnswlib (`pip install "otprior[index]"`).

References:
    Bachrach et al., Speeding up the Xbox recommender system using a Euclidean transformation for inner-product
    spaces (2014).
    Malkov & Yashunin, Efficient and robust approximate nearest neighbor search using hierarchical navigable small world
    graphs (2018). https://arxiv.org/abs/1603.09320
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprior.transport.chi_squared import ChiSquared, chi_squared
from otprior.transport.potential import BrenierPotential, natural_scale
from otprior.utils.validation import check_integer, require

LINKS = 32
SEED = 0


class CellIndex:
    """A graph over the atoms of a potential, in which cells are looked up.

    Arguments:
        potential: u, over N atoms; those of offset −∞ are left out.
        effort: How many candidates a lookup keeps (HNSW's ef): recall against time.
        links: Links from an atom to others (HNSW's M): recall against memory, 8 bytes a link.
        build_effort: How many candidates are kept while the graph is built.
        threads: That build it and look up; with more than one to build, graphs of two runs differ.

    Raises:
        ImportError: If hnswlib is not installed.
        ValueError: On numbers below 1.
    """

    def __init__(
        self,
        potential: BrenierPotential,
        effort: int = 200,
        links: int = LINKS,
        build_effort: int = 200,
        threads: int = 1,
    ) -> None:
        for name, value in (("effort", effort), ("links", links), ("build_effort", build_effort)):
            check_integer(name, value, 1)
        try:
            import hnswlib
        except ImportError as error:
            raise ImportError('an index needs hnswlib: pip install "otprior[index]"') from error
        kept = torch.nonzero(torch.isfinite(potential.offsets)).reshape(-1).cpu().numpy()
        # Scores of all atoms may move alike, and a smaller last entry is better rounded.
        offsets = potential.offsets.cpu().numpy()[kept]
        vectors = np.column_stack([potential.atoms.cpu().float().numpy()[kept], offsets - offsets.mean()])
        squares = (vectors**2).sum(axis=1)
        vectors = np.column_stack([vectors, np.sqrt(squares.max() - squares)])
        self._graph: Any = hnswlib.Index(space="l2", dim=vectors.shape[1])
        self._graph.init_index(len(kept), M=links, ef_construction=build_effort, random_seed=SEED)
        self._graph.set_num_threads(threads)
        self._graph.add_items(vectors.astype(np.float32), kept, num_threads=threads)
        self._graph.set_ef(effort)

    def assign(self, z: Tensor) -> Tensor:
        """The atom found for each point; z (B, d) to int64 (B,), on z's device."""
        lifted = torch.nn.functional.pad(z.detach().cpu().float(), (0, 2))
        lifted[:, -2] = 1.0
        found, _ = self._graph.knn_query(lifted.numpy(), k=1)
        return torch.from_numpy(found[:, 0].astype(np.int64)).to(z.device)


@dataclass(frozen=True)
class LookupQuality:
    """How an index assigns draws, compared with the exact search.

    Attributes:
        recall: Share of draws whose cell is found.
        mean_loss: Mean of u(z) less the score of what is found, in units of the exact atom's τ, over all draws.
        worst_loss: The largest.
        chi2: χ² of the masses of the map by index.
        exact_chi2: χ² of the exact map's, on the same draws.
    """

    recall: float
    mean_loss: float
    worst_loss: float
    chi2: ChiSquared
    exact_chi2: ChiSquared


def lookup_quality(
    index: CellIndex, potential: BrenierPotential, weights: Tensor, z: Tensor
) -> LookupQuality:
    """Compares an index with `potential.assign` on draws z (n, d), for weights ν (N,), positive."""
    require(len(z) >= 3, "z", "of at least 3 draws", len(z))
    exact, found = potential.assign(z), index.assign(z)
    tau = natural_scale(potential.atoms, weights)
    atoms, offsets = potential.atoms, potential.offsets
    lost = torch.cat(
        [
            (row.double() * (atoms[a].double() - atoms[b].double())).sum(dim=1) + offsets[a] - offsets[b]
            for row, a, b in zip(z.split(4096), exact.split(4096), found.split(4096))
        ]
    )
    loss = lost.clamp(min=0) / tau[exact]
    chi2, exact_chi2 = (
        chi_squared(torch.bincount(cells, minlength=len(weights)), weights) for cells in (found, exact)
    )
    recall = float((exact == found).double().mean())
    return LookupQuality(recall, float(loss.mean()), float(loss.max()), chi2, exact_chi2)
