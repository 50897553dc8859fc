"""Whitening within cells: exact where cells are known, bounded elsewhere; the priors that use it, and their audit."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import ot
import pytest
import torch
from generators.line import line
from generators.mixtures import mixture
from generators.symmetric import polygon
from scipy.stats import kstest, norm
from torch import Tensor

from otprior import MixturePrior, Prior, SemiDiscretePrior, solve_semidiscrete
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error import Target, data_error, draw_starts
from otprior.transport.potential import BrenierPotential
from otprior.transport.whitening import CellPoints, Whitening, find_chord, pooled_means

SCHEDULE = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
SHAPE = (1, 3, 4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def corners(dim: int) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * dim).reshape(-1, dim).double()


def whitened(
    atoms: Tensor, weights: Tensor | None = None, count: int = 20_000
) -> tuple[Whitening, CellPoints, Tensor, float]:
    """A whitening, points in their cells, R of them, and the bound on the relative entropy that is left."""
    solution = solve_semidiscrete(atoms, weights, tol=0.02)
    found = Whitening.sample(solution.measure, solution.potential, seed=0, draws=10_000)
    brenier = BrenierPotential.build(atoms, solution.potential)
    z = normal(count, atoms.shape[1], seed=7).to(atoms.dtype)
    cell = brenier.assign(z)
    points = CellPoints(brenier, z, cell, cell)
    mass = torch.bincount(cell, minlength=len(atoms)).double() / count
    spread = float(-(mass * mass.clamp(min=1e-300).log()).sum())
    return found, points, found.apply(points), float(found.entropies(points).mean()) + spread


# Known cells -----------------------------------------------------------------------------------------------


def test_intervals_on_the_line() -> None:
    """There R is Φ⁻¹ of the place between the quantiles of the ends of the cell, also where a cell has no mean."""
    truth = line(9, ratio=8.0)
    found, points, white, left = whitened(truth.atoms, truth.weights)
    cell, z = points.cell.numpy(), points.points.numpy()[:, 0]
    rank = np.empty(9, dtype=int)
    rank[truth.order] = np.arange(9)
    low, high = (norm.cdf(truth.boundaries[rank[cell] + k]) for k in (0, 1))
    expected = norm.ppf((norm.cdf(z) - low) / (high - low))
    # (It rises with z, whichever way u points: Φ⁻¹ is odd.) The solver's boundaries are off by 1e-9 or so.
    inside = np.abs(expected) < 5
    np.testing.assert_allclose(white.numpy()[inside, 0], expected[inside], atol=1e-4)
    assert abs(left) < 1e-3
    assert set(found.directions.abs().reshape(-1).tolist()) == {1.0}


def test_half_spaces() -> None:
    """Along the normal |z| is the law; across it nothing moves."""
    atoms = normal(2, 6, seed=3).double()
    _, points, white, left = whitened(atoms)
    across = torch.nn.functional.normalize(atoms[0] - atoms[1], dim=0)
    for k in (0, 1):
        rows = points.cell == k
        assert kstest(white[rows].numpy() @ across.numpy(), "norm").pvalue > 1e-3
    off = white - points.points
    # Gains along the other axis are estimated from 8,192 draws.
    assert float((off - (off @ across)[:, None] * across).abs().mean()) < 0.02
    assert abs(left) < 2e-3


@pytest.mark.parametrize("dim", [2, 3])
def test_orthants(dim: int) -> None:
    """Mean and covariance of R are those of N(0, I), and what is left is that of half-normal coordinates, turned."""
    _, points, white, left = whitened(corners(dim), count=40_000)
    for k in (0, 2**dim - 1):
        own = white[points.cell == k]
        error = len(own) ** -0.5
        assert float(own.mean(dim=0).abs().max()) < 4 * error
        assert float((torch.cov(own.T) - torch.eye(dim)).abs().max()) < 8 * error
    assert 0 < left < 0.1 * dim * math.log(2)


def test_what_is_left_bounds_the_distance() -> None:
    """In the plane: W2² between R(z) and N(0, I), by exact transport of samples, is below twice the entropy left."""
    _, points, white, left = whitened(normal(12, 2, seed=5).double())
    total = 0.0
    for k in range(12):
        own = white[points.cell == k][:600]
        cost, noise = (
            float(ot.emd2([], [], (torch.cdist(own, other) ** 2).numpy()))
            for other in (normal(len(own), 2, seed=100 + k).double(), own.roll(0))
        )
        # Two samples of one law are apart as well: by as much as two samples of N(0, I).
        first, second = (normal(len(own), 2, seed=seed + k).double() for seed in (300, 500))
        total += (cost - float(ot.emd2([], [], (torch.cdist(first, second) ** 2).numpy()))) / 12
        assert noise == pytest.approx(0, abs=1e-9)
    assert total < 2 * left + 0.02
    assert left < 0.15 * math.log(12)


def test_most_of_the_error_goes_in_many_dimensions() -> None:
    atoms = mixture(300, 40)
    _, points, white, left = whitened(atoms)
    assert left < 0.25 * math.log(300)
    own = torch.nn.functional.normalize(atoms - atoms.mean(dim=0))[points.cell]
    before, after = ((each * own).sum(dim=1) for each in (points.points, white))
    assert float(before.mean()) > 1.5
    assert abs(float(after.mean())) < 0.1 * float(before.mean())
    assert float((white**2).sum(dim=1).mean()) == pytest.approx(40, rel=0.03)


def test_cells_borrow_from_one_another() -> None:
    """With few draws pooled means are much nearer to those of many draws; with more still nearer."""
    atoms = mixture(600, 10, norm_ratio=1.5)
    solution = solve_semidiscrete(atoms, tol=0.05)
    truth = solution.adjacency(20_000).conditional_means()[0]
    distance = {}
    for draws in (512, 4096):
        found = solution.adjacency(draws, generator=torch.Generator().manual_seed(1))
        raw, error = found.conditional_means()
        pooled = pooled_means(raw, error, atoms.double(), found.masses)[0]
        both = ~raw.isnan().any(dim=1)
        distance[draws] = [float((each - truth)[both].norm(dim=1).mean()) for each in (raw, pooled)]
    assert distance[512][1] < 0.5 * distance[512][0]
    assert distance[4096][1] < distance[4096][0]


def test_chords_end_at_the_cell() -> None:
    """Just inside its ends a chord is in the cell, just outside it is not."""
    atoms = normal(50, 5, seed=1).double()
    brenier = BrenierPotential.build(atoms, -0.3 * (atoms**2).sum(dim=1))
    z = normal(200, 5, seed=2).double()
    cell = brenier.assign(z)
    u = torch.nn.functional.normalize(normal(200, 5, seed=3).double())
    t = (z * u).sum(dim=1)
    chord = find_chord(brenier, z, cell, u)
    base = z - t[:, None] * u
    line_ = torch.linspace(-9, 9, 2001).double()
    inside = torch.stack([brenier.assign(base + s * u) == cell for s in line_], dim=1)
    step = float(line_[1] - line_[0])
    mass = (inside * torch.exp(-0.5 * line_**2)).sum(dim=1) * step / math.sqrt(2 * math.pi)
    below = (
        (inside * (line_ < t[:, None]) * torch.exp(-0.5 * line_**2)).sum(dim=1)
        * step
        / math.sqrt(2 * math.pi)
    )
    # The ends of a chord on the grid are off by a step of 0.009, which is up to 0.0036 of mass each.
    torch.testing.assert_close(chord.log_mass.exp(), mass, rtol=0, atol=0.008)
    wide = mass > 0.05
    torch.testing.assert_close(
        torch.special.ndtr(chord.whitened)[wide] * mass[wide], below[wide], rtol=0, atol=0.012
    )


def test_cells_that_all_meet_at_the_origin() -> None:
    found, _, white, left = whitened(polygon(5))
    assert bool(white.isfinite().all())
    assert 0 <= left < math.log(5) / 3
    assert found.directions.norm(dim=1).tolist() == pytest.approx([1.0] * 5, abs=1e-6)


# Priors ----------------------------------------------------------------------------------------------------


def images(count: int = 60) -> Tensor:
    return (normal(count, *SHAPE, seed=7) / 3).clamp(-1, 1)


@pytest.fixture(scope="module")
def prior() -> SemiDiscretePrior:
    return SemiDiscretePrior.fit(images(), SCHEDULE, noise="whitened")


@pytest.fixture(scope="module")
def conditional() -> SemiDiscretePrior:
    return SemiDiscretePrior.fit(images(), SCHEDULE, labels=torch.arange(60) % 2 * 2, noise="whitened")


def test_a_start_is_its_image_and_nearly_white_noise(prior: SemiDiscretePrior) -> None:
    z = normal(4000, *SHAPE, seed=1)
    x, source = prior.start_and_source(z)
    assert torch.equal(source, prior.with_options(noise="coupled").source(z))
    noise = ((x - prior.alpha * images()[source]) / prior.sigma).flatten(1)
    cover = torch.cov(noise.T)
    assert float(noise.mean(dim=0).abs().max()) < 4 * 4000**-0.5
    # Variances over all cells have errors of √(2/4000) = 0.022; a cell's own may differ from the common gain.
    assert float((cover - torch.eye(12)).abs().max()) < 0.15
    signal = images()[source].flatten(1)
    coupled = z.flatten(1)
    along = [float((each * signal).sum(dim=1).mean()) for each in (coupled, noise)]
    assert abs(along[1]) < 0.05 * along[0]
    # And it is the seed's own: most of z is still there.
    assert float((noise * coupled).sum(dim=1).mean()) > 0.7 * 12


def test_rows_alone_and_in_a_batch(prior: SemiDiscretePrior) -> None:
    z = normal(30, *SHAPE, seed=2)
    together = prior(z)
    alone = torch.cat([prior(row[None]) for row in z])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-4)  # rounding, where R is steep


def test_other_timesteps_and_noises_come_from_the_same_map(prior: SemiDiscretePrior) -> None:
    z = normal(10, *SHAPE, seed=3)
    earlier = prior.at(300)
    noise = (prior(z) - prior.alpha * images()[prior.source(z)]) / prior.sigma
    expected = earlier.alpha * images()[prior.source(z)] + earlier.sigma * noise
    torch.testing.assert_close(earlier(z), expected, rtol=0, atol=1e-5)
    coupled = SemiDiscretePrior.fit(images(), SCHEDULE)
    torch.testing.assert_close(prior.with_options(noise="coupled")(z), coupled(z))
    again = coupled.whiten()
    assert again.noise == "whitened"
    with pytest.raises(ValueError, match="noise must be of another kind: this prior has no whitening"):
        coupled.with_options(noise="whitened")
    with pytest.raises(ValueError, match="smoothing must be 0 with noise='whitened'"):
        prior.with_options(smoothing=0.1)
    with pytest.raises(ValueError, match="correlation must be 1 with noise='whitened'"):
        prior.with_options(correlation=0.5)


def test_by_class(conditional: SemiDiscretePrior) -> None:
    """A class's starts are those of a prior of its images alone, up to the draws that each was fitted with."""
    z, labels = normal(400, *SHAPE, seed=4), torch.arange(400) % 2 * 2
    x, source = conditional.start_and_source(z, labels)
    assert torch.equal(source % 2 * 2, labels)
    alone = SemiDiscretePrior.fit(images()[::2], SCHEDULE, noise="whitened")
    rows = labels == 0
    off = float((x[rows] - alone(z[rows])).square().mean().sqrt())
    assert off < 0.15 * conditional.sigma


