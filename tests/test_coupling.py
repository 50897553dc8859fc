"""Pairs of noise and image: their laws in closed form, streams that do not depend on who draws, and bad input.

Statistical tests have fixed seeds and allow 4 standard errors: a right law fails one of them with probability 6e-5, and
one whose statistic is off by 6 standard errors passes with 2 %.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from otprior import SemiDiscretePrior, solve_semidiscrete
from otprior.data import ImageSet
from otprior.priors.coupling import CouplingFlowMatcher, SemiDiscreteCoupling, flow_targets
from otprior.transport.chi_squared import chi_squared
from otprior.transport.potential import BrenierPotential, dual_value

NORMAL = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def plane(count: int = 24, seed: int = 0) -> Tensor:
    """Points of a skewed law in the plane, (count, 2), float32."""
    x = torch.randn(count, 2, generator=seeded(seed))
    return torch.stack([x[:, 0].exp(), x[:, 1] + 0.5 * x[:, 0]], dim=1)


@pytest.fixture(scope="module")
def coupling() -> SemiDiscreteCoupling:
    """One exact map in the plane."""
    return SemiDiscreteCoupling.fit(plane(), value_range=None, tol=1e-3)


@pytest.fixture(scope="module")
def by_class() -> SemiDiscreteCoupling:
    """Three maps, of 12, 8 and 4 images; images are (1, 2)."""
    labels = torch.arange(24) % 6
    labels = torch.tensor([0, 0, 0, 1, 1, 2])[labels]
    return SemiDiscreteCoupling.fit(plane().reshape(24, 1, 2), labels, value_range=None, tol=1e-3)


@pytest.fixture(scope="module")
def entropic() -> SemiDiscreteCoupling:
    return SemiDiscreteCoupling.fit(plane(), value_range=None, entropy=0.5, tol=0.01)


# Laws -------------------------------------------------------------------------------------------------------


def test_on_the_line_pairs_are_sorted_alike() -> None:
    weights = torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=torch.float64)
    atoms = torch.tensor([[1.0], [-3.0], [0.5], [4.0]])
    pairs = SemiDiscreteCoupling.fit(atoms, weights=weights, value_range=None).sample(100_000, seeded())
    # Cells in the atoms' order are −3, 0.5, 1, 4; bounds are normal quantiles of 0.1, 0.4, 0.8.
    rank = torch.bucketize(NORMAL.cdf(pairs.noise[:, 0].double()), torch.tensor([0.1, 0.4, 0.8]).double())
    assert torch.equal(torch.tensor([1, 2, 0, 3])[rank], pairs.source)
    assert torch.equal(pairs.images, atoms[pairs.source])
    # E z y = Σ y_k (φ(a_k) − φ(a_k+1)) over cells (a_k, a_k+1).
    bounds = torch.tensor([-torch.inf, *NORMAL.icdf(torch.tensor([0.1, 0.4, 0.8]).double()), torch.inf])
    density = torch.exp(-0.5 * bounds.double() ** 2) / (2 * torch.pi) ** 0.5
    expected = torch.tensor([-3.0, 0.5, 1.0, 4.0]).double() @ (density[:-1] - density[1:])
    products = (pairs.noise * pairs.images).double()
    assert abs(products.mean() - expected) < 4 * products.std() / len(products) ** 0.5


@pytest.mark.parametrize("which", ["coupling", "entropic"])
def test_the_marginals_are_normal_noise_and_the_data(which: str, request: pytest.FixtureRequest) -> None:
    pairs = request.getfixturevalue(which).sample(200_000, seeded(1))
    # What is seen is χ² of some 1e-3: masses that are off by 3 %, root mean square.
    measured = chi_squared(torch.bincount(pairs.source, minlength=24), torch.full((24,), 1 / 24))
    assert measured.value < (1e-3 if which == "coupling" else 0.01)
    noise = pairs.noise.double()
    limit = 4 / len(noise) ** 0.5
    assert float(noise.mean(dim=0).abs().max()) < limit
    assert float((noise.T @ noise / len(noise) - torch.eye(2)).abs().max()) < 1.5 * limit  # (Var z² = 2)
    assert abs(float((noise**4).mean()) - 3) < 4 * 96**0.5 / noise.numel() ** 0.5


def test_the_cost_is_the_semidual_value(coupling: SemiDiscreteCoupling) -> None:
    pairs = coupling.sample(100_000, seeded(2))
    cost = (pairs.noise - pairs.images).double().square().sum(dim=1)
    potential = BrenierPotential.build(coupling.maps.atoms, coupling.maps.potential)
    value, error = dual_value(
        potential, torch.full((24,), 1 / 24), torch.randn(100_000, 2, generator=seeded(3))
    )
    spread = (float(cost.var()) / len(cost) + error**2) ** 0.5
    assert abs(float(cost.mean()) - value) < 4 * spread
    # Independent pairs cost d + E|y|² in the mean, here far more: the test has power.
    assert float((pairs.noise.roll(1, 0) - pairs.images).square().sum(dim=1).mean()) > value + 100 * spread


def test_entropic_pairs_of_gaussians_have_the_covariance_of_the_closed_form() -> None:
    # exp(z y/ε) f(z) g(y) is jointly normal: its precision matrix has −1/ε off the diagonal, so ε c = s² − c².
    entropy, count = 0.7, 100
    middle = (torch.arange(count).double() + 0.5) / count
    atoms = 1.5 * NORMAL.icdf(middle)[:, None]
    fitted = SemiDiscreteCoupling.fit(atoms.float(), value_range=None, entropy=entropy, tol=0.02)
    pairs = fitted.sample(100_000, seeded(4))
    # (s² as it came out: χ² of 0.02 allows for 20 %.)
    square = float(pairs.images.double().square().mean())
    expected = (-entropy + (entropy**2 + 4 * square) ** 0.5) / 2
    products = (pairs.noise * pairs.images).double()
    error = float(products.std()) / len(products) ** 0.5
    # (100 quantiles have lighter tails than the normal law: 1 % of the covariance.)
    assert abs(float(products.mean()) - expected) < 4 * error + 0.01 * expected
    # Without entropy it would be s, a fifth more.
    sharp = SemiDiscreteCoupling.fit(atoms.float(), value_range=None).sample(100_000, seeded(4))
    spread = float(atoms.square().mean()) ** 0.5
    assert abs(float((sharp.noise * sharp.images).mean()) - spread) < 4 * error + 0.01 * spread
    assert spread > 1.15 * expected


def test_entropic_draws_follow_their_shares_dense_or_sparse() -> None:
    potential = BrenierPotential.build(plane(), torch.randn(24, generator=seeded(5), dtype=torch.float64))
    for smoothing in (5.0, 0.01):  # nearly all atoms matter; and one or two
        z = torch.randn(8, 2, generator=seeded(6))
        shares = torch.softmax((z.double() @ plane().double().T + potential.offsets) / smoothing, dim=1)
        uniform = (torch.arange(1000).double() + 0.5) / 1000
        for row in range(len(z)):
            drawn = potential.draw(z[row].expand(1000, 2), smoothing, uniform)
            frequency = torch.bincount(drawn, minlength=24) / 1000
            # Even quantiles hit each share to one in a thousand at each of its ends.
            assert float((frequency - shares[row]).abs().max()) < 2.1e-3


def test_by_class_noise_does_not_depend_on_the_label(by_class: SemiDiscreteCoupling) -> None:
    pairs = by_class.sample(120_000, seeded(7))
    assert pairs.labels is not None
    share = torch.bincount(pairs.labels, minlength=3) / len(pairs.labels)
    assert float((share - torch.tensor([0.5, 1 / 3, 1 / 6])).abs().max()) < 4 * 0.5 / 120_000**0.5
    assert torch.equal(by_class.maps.classes[pairs.source], pairs.labels)
    measured = chi_squared(torch.bincount(pairs.source, minlength=24), torch.full((24,), 1 / 24))
    assert measured.value < 2e-3
    for label in range(3):
        own = pairs.noise[pairs.labels == label].flatten(1)
        assert float(own.mean(dim=0).abs().max()) < 4 / len(own) ** 0.5
        wanted = by_class.sample(100, seeded(8), torch.full((100,), label))
        assert wanted.labels is not None
        assert set(wanted.labels.tolist()) == {label}


def test_image_first_has_the_same_law(by_class: SemiDiscreteCoupling) -> None:
    index = torch.randint(24, (2000,), generator=seeded(9))
    noise = by_class.noise_of(index, seeded(10))
    again = by_class.pair(noise, by_class.maps.classes[index])
    assert torch.equal(again.source, index)
    flat = noise.flatten(1)
    assert float(flat.mean(dim=0).abs().max()) < 4 / 2000**0.5
    assert float((flat.T @ flat / 2000 - torch.eye(2)).abs().max()) < 6 / 2000**0.5
    with pytest.raises(ValueError, match="noise is found in 4,096 draws"):
        by_class.noise_of(index.repeat(40), seeded(), max_draws=4096)


def test_equal_images_and_weights_of_zero() -> None:
    atoms = torch.tensor([[0.0], [1.0], [0.0], [2.0]])
    weights = torch.tensor([0.25, 0.25, 0.5, 0.0])
    fitted = SemiDiscreteCoupling.fit(atoms, weights=weights, entropy=0.1, value_range=None, tol=0.01)
    index = fitted.sample(40_000, seeded()).source
    share = torch.bincount(index, minlength=4) / 40_000
    assert float((share - torch.tensor([0.75, 0.25, 0.0, 0.0])).abs().max()) < 4 * 0.5 / 200 + 0.02
    with pytest.raises(ValueError, match="index must be images with a cell"):
        fitted.noise_of(torch.tensor([2]), seeded())


# Streams ----------------------------------------------------------------------------------------------------


def flat(batches: Any) -> list[Tensor]:
    """Noise, images, labels and indices of all batches, one after another."""
    return [torch.cat(part) for part in zip(*batches)]


def test_workers_ranks_and_a_resume_give_the_same_pairs(by_class: SemiDiscreteCoupling) -> None:
    whole = flat(by_class.stream(8, seed=3, steps=6))
    assert len(whole[0]) == 48
    workers = flat(DataLoader(by_class.stream(8, seed=3, steps=6), batch_size=None, num_workers=2))
    ranks = [list(by_class.stream(8, seed=3, steps=6, rank=rank, ranks=4)) for rank in range(4)]
    shared = flat([part for step in zip(*ranks) for part in step])
    stream = by_class.stream(8, seed=3, steps=6)
    begun = [batch for _, batch in zip(range(2), stream)]
    state = stream.state_dict()
    assert state["step"] == 2
    later = by_class.stream(8, seed=3, steps=6)
    later.load_state_dict(state)
    resumed = flat([*begun, *DataLoader(later, batch_size=None, num_workers=1)])
    alone = by_class.draw(3, [17])
    for parts in (workers, shared, resumed):
        assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))
    assert torch.equal(alone.noise[0], whole[0][17])
    assert int(alone.source[0]) == int(whole[3][17])
    with pytest.raises(ValueError, match=r"state must be .* another .'seed'."):
        by_class.stream(8, seed=4).load_state_dict(state)


def test_pairs_do_not_depend_on_the_process_wide_state_of_torch(entropic: SemiDiscreteCoupling) -> None:
    expected = [*entropic.sample(64, seeded(20)), *entropic.draw(1, range(8))]
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = [*entropic.sample(64, seeded(20)), *entropic.draw(1, range(8))]
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for one, other in zip(found, expected):
        assert one is other is None or torch.equal(one, other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6, "ranks": 4}, "batch_size must be a multiple of ranks"),
        ({"batch_size": 4, "rank": 2, "ranks": 2}, "rank must be an integer in"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"batch_size": 4, "steps": 0}, "steps must be an integer >= 1"),
        ({"batch_size": 4, "seed": None}, "seed must be an integer"),
        ({"batch_size": 4, "seed": 0.5}, "seed must be an integer"),
    ],
)
def test_streams_that_cannot_be(coupling: SemiDiscreteCoupling, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coupling.stream(**options)


def test_states_are_plain_and_checked(coupling: SemiDiscreteCoupling) -> None:
    stream = coupling.stream(np.int64(4), np.int64(1), steps=3)
    assert json.loads(json.dumps(stream.state_dict(np.int64(2))))["step"] == 2
    with pytest.raises(ValueError, match="step must be an integer"):
        stream.state_dict(-1)
    for state in (None, [2], "a"):
        with pytest.raises(ValueError, match="state must be a dict"):
            stream.load_state_dict(state)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="numbers must be an integer"):
        coupling.draw(0, [1, -1])


# Where maps come from, and bad input -------------------------------------------------------------------------


def test_prior_solution_and_file_give_the_same_pairs(tmp_path: Path) -> None:
    images = torch.rand(40, 1, 2, 2, generator=seeded(11)) * 2 - 1
    labels = torch.arange(40) % 3
    prior = SemiDiscretePrior.fit(images, DDPMScheduler(), 500, labels)
    from_prior = SemiDiscreteCoupling.from_prior(prior, images)
    pairs = from_prior.sample(500, seeded(12))
    assert pairs.labels is not None
    assert torch.equal(pairs.source, prior.source(pairs.noise, pairs.labels))
    from_prior.save(tmp_path / "map.safetensors")
    loaded = SemiDiscreteCoupling.load(tmp_path / "map.safetensors", images)
    assert all(torch.equal(a, b) for a, b in zip(loaded.sample(500, seeded(12)), pairs))

    solution = solve_semidiscrete(images.flatten(1), entropy=0.3)
    one = SemiDiscreteCoupling.from_solution(solution, ImageSet(images, labels))
    assert one.maps.entropy == 0.3
    drawn = one.sample(500, seeded(13))
    assert torch.equal(drawn.labels, labels[drawn.source])  # type: ignore[arg-type]
    ranked = SemiDiscretePrior.fit(images, DDPMScheduler(), 500, rank=2)
    few = SemiDiscreteCoupling.from_prior(ranked, ImageSet(images, labels)).sample(500, seeded(14))
    assert torch.equal(few.source, ranked.source(few.noise))
    assert torch.equal(few.labels, labels[few.source])  # type: ignore[arg-type]


def test_arrays_are_read_alike_when_fitted_and_loaded(tmp_path: Path) -> None:
    points = 3 * plane().numpy()
    SemiDiscreteCoupling.fit(points, value_range=None).save(tmp_path / "map.safetensors")
    loaded = SemiDiscreteCoupling.load(tmp_path / "map.safetensors", points)
    assert torch.equal(loaded.images.images, torch.from_numpy(points))


def test_changed_data_are_noticed(tmp_path: Path) -> None:
    images = torch.rand(20, 1, 2, 2, generator=seeded(15)) * 2 - 1
    other = images.clone()
    other[3, 0, 0, 0] += 0.01
    prior = SemiDiscretePrior.fit(images, DDPMScheduler(), 500)
    SemiDiscreteCoupling.from_prior(prior).save(tmp_path / "map.safetensors")
    solution = solve_semidiscrete(images.flatten(1))
    for changed in (other, images.flip(0), images[:19]):
        with pytest.raises(ValueError, match="data must be the images"):
            SemiDiscreteCoupling.from_prior(prior, changed)
        with pytest.raises(ValueError, match="data must be the images"):
            SemiDiscreteCoupling.load(tmp_path / "map.safetensors", changed)
        with pytest.raises(ValueError, match="data must be the atoms"):
            SemiDiscreteCoupling.from_solution(solution, changed)


def test_bad_input_is_refused(coupling: SemiDiscreteCoupling, by_class: SemiDiscreteCoupling) -> None:
    noise = torch.zeros(3, 2)
    cases: list[tuple[Any, str]] = [
        (lambda: by_class.sample(2, seeded(), [0, 3]), "labels must be in .0, 2."),
        (lambda: by_class.pair(torch.zeros(3, 1, 2)), "labels must be given"),
        (lambda: coupling.pair(noise, torch.zeros(3).long()), "labels must be None"),
        (lambda: coupling.pair(noise.to("meta")), "noise must be on cpu"),
        (lambda: coupling.pair(noise * torch.nan), "noise must be finite"),
        (lambda: coupling.pair(torch.zeros(3, 3)), "noise must be of shape"),
        (lambda: coupling.sample(0, seeded()), "batch must be an integer >= 1"),
        (lambda: coupling.sample(2, None), "generator must be a torch.Generator"),
        (lambda: coupling.pair(noise.numpy()), "noise must be a torch.Tensor"),
        (lambda: coupling.pair(noise.long()), "noise must be floating-point"),
        (lambda: coupling.pair(noise.double() + 1e300), "noise must be finite"),
        (lambda: by_class.sample(1, seeded(), torch.zeros(1).long().to("meta")), "labels must be integers"),
        (lambda: coupling.noise_of(3, seeded()), "index must be of shape"),
        (lambda: coupling.noise_of(torch.tensor([3]), seeded(), 0), "max_draws must be an integer >= 1"),
        (lambda: SemiDiscreteCoupling.fit(plane(), value_range=None, num_classes=2), "num_classes must be"),
        (lambda: SemiDiscreteCoupling.fit(plane(), value_range=None, generator=1), "generator must be"),
        (lambda: SemiDiscreteCoupling.from_solution("map", plane()), "solution must be a Solution"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="source"):  # Noise is N(0, I): a map from other noise would be wrong.
        SemiDiscreteCoupling.fit(plane(), value_range=None, source="uniform")
    loose = solve_semidiscrete(plane())
    loose = replace(loose, chi2=replace(loose.chi2, value=0.2))
    with pytest.raises(ValueError, match="map must be solved"):
        SemiDiscreteCoupling.from_solution(loose, plane())
    assert SemiDiscreteCoupling.from_solution(loose, plane(), tol=0.5).chi2_upper > 0.19
    uniform = solve_semidiscrete(plane(), source="uniform")
    with pytest.raises(ValueError, match=r"from N\(0, I\)"):
        SemiDiscreteCoupling.from_solution(uniform, plane())


# Adapters ---------------------------------------------------------------------------------------------------


def test_matcher_has_the_interface_of_torchcfm_and_its_path(by_class: SemiDiscreteCoupling) -> None:
    x0, labels = torch.randn(6, 1, 2, generator=seeded(16)), torch.tensor([0, 1, 2, 0, 1, 2])
    embedding = torch.randn(24, 5, generator=seeded(17))
    matcher = CouplingFlowMatcher(by_class, conditions={"caption": embedding})
    expected = by_class.pair(x0, labels)
    t, x, u, _, y1 = matcher.guided_sample_location_and_conditional_flow(x0, x0, y1=labels)
    wide = t[:, None, None]
    assert torch.equal(y1, labels)
    torch.testing.assert_close(u, expected.images - x0, rtol=0, atol=0)
    torch.testing.assert_close(x, (1 - wide) * x0 + wide * expected.images)
    both = {"labels": labels, "caption": torch.zeros(6, 5)}
    *_, found = matcher.sample_plan_with_labels(x0, x0, None, both)
    assert torch.equal(found["caption"], embedding[expected.source])
    assert torch.equal(found["labels"], labels)
    noisy = CouplingFlowMatcher(by_class, sigma=0.5)
    _, x, _, _, _, noise = noisy.guided_sample_location_and_conditional_flow(x0, x0, None, labels, t, True)
    torch.testing.assert_close(x, (1 - wide) * x0 + wide * expected.images + 0.5 * noise)
    with pytest.raises(ValueError, match="labels must be given"):
        matcher.sample_location_and_conditional_flow(x0, x0)
    with pytest.raises(ValueError, match="y1 must be conditions"):
        matcher.sample_plan_with_labels(x0, x0, None, {"mood": labels})
    with pytest.raises(ValueError, match="x1 must be on"):
        matcher.sample_plan_with_labels(x0, x0.to("meta"), None, labels)


def test_matcher_refuses_what_it_cannot_use(coupling: SemiDiscreteCoupling) -> None:
    x0 = torch.randn(4, 2, generator=seeded())
    cases: list[tuple[Any, str]] = [
        (lambda: CouplingFlowMatcher(plane()), "coupling must be"),
        (lambda: CouplingFlowMatcher(coupling, "no"), "sigma must be a number"),
        (lambda: CouplingFlowMatcher(coupling, torch.inf), "sigma must be a finite number"),
        (lambda: CouplingFlowMatcher(coupling, generator=3), "generator must be"),
        (lambda: CouplingFlowMatcher(coupling, conditions=x0), "conditions must be a dict"),
        (lambda: CouplingFlowMatcher(coupling, conditions={"a": torch.tensor(1.0)}), r"conditions\['a'\]"),
        (
            lambda: CouplingFlowMatcher(coupling).sample_plan(x0, x0.to(torch.uint8)),
            "x1 must be floating-point",
        ),
        (lambda: CouplingFlowMatcher(coupling).sample_plan(x0.numpy(), x0), "x0 must be a torch.Tensor"),
        (
            lambda: CouplingFlowMatcher(coupling).sample_location_and_conditional_flow(x0, x0, 0.5),
            "t must be",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    numbers = CouplingFlowMatcher(coupling, conditions={"number": list(range(24))})
    *_, found = numbers.sample_plan_with_labels(x0, x0, None, {"number": torch.zeros(4)})
    assert torch.equal(found["number"], coupling.pair(x0).source)


def test_matcher_takes_the_arguments_of_torchcfm(coupling: SemiDiscreteCoupling) -> None:
    matchers = pytest.importorskip("torchcfm.conditional_flow_matching")
    plans = pytest.importorskip("torchcfm.optimal_transport")
    theirs = matchers.ExactOptimalTransportConditionalFlowMatcher(0.0)
    ours = CouplingFlowMatcher(coupling)
    for other, names in (
        (theirs, ("sample_location_and_conditional_flow", "guided_sample_location_and_conditional_flow")),
        (plans.OTPlanSampler("exact"), ("sample_plan", "sample_plan_with_labels")),
    ):
        for name in names:
            expected = list(inspect.signature(getattr(other, name)).parameters)
            assert list(inspect.signature(getattr(ours, name)).parameters) == expected
    x0 = torch.randn(4, 2)
    for t in (None, torch.rand(4)):
        mine = ours.sample_location_and_conditional_flow(x0, x0, t, return_noise=True)
        his = theirs.sample_location_and_conditional_flow(x0, x0, t, return_noise=True)
        assert [part.shape for part in mine] == [part.shape for part in his]


def test_diffusers_targets_lie_on_its_path(coupling: SemiDiscreteCoupling) -> None:
    pairs, scheduler = coupling.sample(64, seeded(18)), FlowMatchEulerDiscreteScheduler(shift=3.0)
    for scheme in ("none", "logit_normal", "mode"):
        made = flow_targets(pairs, scheduler, seeded(19), scheme)
        torch.testing.assert_close(made.target, pairs.noise - pairs.images)
        # The scheduler's own way to make the input, and its own step from there back to the image.
        expected = scheduler.scale_noise(pairs.images, made.timesteps, pairs.noise)
        torch.testing.assert_close(made.noisy, expected)
        torch.testing.assert_close(made.noisy - made.sigmas[:, None] * made.target, pairs.images)
    with pytest.raises(ValueError, match="scheduler must be one of flow matching"):
        flow_targets(pairs, DDPMScheduler(), seeded())
    options: list[dict[str, Any]] = [
        {"logit_mean": None},
        {"logit_std": -1.0},
        {"mode_scale": 2.0},  # Where the density of "mode" is none: times leave [0, 1].
        {"mode_scale": torch.nan},
        {"weighting_scheme": "cos"},
    ]
    for wrong in options:
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            flow_targets(pairs, scheduler, seeded(), **wrong)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="scheduler must be one with its 1000 timesteps"):
        flow_targets(pairs, scheduler, seeded())
