r"""Paths between codes, and nearest codes.

Codes of d entries are about N(0, I) and so of length about √d. The straight path between two of them leaves that shell
(half-way between independent codes the length is √(d/2)), and a network decodes a code that is too short to an image
that is too smooth; the *spherical* path stays on it:

    direction  (sin((1 − t) θ) â + sin(t θ) b̂)/sin θ,  θ the angle between a and b,
    length     (1 − t)|a| + t |b|.

The straight path is nevertheless the right one between two *sets* of codes if each code goes to its partner in the best
pairing (`partners = best_partners(a, b)`; `interpolate(a, b[partners], count, "straight")`): then it is the
displacement interpolation of optimal transport, along which no two paths cross, and since partners are near, paths
leave the shell by less. The lengths show by how much.

Distance is measured by angle, since the lengths of codes say how much detail an image has rather than what it shows.

References:
    McCann, A convexity principle for interacting gases (1997): displacement interpolation.
    Shoemake, Animating rotation with quaternion curves (1985): spherical interpolation.
    White, Sampling generative networks (2016), https://arxiv.org/abs/1609.04468: of latents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprior.metrics.neighbours import nearest
from otprior.utils.validation import check_choice, check_finite, check_integer, require

PATHS = ("spherical", "straight")
# Below this sine of the angle the great circle is a line, or (opposite codes) not determined.
_SMALLEST_SINE = 1e-6


def interpolate(a: Tensor, b: Tensor, count: int, path: str = "spherical") -> Tensor:
    """Computes codes on the paths from a_i to b_i, both ends included.

    Arguments:
        a, b: Codes, shape (B, ...) each.
        count: Number of codes on a path, at equal steps, at least 2.
        path: "spherical" or "straight".

    Returns:
        Shape (B, count, ...), in the dtype of `a`.

    Raises:
        ValueError: On codes of different shapes, or opposite ones, between which there is no one great circle.
    """
    check_choice("path", path, PATHS)
    check_integer("count", count, 2)
    require(a.shape == b.shape, "codes", "of equal shape", (tuple(a.shape), tuple(b.shape)))
    check_finite("codes", a)
    check_finite("codes", b)
    first, last = a.flatten(1).double()[:, None], b.flatten(1).double()[:, None]
    t = torch.linspace(0, 1, count, dtype=torch.float64, device=a.device)[None, :, None]
    found = (1 - t) * first + t * last
    if path == "spherical":
        found = _on_the_sphere(first, last, t, found)
    return found.to(a.dtype).reshape(len(a), count, *a.shape[1:])


def _on_the_sphere(first: Tensor, last: Tensor, t: Tensor, straight: Tensor) -> Tensor:
    lengths = [ends.norm(dim=2, keepdim=True) for ends in (first, last)]
    require(min(float(length.min()) for length in lengths) > 0, "codes", "other than 0", "a code of length 0")
    one, other = first / lengths[0], last / lengths[1]
    cosine = (one * other).sum(dim=2, keepdim=True).clamp(-1, 1)
    angle = cosine.arccos()
    sine = angle.sin()
    flat = sine < _SMALLEST_SINE
    hint = "Use path='straight'"
    require(
        not bool((flat & (cosine < 0)).any()), "codes", "not opposite to one another", "two that are", hint
    )
    sine = torch.where(flat, 1.0, sine)
    arc = (((1 - t) * angle).sin() * one + (t * angle).sin() * other) / sine
    return torch.where(flat, straight, arc * ((1 - t) * lengths[0] + t * lengths[1]))


def nearest_codes(queries: Tensor, codes: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """Finds the codes at the smallest angle to each query.

    Arguments:
        queries: Shape (N, ...).
        codes: Shape (M, ...), as wide.
        count: How many, at most M.

    Returns:
        Cosines of the angles, descending, (N, count), and indices into `codes`, int64 (N, count). A query that is
        among `codes` is its own nearest.
    """
    directions = []
    for name, given in (("queries", queries), ("codes", codes)):
        rows = given.flatten(1).double()
        lengths = rows.norm(dim=1, keepdim=True)
        require(bool((lengths > 0).all()), name, "other than 0", "a code of length 0")
        directions.append(rows / lengths)
    distances, index = nearest(directions[0], directions[1], count)
    return (1 - distances**2 / 2).to(queries.dtype), index