@pytest.mark.parametrize("kind", ["whole", "axes", "classes", "mixture"])
def test_a_round_trip_through_disk(kind: str, tmp_path: Path) -> None:
    labels = torch.arange(60) % 2 if kind == "classes" else None
    options = {"rank": 5} if kind == "axes" else {}
    if kind == "mixture":
        fitted: Prior = MixturePrior.fit(images(), SCHEDULE, components=6, rank=2, noise="whitened")
    else:
        fitted = SemiDiscretePrior.fit(images(), SCHEDULE, labels=labels, noise="whitened", **options)
    fitted.save_pretrained(tmp_path / "prior")
    z = normal(5, *SHAPE, seed=5)
    given = None if labels is None else torch.tensor([0, 1, 0, 1, 1])
    torch.save((z, given, fitted(z, given)), tmp_path / "rows.pt")
    code = (
        "import sys, torch, otprior\n"
        "z, labels, want = torch.load(sys.argv[2])\n"
        "prior = otprior.Prior.from_pretrained(sys.argv[1])\n"
        "torch.testing.assert_close(prior(z, labels), want)\n"
        "assert prior.noise == 'whitened'\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "prior"), str(tmp_path / "rows.pt")], check=True
    )


def test_beyond_the_axes_that_cells_are_found_from_the_seed_stays() -> None:
    fitted = SemiDiscretePrior.fit(images(), SCHEDULE, rank=4, noise="whitened")
    z = normal(50, *SHAPE, seed=6)
    noise = ((fitted(z) - fitted.alpha * images()[fitted.source(z)]) / fitted.sigma).flatten(1).double()
    off = noise - z.flatten(1).double()
    assert float((off - off @ fitted.axes @ fitted.axes.T).abs().max()) < 1e-5
    assert float((off @ fitted.axes).abs().mean()) > 0.1


