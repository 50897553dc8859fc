"""The law that is carried to the atoms: N(0, I_d), or any other that can be drawn from.

Solvers are made for draws z of mean near zero and spread near one in each direction. Other draws x = m + s z (s > 0,
entrywise) are brought there, which changes atoms and offsets and nothing else: as

    ⟨x, y_i⟩ + h_i = ⟨z, s y_i⟩ + (h_i + ⟨m, y_i⟩),

the cells of x among atoms y_i with offsets h_i are those of z among atoms s y_i with offsets h_i + ⟨m, y_i⟩. This holds
for any m and s, so estimates of mean and spread do: they decide how fast a solve is, not what it solves.
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
        """The law called "normal" or "uniform" (on the cube [−½, ½]^d), or that of a sampler.

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
        """Whether orthogonal combinations of independent draws have the same law: the normal one's privilege."""
        return self.sampler is None

    def block(self, seed: int, stream: str, block: int, size: int, dim: int) -> Tensor:
        """Block `block` of a stream of draws z, shape (size, dim), float32; see `draws.normal_block`."""
        if self.sampler is None or self.mean is None or self.spread is None:
            return normal_block(seed, stream, block, size, dim)
        x = self.sampler(size, dim, stream_generator(seed, stream, block))
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        require(shape == (size, dim), "source", f"a sampler of draws of shape ({size}, {dim})", shape)
        if not bool(torch.isfinite(x).all()):
            raise invalid("source", "a sampler of finite draws", "NaN or infinity")
        return ((x.to("cpu", torch.float64) - self.mean) / self.spread).float()

    def points(self, count: int, dim: int, seed: int) -> Tensor:
        """Points z spread as evenly as the law allows, shape (count, dim), float64: scrambled Sobol points through
        the quantile, or else draws."""
        if self.quantiles:
            uniform = SobolEngine(dim, scramble=True, seed=seed % 2**31).draw(count, dtype=torch.float64)
            return self.quantiles(uniform.clamp(2.0**-53, 1 - 2.0**-53))
        return self.block(seed, "points", 0, count, dim).double()

    @property
    def quantiles(self) -> Callable[[Tensor], Tensor] | None:
        """The quantile function of a coordinate of z, float64, where it is known."""
        if self.mixes:
            return torch.special.ndtri
        if self.quantile is None or self.mean is None or self.spread is None:
            return None
        quantile, mean, spread = self.quantile, self.mean[0], self.spread[0]
        return lambda p: (quantile(p) - mean) / spread

    def scaled(self, atoms: Tensor) -> Tensor:
        """The atoms s y, in their dtype: what z is carried to."""
        return (
            atoms if self.spread is None else (atoms.double() * self.spread.to(atoms.device)).to(atoms.dtype)
        )

    def offsets(self, offsets: Tensor, atoms: Tensor) -> Tensor:
        """The offsets for x among atoms y (N, d) from those (N,) for z among atoms s y; mean zero."""
        if self.mean is None:
            return offsets
        moved = offsets - atoms.double() @ self.mean.to(atoms.device)
        return moved - moved.mean()


NORMAL = Source("normal")


def _uniform(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, dim, generator=generator) - 0.5
