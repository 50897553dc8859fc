r"""
Optimal transport in the plane: cells of equal shares
=====================================================

Optimal transport sends noise z ~ N(0, I) to atoms so that each atom receives its share, and z moves as little
as possible. The points that go to one atom are a convex polygon, its *Laguerre cell*: i(z) = argmax ⟨z, y_i⟩
+ h_i.

With all offsets alike in ‖y_i‖², every z goes to its *nearest* atom, and shares are far from equal. The
solver moves the offsets h_i until they are. Atoms far outside may then lie outside their own cells: what
counts is the direction.

Picture: The plane cut into cells of the nearest atom, beside the cells of optimal transport, each with a dot
for its atom; below, the share of the noise that each cell receives, which optimal transport makes equal.
"""

import sys

import matplotlib.pyplot as plt
import torch

from otprior import BrenierPotential, solve_semidiscrete

# %%
# Twelve atoms, half of them close together, and the solve.

generator = torch.Generator().manual_seed(3)
atoms = torch.cat(
    [torch.randn(6, 2, generator=generator) * 0.25 + 0.8, torch.randn(6, 2, generator=generator)]
)
solution = solve_semidiscrete(atoms, generator=torch.Generator().manual_seed(0), tol=1e-3)
print(f"χ² of the cells' masses {solution.chi2.value:.1e}, by the method {solution.stats['method']!r}")
maps = {
    "the nearest atom": BrenierPotential.build(atoms, -atoms.square().sum(dim=1) / 2),
    "optimal transport": BrenierPotential.build(atoms, solution.potential),
}

# %%
# Cells on a grid of points, and their shares by counting a million draws.

side = torch.linspace(-3, 3, 400)
plane = torch.cartesian_prod(side, side)
draws = torch.randn(1_000_000, 2, generator=generator)
figure, axes = plt.subplots(2, 2, figsize=(7.6, 5.2), height_ratios=(4, 1), layout="constrained")
for (name, cells), (picture, bars) in zip(maps.items(), axes.T):
    drawn = cells.assign(plane).reshape(400, 400).T
    picture.imshow(drawn, origin="lower", extent=(-3, 3, -3, 3), cmap="tab20", vmin=0, vmax=19, alpha=0.6)
    picture.scatter(*atoms.T, c=range(len(atoms)), cmap="tab20", vmin=0, vmax=19, edgecolors="black", s=45)
    picture.set(title=name, xticks=[], yticks=[])
    shares = torch.bincount(cells.assign(draws), minlength=len(atoms)) / len(draws)
    bars.bar(range(len(atoms)), shares, color=plt.get_cmap("tab20").colors[: len(atoms)])
    bars.axhline(1 / len(atoms), color="black", linewidth=0.8)
    bars.set(xticks=[], ylabel="share", ylim=(0, 0.35))
    print(f"{name}: shares from {float(shares.min()):.3f} to {float(shares.max()):.3f}")
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "transport_cells.png", dpi=100)
