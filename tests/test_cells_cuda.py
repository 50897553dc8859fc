"""The CUDA kernel against the path that a CPU takes: through its interpreter here, compiled where there is CUDA."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from otprior.transport.cells.search import LaguerreCells
from otprior.transport.measure import DiscreteMeasure

pytest.importorskip("triton", reason="the kernel needs triton, which is published for Linux")
CUDA = torch.cuda.is_available()


def both_searches(
    count: int, dim: int, bfloat16: bool = False
) -> tuple[LaguerreCells, LaguerreCells, torch.Tensor]:
    """By blocks and by the kernel, and offsets that make cells of unequal masses."""
    generator = torch.Generator().manual_seed(count)
    atoms = torch.randn(count, dim, generator=generator).to("cuda" if CUDA else "cpu")
    blocks = replace(LaguerreCells.build(DiscreteMeasure.build(atoms), 0, bfloat16), on_cuda=False)
    offsets = torch.randn(count, generator=generator, dtype=torch.float64).to(atoms.device)
    return blocks, replace(blocks, on_cuda=True), offsets


@pytest.mark.parametrize(
    ("count", "dim", "bfloat16"),
    [(300, 150, False), (300, 150, True), (129, 128, False), (200, 24, False), (5, 2, False)],
)
def test_the_kernel_finds_the_same_cells(count: int, dim: int, bfloat16: bool) -> None:
    # (Sizes that fill neither the last tile nor the last step along the axes; 24 and 2 are not mixed.)
    blocks, fused, offsets = both_searches(count, dim, bfloat16)
    expected = blocks.find(offsets, "test", [0, 3])
    assert len(expected.unique()) > 1
    assert torch.equal(fused.find(offsets, "test", [0, 3]), expected)


def test_crowded_tiles_are_searched_whole() -> None:
    # Copies of an atom tie with it, three of them in one tile: the lowest index wins, as everywhere.
    blocks, fused, offsets = both_searches(90, 130)
    atoms = blocks.atoms.clone()
    atoms[60:63] = atoms[20]
    offsets[60:63] = offsets[20] = 40.0
    expected = replace(blocks, atoms=atoms).find(offsets, "test", [1])
    assert int((expected == 20).sum()) > 128
    assert torch.equal(replace(fused, atoms=atoms).find(offsets, "test", [1]), expected)


def test_atoms_come_in_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    import otprior.transport.cells.cuda as module

    blocks, fused, offsets = both_searches(300, 128)
    expected = fused.find(offsets, "test", [0])
    monkeypatch.setattr(module, "TILES_AT_A_TIME", 2)
    assert torch.equal(fused.find(offsets, "test", [0]), expected)
    assert torch.equal(blocks.find(offsets, "test", [0]), expected)
