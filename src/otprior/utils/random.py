"""Standard normal draws in numbered blocks, so that a result does not depend on how the work was split.

Block b of a stream has a generator of its own, seeded from (seed, stream, b). Who draws it, in what order, in how
many threads or processes, or after which restart, changes nothing.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from otprior.utils.validation import check_generator


def seed_from(generator: torch.Generator | None) -> int:
    """A 63-bit seed drawn from `generator`, or from a fresh one seeded 0 when None."""
    if generator is None:
        generator = torch.Generator("cpu").manual_seed(0)
    check_generator(generator)
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def normal_block(seed: int, stream: str, block: int, size: int, dim: int) -> Tensor:
    """Block `block` of N(0, I) draws of a stream, shape (size, dim), float32, on the CPU.

    Arguments:
        seed: The run's seed.
        stream: What the draws are for; streams of different names are independent.
        block: The block's number.
        size: Rows in each block of this stream.
        dim: Dimension d.
    """
    return torch.randn(
        size, dim, generator=stream_generator(seed, stream, block), dtype=torch.float32, device="cpu"
    )


def keyed_normal(z: Tensor) -> Tensor:
    """N(0, I) draws shaped as z, float32 on z's device; each row's follow from that row of z alone.

    The key is SHA-256 of the row's float32 values, so equal seed noise gets equal further noise.
    """
    rows = z.detach().to("cpu", torch.float32).contiguous()
    drawn = [
        torch.randn(
            row.shape,
            generator=_generator(hashlib.sha256(row.numpy().tobytes()).digest()),
            dtype=torch.float32,
            device="cpu",
        )
        for row in rows
    ]
    return (torch.stack(drawn) if drawn else torch.empty_like(rows)).to(z.device)


def stream_generator(seed: int, stream: str, block: int = 0) -> torch.Generator:
    """A generator of the block's own, on the CPU."""
    return _generator(hashlib.sha256(f"{seed}/{stream}/{block}".encode()).digest())


def _generator(digest: bytes) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
