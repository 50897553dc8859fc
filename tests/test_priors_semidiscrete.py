"""The semidiscrete prior: its formulas, its laws, one map a class, and what may be changed without a new solve."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import SemiDiscretePrior, class_maps
from otprior.transport.solution import ConvergenceError, Progress

SCHEDULE = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
SHAPE = (1, 3, 4)
COUNT = 40


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count: int = COUNT) -> Tensor:
    return (normal(count, *SHAPE, seed=7) / 3).clamp(-1, 1)


def noise(count: int, seed: int = 1) -> Tensor:
    return normal(count, *SHAPE, seed=seed)


@pytest.fixture(scope="module")
def prior() -> SemiDiscretePrior:
    return SemiDiscretePrior.fit(images(), SCHEDULE, timestep=500)


@pytest.fixture(scope="module")
def conditional() -> SemiDiscretePrior:
    """Three classes, the middle one without an image."""
    return SemiDiscretePrior.fit(images(), SCHEDULE, 500, torch.arange(COUNT) % 2 * 2, num_classes=3)


# Formulas --------------------------------------------------------------------------------------------------


def test_coupled_keeps_the_seeds_noise(prior: SemiDiscretePrior) -> None:
    z = noise(30)
    assert prior.noise == "coupled"
    torch.testing.assert_close(prior(z), prior.alpha * images()[prior.source(z)] + prior.sigma * z)
    assert not prior.needs_fresh


def test_source_is_the_cell_of_the_optimal_map(prior: SemiDiscretePrior) -> None:
    z = noise(500)
    scores = z.double().flatten(1) @ prior.atoms.double().T + prior.potential
    assert torch.equal(prior.source(z), scores.argmax(dim=1))


def test_fresh_draws_its_noise_anew(prior: SemiDiscretePrior) -> None:
    fresh = prior.with_options(noise="fresh")
    z, epsilon = noise(30), noise(30, seed=2)
    assert fresh.needs_fresh
    torch.testing.assert_close(
        fresh(z, fresh=epsilon), prior.alpha * images()[prior.source(z)] + prior.sigma * epsilon
    )


def test_correlation_keeps_part_of_the_seeds_noise(prior: SemiDiscretePrior) -> None:
    part = prior.with_options(correlation=0.6)
    z, epsilon = noise(30), noise(30, seed=2)
    expected = prior.alpha * images()[prior.source(z)] + prior.sigma * (0.6 * z + 0.8 * epsilon)
    torch.testing.assert_close(part(z, fresh=epsilon), expected)


def test_frozen_has_one_noise_an_atom(prior: SemiDiscretePrior) -> None:
    frozen = prior.with_options(noise="frozen")
    z = noise(300)
    start, source = frozen(z), prior.source(z)
    assert len(start.flatten(1).unique(dim=0)) == len(source.unique()) <= COUNT
    epsilon = (start - prior.alpha * images()[source]) / prior.sigma
    first = torch.stack([torch.nonzero(source == i)[0, 0] for i in source.unique()])
    values = epsilon[first]
    torch.testing.assert_close(
        epsilon, values[torch.searchsorted(source.unique(), source)], rtol=0, atol=1e-5
    )
    # Standard normal: 480 values or so; their mean is within 4/√n of 0, their variance within 4 √(2/n) of 1.
    n = values.numel()
    assert abs(float(values.mean())) < 4 / n**0.5
    assert abs(float(values.var()) - 1) < 4 * (2 / n) ** 0.5
    # The noise belongs to the atom: another timestep or another call does not change it.
    later = frozen.at(300)
    torch.testing.assert_close(
        (later(z) - later.alpha * images()[source]) / later.sigma, epsilon, rtol=0, atol=1e-5
    )
    assert torch.equal(frozen(z[:1]), start[:1])


def test_smoothing_is_the_softmax_mean_and_tends_to_the_map(prior: SemiDiscretePrior) -> None:
    z = noise(50)
    smoothed = prior.with_options(smoothing=0.5)
    scores = z.double().flatten(1) @ prior.atoms.double().T + prior.potential
    unit = float(prior.scales[0])
    mean = torch.softmax(scores / (0.5 * unit), dim=1) @ prior.atoms.double()
    expected = prior.alpha * mean.reshape(z.shape) + prior.sigma * z
    torch.testing.assert_close(smoothed(z).double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(prior.with_options(smoothing=1e-6)(z), prior(z), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="smoothing"):
        prior.with_options(smoothing=1e18)
    # A barycentric projection shrinks the spread of the signal, the more the larger it is.
    spread = [float(prior.with_options(smoothing=s).at(0)(z).var(dim=0).sum()) for s in (0.01, 0.3, 1.0, 3.0)]
    assert spread == sorted(spread, reverse=True)


# Laws ------------------------------------------------------------------------------------------------------


def test_every_atom_is_the_source_of_its_share(prior: SemiDiscretePrior) -> None:
    """χ² ≤ 0.05 was reached, so frequencies of 400 draws (10 an atom, noise N/n = 0.1) cannot tell."""
    counts = torch.bincount(prior.source(noise(400)), minlength=COUNT)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_the_coupled_map_is_monotone(prior: SemiDiscretePrior) -> None:
    """α ∇u + σ is the gradient of a σ-convex function: ⟨T(z) − T(z'), z − z'⟩ ≥ σ |z − z'|² for all pairs."""
    z, other = noise(2000).double(), noise(2000, seed=2).double()
    along = ((prior(z) - prior(other)).double() * (z - other)).flatten(1).sum(dim=1)
    squares = (z - other).flatten(1).square().sum(dim=1)
    assert float((along - prior.sigma * squares).min()) > -1e-4


def test_moments_of_coupled_and_fresh(prior: SemiDiscretePrior) -> None:
    """E|x|² of fresh is that of the latents; of coupled it is larger by 2 α σ E⟨z, y_i⟩."""
    z, epsilon = noise(20_000), noise(20_000, seed=2)
    atoms = images().flatten(1)
    latents = prior.alpha**2 * float(atoms.square().sum(dim=1).mean()) + prior.sigma**2 * atoms.shape[1]
    fresh = prior.with_options(noise="fresh")(z, fresh=epsilon).flatten(1).square().sum(dim=1)
    coupled = prior(z).flatten(1).square().sum(dim=1)
    # The masses are off by χ² ≤ 0.05, which moves a mean over atoms by at most √0.05 of their spread.
    spread = prior.alpha**2 * float(atoms.square().sum(dim=1).std()) * 0.05**0.5
    assert abs(float(fresh.mean()) - latents) < 4 * float(fresh.std()) / len(z) ** 0.5 + spread
    gain = 2 * prior.alpha * prior.sigma * float((z.flatten(1) * atoms[prior.source(z)]).sum(dim=1).mean())
    assert gain > 0
    assert abs(float(coupled.mean()) - latents - gain) < 4 * float(coupled.std()) / len(z) ** 0.5 + spread


def test_weights(prior: SemiDiscretePrior) -> None:
    weights = torch.arange(1, COUNT + 1).double()
    weights[3] = 0
    weights /= weights.sum()
    weighted = SemiDiscretePrior.fit(images(), SCHEDULE, weights=weights)
    counts = torch.bincount(weighted.source(noise(4000)), minlength=COUNT)
    assert int(counts[3]) == 0
    # The masses' χ² of 0.05 at most, beside the noise of 4,000 draws.
    chi2 = float(((counts / 4000 - weights) ** 2 / weights.clamp(min=1e-9)).sum())
    assert chi2 < 0.05 + 2 * COUNT / 4000
    assert bool(torch.isfinite(weighted.with_options(smoothing=0.3)(noise(20))).all())


def test_duplicates_are_one_atom() -> None:
    """For the map and for the softmax, as if they had been given once with their summed weight."""
    distinct = images(10)
    data = torch.cat([distinct, distinct[:5]])
    doubled = torch.tensor([2.0] * 5 + [1.0] * 5).double() / 15
    given = SemiDiscretePrior.fit(data, SCHEDULE)
    merged = SemiDiscretePrior.fit(distinct, SCHEDULE, weights=doubled)
    z = noise(200)
    assert torch.equal(given.source(z), merged.source(z))
    torch.testing.assert_close(given(z), merged(z))
    soft = {"smoothing": 0.5}
    torch.testing.assert_close(given.with_options(**soft)(z), merged.with_options(**soft)(z))


def test_one_image() -> None:
    for smoothing in (0.0, 0.3):
        alone = SemiDiscretePrior.fit(images(1), SCHEDULE, smoothing=smoothing)
        z = noise(5)
        torch.testing.assert_close(alone(z), alone.alpha * images(1) + alone.sigma * z)


# One map a class -------------------------------------------------------------------------------------------


def test_labels_lead_to_images_of_their_class(conditional: SemiDiscretePrior) -> None:
    z, labels = noise(200), torch.arange(200) // 100 * 2
    source = conditional.source(z, labels)
    assert torch.equal(source % 2 * 2, labels)
    torch.testing.assert_close(
        conditional(z, labels), conditional.alpha * images()[source] + conditional.sigma * z
    )
    for label in (0, 2):
        counts = torch.bincount(source[labels == label], minlength=COUNT)[label // 2 :: 2]
        assert len(counts) == COUNT // 2
        assert chisquare(counts.numpy()).pvalue > 1e-3


def test_a_class_alone_is_the_same_map(conditional: SemiDiscretePrior) -> None:
    """Each class is a problem of its own: fitted alone, with the generator where it stood, it is the same."""
    generator = torch.Generator().manual_seed(0)
    first = SemiDiscretePrior.fit(images()[::2], SCHEDULE, generator=generator)
    assert torch.equal(first.potential, conditional.potential[::2])


def test_label_errors(prior: SemiDiscretePrior, conditional: SemiDiscretePrior) -> None:
    z = noise(2)
    with pytest.raises(ValueError, match="labels must be given to a prior fitted on 3 classes"):
        conditional(z)
    with pytest.raises(
        ValueError, match="labels must be classes that the prior was fitted on; got 1, which had no"
    ):
        conditional(z, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\]; got 3 in row 1"):
        conditional(z, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="labels must be None, since this prior was fitted without labels"):
        prior(z, torch.tensor([0, 0]))


def test_smoothed_classes_do_not_mix(conditional: SemiDiscretePrior) -> None:
    """Smoothed without limit, a start is its class's mean."""
    clean = conditional.with_options(smoothing=1e6).at(0)
    z = noise(4)
    start = clean(z, torch.tensor([0, 2, 2, 0])) - clean.sigma * z
    means = torch.stack([images()[::2].mean(dim=0), images()[1::2].mean(dim=0)])
    torch.testing.assert_close(start, clean.alpha * means[[0, 1, 1, 0]], rtol=0, atol=1e-4)


# Without a new solve ---------------------------------------------------------------------------------------


def test_at_and_with_options_share_tensors_and_solve_nothing(
    prior: SemiDiscretePrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_maps, "solve_semidiscrete", None)
    z = noise(20)
    changed = [
        prior.at(300),
        prior.with_options(noise="fresh"),
        prior.with_options(smoothing=0.2, correlation=0.5),
    ]
    for other in changed:
        assert other.atoms.data_ptr() == prior.atoms.data_ptr()
        assert other.potential.data_ptr() == prior.potential.data_ptr()
        assert torch.equal(other.source(z), prior.source(z))
        assert other.facts == prior.facts
    earlier = changed[0]
    assert earlier.timestep == 300
    torch.testing.assert_close(
        earlier(z), SCHEDULE.alpha(300) * images()[prior.source(z)] + SCHEDULE.sigma(300) * z
    )
    assert prior.timestep == 500  # and the original is as it was
    assert changed[1].noise == "fresh"
    assert changed[1].with_options(noise="coupled").smoothing == 0
    with pytest.raises(ValueError, match=r"timestep must be in \[0, 999\]"):
        prior.at(1000)
    with pytest.raises(ValueError, match="options must be noise or smoothing or correlation"):
        prior.with_options(timestep=3)


def test_a_new_potential_is_used_at_once(prior: SemiDiscretePrior) -> None:
    other = prior.at(500)
    z = noise(20)
    other(z)
    shifted = prior.potential.clone()
    shifted[5] = 1e6
    other.load_state_dict({**prior.state_dict(), "potential": shifted}, assign=True)
    assert other.source(z).tolist() == [5] * 20


# Fitting ---------------------------------------------------------------------------------------------------


def test_facts_say_how_good_the_map_is(prior: SemiDiscretePrior) -> None:
    assert prior.facts["chi2_upper"] <= 0.05
    assert prior.facts["outcome"] == "converged"
    assert prior.facts["draws"] >= 0
    assert len(prior.facts["sha256"]) == 64


def test_same_generator_seed_same_prior() -> None:
    a, b = (
        SemiDiscretePrior.fit(images(), SCHEDULE, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(a.potential, b.potential)
    z = noise(10)
    assert torch.equal(a.with_options(noise="frozen")(z), b.with_options(noise="frozen")(z))


def test_a_spent_budget_raises_or_is_kept_with_its_chi_squared() -> None:
    with pytest.raises(ConvergenceError, match="Raise max_draws"):
        SemiDiscretePrior.fit(images(), SCHEDULE, tol=1e-3, max_draws=500)
    kept = SemiDiscretePrior.fit(images(), SCHEDULE, tol=1e-3, max_draws=500, throw=False)
    assert kept.facts["outcome"] == "budget spent"
    assert kept.facts["chi2_upper"] > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "none"}, "noise must be one of 'coupled', 'whitened', 'fresh', 'frozen'; got 'none'"),
        ({"smoothing": -0.1}, "smoothing must be 0, or a number in .*; got -0.1"),
        ({"smoothing": float("nan")}, "smoothing must be 0, or a number in .*; got nan"),
        ({"smoothing": 0.1, "noise": "frozen"}, "smoothing must be 0 with noise='frozen'; got 0.1"),
        ({"correlation": 0.0}, r"correlation must be in \(0, 1\]; got 0.0. For 0 use noise='fresh'"),
        ({"correlation": 0.5, "noise": "fresh"}, "correlation must be 1 with noise='fresh'; got 0.5"),
        ({"timestep": -1}, r"timestep must be in \[0, 999\], the schedule's range; got -1"),
        ({"tol": 0.0}, "tol must be a positive number"),
        ({"weights": torch.full((COUNT,), 1.0)}, "weights must be of sum 1; got a sum of 40"),
        ({"weights": torch.full((COUNT - 1,), 1 / 39)}, r"weights must be of shape \(40,\)"),
        ({"labels": torch.zeros(3).long()}, r"labels must be of shape \(40,\)"),
        ({"labels": torch.full((COUNT,), 5), "num_classes": 3}, r"labels must be in \[0, 2\]; got 5"),
        ({"data": images() * 2}, r"images must be in \[-1, 1\]"),
        ({"data": images().abs()}, "If they are on .0, 1. pass value_range"),
        ({"data": images() * float("nan")}, "images must be finite"),
    ],
)
def test_bad_fits_are_refused_before_the_solve(
    options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "tol" not in options:
        monkeypatch.setattr(class_maps, "solve_semidiscrete", None)
    with pytest.raises(ValueError, match=message):
        SemiDiscretePrior.fit(**{"data": images(), "schedule": SCHEDULE, **options})


def test_a_class_that_weighs_nothing_is_refused() -> None:
    weights = torch.tensor([1.0, 0.0] * (COUNT // 2)).double() / (COUNT // 2)
    with pytest.raises(ValueError, match="weights must be positive somewhere in class 1; got all zero"):
        SemiDiscretePrior.fit(images(), SCHEDULE, labels=torch.arange(COUNT) % 2, weights=weights)


def test_call_errors(prior: SemiDiscretePrior) -> None:
    with pytest.raises(ValueError, match=r"z must be of shape \(B, 1, 3, 4\)"):
        prior(torch.zeros(2, 12))
    with pytest.raises(ValueError, match=r"z must be finite; .* first in row 1"):
        prior(torch.stack([torch.zeros(SHAPE), torch.full(SHAPE, float("nan"))]))
    with pytest.raises(ValueError, match="fresh must be None: this prior takes only z"):
        prior(noise(2), fresh=noise(2))
    with pytest.raises(ValueError, match="fresh must be given: this prior draws its noise anew"):
        prior.with_options(noise="fresh")(noise(2))
    with pytest.raises(ValueError, match="fresh must be shaped as z"):
        prior.with_options(noise="fresh")(noise(2), fresh=noise(3))


def test_an_interrupt_during_the_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither files nor half a prior: the exception comes through, and the generator alone has moved."""
    monkeypatch.chdir(tmp_path)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SemiDiscretePrior.fit(images(), SCHEDULE, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
