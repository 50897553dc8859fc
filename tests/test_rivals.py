"""Rivals of the coupled start: boosted random atoms, mini-batch transport, potentials that nobody solved for."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import diffusers
import pytest
import torch
from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import Prior, RandomAtomPrior, SemiDiscretePrior
from otprior_studies.rivals.boosted_atom import DIRECTIONS, BoostedAtomPrior, cell_means
from otprior_studies.rivals.mini_batch import MiniBatchPrior
from otprior_studies.rivals.unsolved import UnsolvedPrior

SCHEDULE = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
SHAPE = (1, 4, 4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = (normal(40, *SHAPE, seed=7) / 3).clamp(-1, 1)


@pytest.fixture(scope="module")
def coupled() -> SemiDiscretePrior:
    return SemiDiscretePrior.fit(IMAGES, SCHEDULE, 500)


def with_atoms(atoms: Tensor) -> SemiDiscretePrior:
    """The exact map to two opposite atoms: its potential is zero."""
    prior = SemiDiscretePrior(list(atoms.shape[1:]), SCHEDULE.to_dict(), 500, len(atoms))
    potential = torch.zeros(len(atoms), dtype=torch.float64)
    state = {"atoms": atoms.flatten(1), "potential": potential}
    prior.load_state_dict({**prior.state_dict(), **state}, assign=True)
    return prior


# Boosted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_cell_means_of_two_opposite_atoms(direction: str) -> None:
    """Cells are half-spaces, with mean √(2/π) along the atom. 16,384 draws: an error of 0.6/√16384 = 0.005."""
    atom = normal(1, *SHAPE, seed=3)
    means = cell_means(with_atoms(torch.cat([atom, -atom])), direction)
    direction_of = atom.flatten() / atom.norm()
    for mean, sign in zip(means, (1, -1)):
        expected = sign * math.sqrt(2 / math.pi) * direction_of
        # The second form adds noise along the other 15 axes, in which the atoms do not vary: none.
        assert float((mean - expected).norm()) < 0.03


def test_boosted_starts_have_the_mean_of_coupled_ones_along_the_atom(coupled: SemiDiscretePrior) -> None:
    """E⟨x, r⟩/|r|, r the atom less the mean. 6,000 starts each: standard errors of 0.013; five of their difference."""
    boosted = BoostedAtomPrior.of(coupled, 500)
    z, fresh = normal(6000, *SHAPE), normal(6000, *SHAPE, seed=1)
    r = IMAGES.flatten(1) - IMAGES.flatten(1).mean(dim=0)
    means = []
    for prior, noise in ((coupled, None), (boosted, fresh), (RandomAtomPrior.of(coupled, 500), fresh)):
        start, source = prior.start_and_source(z, fresh=noise)
        assert source is not None
        along = (start.flatten(1) * r[source]).sum(dim=1) / r[source].norm(dim=1)
        means.append(float(along.mean()))
    assert means[1] == pytest.approx(means[0], abs=0.09)
    assert means[2] < means[0] - 0.3  # which the plain rival has not


def test_a_boosted_prior_moves_and_is_saved_with_its_means(
    coupled: SemiDiscretePrior, tmp_path: Path
) -> None:
    boosted = BoostedAtomPrior.of(coupled, 300, 0.5 * cell_means(coupled, "mean"))
    z, fresh = normal(5, *SHAPE), normal(5, *SHAPE, seed=1)
    boosted.save_pretrained(tmp_path / "prior")
    assert torch.equal(Prior.from_pretrained(tmp_path / "prior")(z, fresh=fresh), boosted(z, fresh=fresh))
    assert torch.equal(boosted.at(400).at(300)(z, fresh=fresh), boosted(z, fresh=fresh))


def test_directions_and_classes_are_checked(coupled: SemiDiscretePrior) -> None:
    with pytest.raises(ValueError, match="direction must be one of"):
        cell_means(coupled, "sideways")
    by_class = SemiDiscretePrior.fit(IMAGES, SCHEDULE, labels=torch.arange(40) % 2)
    with pytest.raises(ValueError, match="prior must be one without classes; got 2 classes"):
        cell_means(by_class)


# Mini-batches ----------------------------------------------------------------------------------------------


def test_a_mini_batch_is_paired_at_least_cost(coupled: SemiDiscretePrior) -> None:
    """Against all 720 pairings of six seeds with their six random atoms."""
    rival, plain = MiniBatchPrior.of(coupled, 500), RandomAtomPrior.of(coupled, 500)
    z = normal(6, *SHAPE)
    source, given = rival.source(z), plain.source(z)
    assert source is not None
    assert given is not None
    assert sorted(source.tolist()) == sorted(given.tolist())

    def cost(index: Tensor) -> float:
        return float((z - IMAGES[index]).double().square().sum())

    least = min(cost(given[list(order)]) for order in itertools.permutations(range(6)))
    assert cost(source) == pytest.approx(least, rel=1e-6)
    torch.testing.assert_close(rival(z), rival.alpha * IMAGES[source] + rival.sigma * z)


def test_mini_batches_keep_classes_apart() -> None:
    labels = torch.arange(40) % 2
    prior = MiniBatchPrior.fit(IMAGES, SCHEDULE, labels=labels)
    wanted = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    source = prior.source(normal(7, *SHAPE), wanted)
    assert source is not None
    assert torch.equal(labels[source], wanted)


# Unsolved --------------------------------------------------------------------------------------------------


def test_potential_zero_takes_the_atom_that_correlates_most(coupled: SemiDiscretePrior) -> None:
    z = normal(50, *SHAPE)
    source = UnsolvedPrior.of(coupled, "zero").source(z)
    assert source is not None
    assert torch.equal(source, (z.flatten(1) @ IMAGES.flatten(1).T).argmax(dim=1))


def test_the_first_guess_is_better_than_nothing_and_worse_than_the_solution() -> None:
    """Atoms in four directions, whose scores are not independent, solved to χ² = 0.05. 40,000 draws add 0.001."""
    images = torch.tanh(normal(40, 4, seed=1) @ normal(4, 16, seed=2)).reshape(40, *SHAPE)
    coupled = SemiDiscretePrior.fit(images, SCHEDULE)
    z = normal(40_000, *SHAPE, seed=5)

    def error(prior: SemiDiscretePrior) -> float:
        source = prior.source(z)
        assert source is not None
        return float((torch.bincount(source, minlength=40) / 1000 - 1).square().mean())

    zero, guess, solved = (
        error(UnsolvedPrior.of(coupled, "zero")),
        error(UnsolvedPrior.of(coupled, "independent")),
        error(coupled),
    )
    assert solved < 0.06 < guess < zero


def test_unsolved_priors_say_nothing_of_a_solve(coupled: SemiDiscretePrior) -> None:
    other = UnsolvedPrior.of(coupled, "zero")
    assert "chi2" not in other.facts
    assert "chi2" in coupled.facts
    with pytest.raises(ValueError, match="potential must be one of 'zero', 'independent'"):
        UnsolvedPrior.of(coupled, "half")