def test_clusters_of_a_mixture() -> None:
    """The start's law is nearly the mixture's p_t: its variance along the means is that of fresh noise."""
    data = torch.cat([images(80) * 0.2 + shift for shift in (-0.6, 0.0, 0.6)])
    fitted = MixturePrior.fit(data, SCHEDULE, 400, components=12, rank=2, noise="whitened")
    z, fresh = normal(6000, *SHAPE, seed=8), normal(6000, *SHAPE, seed=9)
    starts = {
        "whitened": fitted(z),
        "coupled": fitted.with_options(noise="coupled")(z),
        "fresh": fitted.with_options(noise="fresh")(z, fresh=fresh),
    }
    size = {name: float(x.square().sum(dim=(1, 2, 3)).mean()) for name, x in starts.items()}
    assert abs(size["whitened"] - size["fresh"]) < 0.1 * abs(size["coupled"] - size["fresh"])


# The audit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timestep", [300, 600])
def test_the_interval_of_the_prior_error(prior: SemiDiscretePrior, timestep: int) -> None:
    """It holds the distance of samples, and its upper end is well below that of coupled noise."""
    target = Target.of(images())
    uppers = {}
    for noise in ("coupled", "whitened"):
        start = prior.with_options(noise=noise).at(timestep)
        draws = draw_starts(start, generator=torch.Generator().manual_seed(1), mass_draws=400_000)
        interval = data_error(start, target, draws=draws)
        assert interval.lower.value <= interval.upper.value
        uppers[noise] = next(b.value for b in (interval.upper, *interval.others) if b.how == "chain")
    assert uppers["whitened"] < 0.7 * uppers["coupled"]
