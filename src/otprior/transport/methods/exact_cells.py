"""Newton's method on exact cells, in two and three dimensions.

Where the cells are a tessellation of the plane they can be constructed instead of sampled. The graph of
u(z) = max_i ⟨z, y_i⟩ + h_i is dual to the upper convex hull of the points (y_i, h_i): a facet (i, j, k) is the point
z at which three cells meet, an edge (i, j) the side that two cells share. Both derivatives of the semi-dual F are
sums over sides. With c the signed distance of the side's line from the origin and s_1 < s_2 its ends along that line,

    ∂p_i/∂h_j = −φ(c) (Φ(s_2) − Φ(s_1)) / |y_i − y_j|,
    p_i = 1{0 in cell i} − Σ_j sign(c) (T(|c|, s_2/|c|) − T(|c|, s_1/|c|)),

T being Owen's function: the normal mass of a polygon is a sum over its sides of masses of triangles with the origin.
In three dimensions the third coordinate is integrated by quadrature. At z_3 = t the cells are those of a problem in
the plane, with offsets h_i + t y_i3; F is the mean of its values over M slices, and so are its derivatives.

Newton's steps are halved until no cell becomes too small and the error falls as it should, with which they converge
from any start whose cells all have mass, in the end quadratically (Kitagawa, Mérigot & Thibert, 2019). Voronoi cells
of the atoms, shrunk to the unit scale, are such a start.

References:
    Kitagawa, Mérigot & Thibert, Convergence of a Newton algorithm for semi-discrete optimal transport (2019).
    https://arxiv.org/abs/1603.05579
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import cumulative_trapezoid
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import cg, splu
from scipy.spatial import ConvexHull, QhullError
from scipy.special import gammaincinv, ndtr, ndtri, owens_t
from torch import Tensor

from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods import Iterate, Problem

Array = NDArray[np.float64]

name = "exact cells"

# The χ² to stop at: in the plane as good as exact, at the cost of a step or two; in space a small part of the
# tolerance, with more slices where those do not suffice.
PLANE_CHI2 = 1e-9
SPACE_SHARE = 0.02
REFINEMENTS = (1, 2, 4)

# Masses are taken about a point this near to the origin, in no special direction: in symmetric problems the origin
# itself is where cells meet, and rounding would decide which of them has it.
OFF_CENTRE = 1e-7 * np.array([0.6, 0.8])
# A facet whose normal is nearer to horizontal than this belongs to no point of the plane.
LEAST_SLOPE = 1e-13
# Slices are this many times as many as the atoms along an edge of a cube of them.
SLICES_PER_LAYER = 8
# They are those of a wider normal law, weighted, so that the cells far out are not missed between two of them.
SLICES_SPREAD = 1.7
SHORTEST_STEP = 2.0**-16
MOST_STEPS = 200


def suits(problem: Problem) -> bool:
    """The normal law in the plane or in space, without entropy."""
    measure, cells = problem.measure, problem.cells
    return cells.source.mixes and not cells.entropy and measure.dim in (2, 3) and len(measure) > measure.dim


def iterates(problem: Problem, step: int = 0, state: Mapping[str, Tensor] | None = None) -> Iterator[Iterate]:
    """Yields the potential after each step of Newton's method, for finer and finer slices.

    It ends early where the cells are degenerate, or so narrow that slices miss them.
    """
    measure, device = problem.measure, problem.cells.atoms.device
    enough = PLANE_CHI2 if measure.dim == 2 else SPACE_SHARE * problem.tol
    for refinement in REFINEMENTS[: 1 if measure.dim == 2 else None]:
        try:
            for offsets, chi2 in newton_steps(measure, refinement):
                potential = torch.from_numpy(offsets).to(device)
                yield Iterate(potential, known_chi2=chi2)
                if chi2 <= enough:
                    break
        except QhullError:
            return
        if chi2 <= problem.tol:
            yield Iterate(potential, complete=True, known_chi2=chi2)


def newton_steps(measure: DiscreteMeasure, refinement: int = 1) -> Iterator[tuple[Array, float]]:
    """Yields offsets after each step of Newton's method on exact cells.

    Arguments:
        measure: At least four distinct atoms in 2 or 3 dimensions, with positive weights.
        refinement: In three dimensions: this many times as many slices.

    Yields:
        h, shape (N,), mean zero, and χ² of the masses: exact in the plane, that of the slices' mean in space. The
        last is as far as steps lead.

    Raises:
        QhullError: If the atoms lie on a line, or so nearly that rounding hides their cells.
    """
    atoms = (measure.atoms.double() - measure.mean()).cpu().numpy()
    weights = measure.weights.cpu().numpy()
    layers = len(atoms) ** (1 / 3) if measure.dim == 3 else 1 / SLICES_PER_LAYER
    cells = _Cells.build(atoms, refinement * round(SLICES_PER_LAYER * layers))
    h = _radial_start(atoms, weights)
    masses, hessian = cells.moments(h)
    floor = 0.5 * min(weights.min(), masses.min())
    error = _chi(masses, weights)
    for _ in range(MOST_STEPS):
        yield h - h.mean(), error**2
        if masses.min() <= 0:
            return  # a cell lies between two slices
        direction = _newton_direction(hessian, weights - masses, measure.dim)
        length = 1.0
        while length >= SHORTEST_STEP:
            new_masses, new_hessian = cells.moments(h + length * direction)
            new_error = _chi(new_masses, weights)
            if new_masses.min() >= floor and new_error <= (1 - length / 2) * error:
                break
            length /= 2
        else:
            return
        h, masses, hessian, error = h + length * direction, new_masses, new_hessian, new_error


def _radial_start(atoms: Array, weights: Array) -> Array:
    """The offsets −ψ(|y_i|) for which z ↦ |z| carries the normal law's radii to those of the atoms, monotonically.

    ψ' is that map's inverse, so ψ is convex, and each cell has a point, y_i brought to its radius in the normal law.
    """
    radius = np.linalg.norm(atoms, axis=1)
    order = np.argsort(radius)
    rank = np.cumsum(weights[order]) - 0.5 * weights[order]
    slope = np.sqrt(2 * gammaincinv(0.5 * atoms.shape[1], rank))
    h = np.empty(len(atoms))
    h[order] = -cumulative_trapezoid(slope, radius[order], initial=0.0)
    return h


def _chi(masses: Array, weights: Array) -> float:
    return float(np.sqrt(((masses - weights) ** 2 / weights).sum()))


def _newton_direction(hessian: csr_array, gap: Array, dim: int) -> Array:
    """The change of h, of mean zero, that closes the gap of masses to first order."""
    # h is free up to a constant: that of the largest cell stays. Scaling brings cells of unequal masses to one scale.
    diagonal = hessian.diagonal()
    free = np.arange(len(gap)) != diagonal.argmax()
    scale = 1 / np.sqrt(diagonal[free])
    scaled = hessian[free][:, free].multiply(scale[:, None]).multiply(scale[None, :])
    direction = np.zeros(len(gap))
    if dim == 2:
        factors = splu(
            scaled.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        direction[free] = scale * factors.solve(scale * gap[free])
    else:
        # Factors of a graph in space fill up; but there a graph's diameter is small, and so is its condition.
        direction[free] = scale * cg(scaled.tocsr(), scale * gap[free], rtol=1e-6, maxiter=4000)[0]
    return direction - direction.mean()


@dataclass(frozen=True)
class _Cells:
    """Cells of the plane, or of slices of the space.

    Attributes:
        flat: Atoms' first two coordinates, shape (N, 2).
        height: Their third, shape (N,); zeros in the plane.
        slices: Values of z_3, shape (M,).
        shares: The mass that each stands for, shape (M,), sum 1.
    """

    flat: Array
    height: Array
    slices: Array
    shares: Array

    @classmethod
    def build(cls, atoms: Array, slices: int) -> _Cells:
        if atoms.shape[1] == 2:
            return cls(atoms, np.zeros(len(atoms)), np.zeros(1), np.ones(1))
        # The normal law does not see a rotation, and a grid of atoms no longer has them above one another.
        turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
        atoms = atoms @ turn
        t = SLICES_SPREAD * ndtri((np.arange(slices) + 0.5) / slices)
        shares = np.exp(0.5 * (t / SLICES_SPREAD) ** 2 - 0.5 * t**2)
        return cls(np.ascontiguousarray(atoms[:, :2]), atoms[:, 2], t, shares / shares.sum())

    def moments(self, h: Array) -> tuple[Array, csr_array]:
        """Masses p (N,) and their derivative ∂p/∂h, sparse (N, N)."""
        count = len(h)
        masses, rows, columns, values = np.zeros(count), [], [], []
        for t, share in zip(self.slices, self.shares):
            i, j, flow, slope, centre = _sides(self.flat, h + t * self.height)
            masses += share * (np.bincount(j, flow, count) - np.bincount(i, flow, count))
            masses[centre] += share
            rows.append(i)
            columns.append(j)
            values.append(share * slope)
        i, j, slope = (np.concatenate(part) for part in (rows, columns, values))
        across = coo_array((-slope, (i, j)), shape=(count, count)).tocsr()
        across = across + across.T
        place = np.arange(count)
        return masses, csr_array(
            across - coo_array((across.sum(axis=1), (place, place)), shape=(count, count))
        )


def _sides(atoms: Array, h: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array, int]:
    """The sides of the cells in the plane.

    Returns:
        The two atoms i, j of each side; the mass that it takes from i and gives to j (see the module); the derivative
        of j's mass by −h_i; and the atom whose cell has the origin.
    """
    # A point below all others, in their midst, makes the hull a body even where all of u is one pyramid.
    depth = h.max() - h.min() + np.abs(atoms).max()
    below = np.append(atoms.mean(axis=0), h.min() - depth)
    hull = ConvexHull(np.vstack([np.column_stack([atoms, h]), below]))
    corners, normals = hull.simplices, hull.equations[:, :3]
    upper = (normals[:, 2] > LEAST_SLOPE) & (corners != len(atoms)).all(axis=1)
    meets = normals[:, :2] / np.where(upper, normals[:, 2], 1.0)[:, None] - OFF_CENTRE
    facets = np.flatnonzero(upper)
    found = []
    for k in range(3):
        beyond = hull.neighbors[facets, k]  # opposite to the k-th corner
        # A side between two facets is seen from both; one at the rim of the hull is a ray, seen from one.
        once = ~upper[beyond] | (facets < beyond)
        here = facets[once]
        around = corners[here]
        found.append((around[:, (k + 1) % 3], around[:, (k + 2) % 3], around[:, k], here, beyond[once]))
    first, second, opposite, facet, other = (np.concatenate(part).astype(np.int64) for part in zip(*found))

    across = atoms[second] - atoms[first]
    length = np.linalg.norm(across, axis=1)
    normal = across / length[:, None]
    along = np.stack([-normal[:, 1], normal[:, 0]], axis=1)
    start = (meets[facet] * along).sum(axis=1)
    # A ray leads to where the atom opposite scores less.
    away = np.copysign(np.inf, -((atoms[opposite] - atoms[first]) * along).sum(axis=1))
    end = np.where(upper[other], (meets[other] * along).sum(axis=1), away)
    low, high = np.minimum(start, end), np.maximum(start, end)
    distance = (h[first] - h[second]) / length - normal @ OFF_CENTRE
    far = np.abs(distance)
    with np.errstate(divide="ignore"):
        flow = np.copysign(owens_t(far, high / far) - owens_t(far, low / far), distance)
    density = np.exp(-0.5 * distance**2) / np.sqrt(2 * np.pi)
    slope = density * (ndtr(high) - ndtr(low)) / length
    return first, second, flow, slope, int(np.argmax(atoms @ OFF_CENTRE + h))
