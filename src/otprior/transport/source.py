"""The law that is transported to the atoms: N(0, I_d), or any other that can be sampled.

Solvers assume draws z of mean near zero and standard deviation near one in each direction. Other draws x = m + s z
(s > 0, entrywise) are rescaled to these, which changes only atoms and offsets: as

    ⟨x, y_i⟩ + h_i = ⟨z, s y_i⟩ + (h_i + ⟨m, y_i⟩),

the cells of x among atoms y_i with offsets h_i are those of z among atoms s y_i with offsets h_i + ⟨m, y_i⟩. This holds
for any m and s, so estimates of mean and standard deviation suffice: they affect the speed of a solve, not its result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from otprior.utils.random import normal_block, stream_generator
from otprior.utils.validation import invalid, require

Sampler = Callable[[int, int, torch.Generator], Tensor]

PILOT_DRAWS = 4096


@dataclass(frozen=True)
class Source:
    """A law on R^d, seen at unit scale: z = (x − m)/s.

    Attributes:
        name: "normal", "uniform" or "sampler".
        sampler: Draws x: (count, d, generator) to (count, d), float32; None for the normal law.
        quantile: That of one coordinate of x, where all have the same and are independent; or None.
        mean: m, shape (d,), float64; None for the normal law.
        spread: s, shape (d,), float64, positive; None for the normal law.
    """

    name: str
    sampler: Sampler | None = None
    quantile: Callable[[Tensor], Tensor] | None = None
    mean: Tensor | None = None
    spread: Tensor | None = None

    @classmethod
    def build(cls, source: str | Sampler, dim: int, seed: int) -> Source:
        """Makes the law called "normal" or "uniform" (on the cube [−½, ½]^d), or that of a sampler.

        Raises:
            ValueError: On another name, or a sampler whose draws are not finite (count, d) tensors that spread out in
                every direction.
        """
        if source == "normal":
            return NORMAL
        if source == "uniform":
            spread = torch.full((dim,), 12**-0.5, dtype=torch.float64)
            return cls("uniform", _uniform, lambda p: p - 0.5, torch.zeros_like(spread), spread)
        if isinstance(source, str) or not callable(source):
            raise invalid("source", "'normal', 'uniform' or a sampler", repr(source))
        raw = cls(
            "sampler",
            source,
            None,
            torch.zeros(dim, dtype=torch.float64),
            torch.ones(dim, dtype=torch.float64),
        )
        pilot = raw.block(seed, "pilot", 0, PILOT_DRAWS, dim).double()
        spread, mean = torch.std_mean(pilot, dim=0)
        require(
            bool((spread > 0).all()),
            "source",
            "a law that spreads out in every direction",
            f"a constant coordinate {int(spread.argmin())}",
        )
        return replace(raw, mean=mean, spread=spread)

    @property
    def mixes(self) -> bool:
        """Whether orthogonal combinations of independent draws have the same law, as only normal draws do."""
        return self.sampler is None

    def block(self, seed: int, stream: str, block: int, size: int, dim: int) -> Tensor:
        """Block `block` of a stream of draws z, shape (size, dim), float32; see `random.normal_block`."""
        if self.sampler is None or self.mean is None or self.spread is None:
            return normal_block(seed, stream, block, size, dim)
        x = self.sampler(size, dim, stream_generator(seed, stream, block))
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        require(shape == (size, dim), "source", f"a sampler of draws of shape ({size}, {dim})", shape)
        if not bool(torch.isfinite(x).all()):
            raise invalid("source", "a sampler of finite draws", "NaN or infinity")
        return ((x.to("cpu", torch.float64) - self.mean) / self.spread).float()

    def points(self, count: int, dim: int, seed: int) -> Tensor:
        """Makes points z spread as evenly as the law allows: Sobol points through the quantile function, or draws.

        Returns:
            Shape (count, dim), float64.
        """
        if self.quantiles:
            uniform = SobolEngine(dim, scramble=True, seed=seed % 2**31).draw(count, dtype=torch.float64)
            return self.quantiles(uniform.clamp(2.0**-53, 1 - 2.0**-53))
        return self.block(seed, "points", 0, count, dim).double()

    @property
    def quantiles(self) -> Callable[[Tensor], Tensor] | None:
        """Quantile function of a coordinate of z, float64; None if it is not known."""
        if self.mixes:
            return torch.special.ndtri
        if self.quantile is None or self.mean is None or self.spread is None:
            return None
        quantile, mean, spread = self.quantile, self.mean[0], self.spread[0]
        return lambda p: (quantile(p) - mean) / spread

    def scaled(self, atoms: Tensor) -> Tensor:
        """Rescales atoms (N, d) to s y, in their dtype, the targets of z."""
        return (
            atoms if self.spread is None else (atoms.double() * self.spread.to(atoms.device)).to(atoms.dtype)
        )

    def offsets(self, offsets: Tensor, atoms: Tensor) -> Tensor:
        """Converts offsets (N,) for z among atoms s y to those for x among atoms y (N, d); mean zero."""
        if self.mean is None:
            return offsets
        moved = offsets - atoms.double() @ self.mean.to(atoms.device)
        return moved - moved.mean()


NORMAL = Source("normal")


def _uniform(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, dim, generator=generator) - 0.5
