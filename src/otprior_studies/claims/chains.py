r"""Chains of Gaussians: random laws that are short tensor trains and have exact scores.

    p(x) = Σ over i_1 … i_{d−1} of  Π_k w_k[i_{k−1}, i_k] N(x_k; m_k[i_{k−1}, i_k], s_k²[i_{k−1}, i_k]),

a product of d matrices of bumps, of r rows and columns (one at the two ends). 2202.07477 takes a normal density times a
train of random positive entries as a random law. Those entries are independent from one grid point to the next, which
no polynomial between the points follows; a chain is a smooth version of it. Written out, it is a mixture of r^{d−1}
Gaussians along the axes, so its scores are known in closed form; and α x + σ ε is a chain again, with m → α m and
s² → α² s² + σ².
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from otprior.diffusion.denoisers import MixtureDenoiser
from otprior.diffusion.flow import Scales
from otprior_studies.claims.claim import Effort
from otprior_studies.fokker_planck.hermite import Cores

RANK = 2


@dataclass(frozen=True)
class Chain:
    """A chain of Gaussians; each tensor of shape (r_{k−1}, r_k), float64.

    Attributes:
        weights: w_k; the products over all chains of indices sum to 1.
        means: m_k.
        widths: s_k, standard deviations.
    """

    weights: Sequence[Tensor]
    means: Sequence[Tensor]
    widths: Sequence[Tensor]

    def noised(self, scales: Scales) -> Cores:
        """The density of α x + σ ε as a train of functions."""

        def cores(x: Tensor) -> list[Tensor]:
            found = []
            for weight, mean, width in zip(self.weights, self.means, self.widths):
                spread = (scales.alpha**2 * width**2 + scales.sigma**2).sqrt()
                off = (x[None, :, None] - scales.alpha * mean[:, None]) / spread[:, None]
                found.append((weight / spread)[:, None] * torch.exp(-0.5 * off**2) / math.sqrt(2 * math.pi))
            return found

        return cores

    def mixture(self) -> MixtureDenoiser:
        """The same law, written out."""
        ranks = [range(weight.shape[1]) for weight in self.weights[:-1]]
        chains = [list(pairwise((0, *inner, 0))) for inner in product(*ranks)]

        def along(parts: Sequence[Tensor]) -> Tensor:
            return torch.stack(
                [torch.stack([p[i, j] for p, (i, j) in zip(parts, chain)]) for chain in chains]
            )

        variances = along(self.widths).square()
        return MixtureDenoiser(
            along(self.weights).prod(dim=1), along(self.means), torch.diag_embed(variances)
        )


def random_chain(dim: int, effort: Effort, stream: str) -> Chain:
    """A chain of rank 2 in `dim` ≥ 2 dimensions, of mean zero, with variances of about 1."""
    ranks = [1, *[RANK] * (dim - 1), 1]
    shapes = list(pairwise(ranks))
    generator = effort.generator(stream)

    def uniform(low: float, high: float) -> list[Tensor]:
        draws = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        return [low + (high - low) * draw for draw in draws]

    weights, widths = uniform(0.1, 1.0), uniform(0.5, 0.8)
    means = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    weights[0] = weights[0] / torch.linalg.multi_dot(weights)
    centre = Chain(weights, means, widths).mixture().mean
    return Chain(weights, [mean - shift for mean, shift in zip(means, centre)], widths)
