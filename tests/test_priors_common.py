"""What all priors share: a start is a function of its row, float32 whatever the pipeline; and the two simple ones."""

from __future__ import annotations

import math
import types
from pathlib import Path

import diffusers
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

import otprior
from otprior.data.images import ImageSet
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import (
    GaussianPrior,
    IdentityPrior,
    MixturePrior,
    Prior,
    RandomAtomPrior,
    SemiDiscretePrior,
)

SCHEDULE = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
SHAPE = (1, 4, 4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = (normal(30, *SHAPE, seed=7) / 3).clamp(-1, 1)
LABELS = torch.arange(30) % 3


def make(kind: str, labels: Tensor | None = None) -> Prior:
    if kind == "identity":
        return IdentityPrior.build(SHAPE, SCHEDULE, 500)
    if kind == "gaussian":
        return GaussianPrior.fit(IMAGES, SCHEDULE, 500, labels)
    if kind == "mixture":
        return MixturePrior.fit(IMAGES, SCHEDULE, 500, labels, components=4, rank=2)
    if kind == "random atom":
        return RandomAtomPrior.fit(IMAGES, SCHEDULE, 500, labels)
    options = {"smoothed": {"smoothing": 0.4}, "partly fresh": {"correlation": 0.7}}
    noise = kind if kind in ("fresh", "frozen") else "coupled"
    return SemiDiscretePrior.fit(IMAGES, SCHEDULE, 500, labels, noise=noise, **options.get(kind, {}))


@pytest.mark.parametrize(
    ("scheduler", "semidiscrete", "mixture"),
    [
        (diffusers.DDPMScheduler(), 500, 400),
        # σ/α = exp(2.47/2): t = T σ.
        (
            diffusers.FlowMatchEulerDiscreteScheduler(),
            1000 / (1 + math.exp(-1.235)),
            1000 / (1 + math.exp(-0.715)),
        ),
        # c_noise = log(σ)/4.
        (diffusers.EDMEulerScheduler(), 1.235 / 4, 0.715 / 4),
    ],
)
def test_starts_are_by_default_at_one_log_snr(
    scheduler: diffusers.SchedulerMixin, semidiscrete: float, mixture: float
) -> None:
    for kind in (IdentityPrior, GaussianPrior, SemiDiscretePrior, RandomAtomPrior):
        assert kind.fit(IMAGES, scheduler).timestep == pytest.approx(semidiscrete)
    assert MixturePrior.fit(IMAGES, scheduler, components=4, rank=2).timestep == pytest.approx(mixture)


def test_a_process_that_never_comes_so_far_asks_for_a_timestep() -> None:
    with pytest.raises(ValueError, match="timestep must be given for this schedule"):
        IdentityPrior.fit(IMAGES, NoiseSchedule.ve([0.01, 0.1, 1.0]))


KINDS = (
    "identity",
    "gaussian",
    "mixture",
    "fresh mixture",
    "random atom",
    "coupled",
    "fresh",
    "frozen",
    "smoothed",
    "partly fresh",
)


@pytest.fixture(params=KINDS, scope="module")
def prior(request: pytest.FixtureRequest) -> Prior:
    return make(request.param)


def call(prior: Prior, z: Tensor, labels: Tensor | None = None, rows: slice = slice(None)) -> Tensor:
    fresh = normal(200, *SHAPE, seed=99)[: len(z)] if prior.needs_fresh else None
    wanted = None if labels is None else labels[rows]
    return prior(z[rows], wanted, None if fresh is None else fresh[rows])


def test_a_start_depends_on_its_own_row(prior: Prior) -> None:
    """Batches of 1, 7 and 64. An atom is chosen exactly; products of the others round at 1e-7, softmax at 1e-6."""
    z = normal(64, *SHAPE)
    together = call(prior, z)
    for size in (1, 7):
        parts = [call(prior, z, rows=slice(k, k + size)) for k in range(0, 64, size)]
        torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=2e-6)
        if prior.source(z) is not None and not getattr(prior, "smoothing", 0):
            assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize(
    "kind", ["gaussian", "mixture", "random atom", "coupled", "fresh", "frozen", "smoothed"]
)
def test_a_conditional_start_depends_on_its_own_row_and_label(kind: str) -> None:
    prior = make(kind, LABELS)
    z, labels = normal(30, *SHAPE), torch.randint(3, (30,), generator=torch.Generator().manual_seed(0))
    together = call(prior, z, labels)
    parts = [call(prior, z, labels, slice(k, k + 1)) for k in range(30)]
    torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=2e-6)
    source = prior.source(z, labels)
    if source is not None:
        assert torch.equal(LABELS[source], labels)


def test_start_and_source_is_both(prior: Prior) -> None:
    z = normal(20, *SHAPE)
    fresh = normal(200, *SHAPE, seed=99)[:20] if prior.needs_fresh else None
    start, source = prior.start_and_source(z, fresh=fresh)
    assert torch.equal(start, call(prior, z))
    expected = prior.source(z)
    assert source is None if expected is None else torch.equal(source, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_keep_their_precision(prior: Prior, dtype: torch.dtype) -> None:
    z = normal(10, *SHAPE)
    before = call(prior, z)
    kinds = {name: tensor.dtype for name, tensor in prior.state_dict().items()}
    prior.to(dtype)
    prior.half()
    assert {name: tensor.dtype for name, tensor in prior.state_dict().items()} == kinds
    assert torch.equal(call(prior, z), before)
    # Seed noise in another precision is taken; the start is float32 all the same.
    assert call(prior, z.to(dtype)).dtype == torch.float32
    assert prior.dtype == torch.float32
    assert prior.device == torch.device("cpu")


def test_autocast_does_not_reach_inside(prior: Prior) -> None:
    z = normal(10, *SHAPE)
    outside = call(prior, z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(call(prior, z), outside)


def test_at_another_timestep(prior: Prior) -> None:
    other = prior.at(200)
    assert (other.alpha, other.sigma) == (SCHEDULE.alpha(200), SCHEDULE.sigma(200))
    assert (prior.alpha, prior.sigma) == (SCHEDULE.alpha(500), SCHEDULE.sigma(500))
    for name, tensor in prior.state_dict().items():
        assert other.state_dict()[name].data_ptr() == tensor.data_ptr()
    for timestep in (-1, 1000, 3.5, float("nan")):
        with pytest.raises(ValueError, match="timestep must be"):
            prior.at(timestep)


def test_public_names_live_where_diffusers_looks_for_them() -> None:
    for name in ("Prior", "IdentityPrior", "GaussianPrior", "MixturePrior", "SemiDiscretePrior"):
        assert getattr(otprior, name).__name__ == name
    assert SemiDiscretePrior.__module__ == GaussianPrior.__module__ == "otprior"


# Identity --------------------------------------------------------------------------------------------------


def test_identity_is_the_usual_start() -> None:
    z = normal(5, *SHAPE)
    torch.testing.assert_close(make("identity")(z), z, rtol=0, atol=1e-6)  # s_t = 1 for VP
    karras = NoiseSchedule.edm(0.002, 80)
    prior = IdentityPrior.build(SHAPE, karras, karras.timestep(-2 * torch.tensor(3.0).log().item()))
    torch.testing.assert_close(prior(z), z * 10**0.5)  # √(1 + 3²)
    assert prior.source(z) is None
    assert torch.equal(prior(z, torch.zeros(5).long()), prior(z))  # white noise has no class


# Random atom -----------------------------------------------------------------------------------------------


def test_random_atom_is_an_image_plus_fresh_noise() -> None:
    prior = make("random atom")
    z, fresh = normal(40, *SHAPE), normal(40, *SHAPE, seed=1)
    source = prior.source(z)
    assert source is not None
    torch.testing.assert_close(prior(z, fresh=fresh), prior.alpha * IMAGES[source] + prior.sigma * fresh)
    assert torch.equal(prior.source(z), source)
    with pytest.raises(ValueError, match="fresh must be given"):
        prior(z)


@pytest.mark.parametrize("conditional", [False, True])
def test_random_atoms_are_uniform(conditional: bool) -> None:
    """χ² test at level 1e-3; the seed is fixed, so this does not flicker."""
    labels = LABELS if conditional else None
    prior = make("random atom", labels)
    z = normal(6000, *SHAPE)
    source = prior.source(z, None if labels is None else torch.full((6000,), 1))
    assert source is not None
    counts = torch.bincount(source, minlength=30)
    if conditional:
        assert int(counts[LABELS != 1].sum()) == 0
        counts = counts[LABELS == 1]
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_random_atoms_have_nothing_to_do_with_where_the_seed_lies() -> None:
    """The rival must not be coupled: along its own atom the seed is 0 on average, where a coupled start's is not."""
    prior, coupled = make("random atom"), make("coupled")
    z = normal(6000, *SHAPE)
    for other, small in ((prior, True), (coupled, False)):
        source = other.source(z)
        assert source is not None
        along = (z * IMAGES[source]).flatten(1).sum(dim=1) / IMAGES[source].flatten(1).norm(dim=1)
        assert (abs(float(along.mean())) < 0.1) is small


@pytest.mark.parametrize("kind", [GaussianPrior, MixturePrior, RandomAtomPrior, SemiDiscretePrior])
@pytest.mark.parametrize("data", [IMAGES, ImageSet(IMAGES, LABELS)])
def test_a_number_of_classes_without_labels_is_refused(kind: type[Prior], data: Tensor | ImageSet) -> None:
    """It makes no prior by class: labels do, which are an argument of their own."""
    with pytest.raises(ValueError, match="num_classes must be left out without labels; got 3"):
        kind.fit(data, SCHEDULE, 500, num_classes=3)


def test_random_atoms_of_an_absent_class() -> None:
    prior = RandomAtomPrior.fit(IMAGES, SCHEDULE, 500, LABELS * 2, num_classes=5)
    with pytest.raises(
        ValueError, match="labels must be classes that the prior was fitted on; got 3, which had no"
    ):
        prior.source(normal(1, *SHAPE), torch.tensor([3]))


@pytest.mark.parametrize("kind", ["gaussian", "coupled", "mixture"])
def test_a_prior_is_where_its_tensors_are(kind: str) -> None:
    """On the device without memory, which stands for a GPU here."""
    there = make(kind).to("meta")
    moved = [there.at(400)]
    if isinstance(there, SemiDiscretePrior):
        moved += [there.with_options(noise="fresh"), RandomAtomPrior.of(there, 400)]
    assert {each.device.type for each in moved} == {"meta"}


def test_a_timestep_may_be_a_schedulers_own(tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler()
    moved = make("gaussian").at(scheduler.timesteps[400])
    moved.save_pretrained(tmp_path / "prior")
    assert Prior.from_pretrained(tmp_path / "prior").timestep == 599


def test_fresh_noise_is_checked() -> None:
    prior = make("random atom")
    with pytest.raises(ValueError, match="fresh"):
        prior(normal(2, *SHAPE), fresh=torch.full((2, *SHAPE), float("nan")))


def test_images_that_are_read_already_have_their_range() -> None:
    images = ImageSet(normal(8, *SHAPE).clamp(-1, 1))
    with pytest.raises(ValueError, match="value_range"):
        GaussianPrior.fit(images, diffusers.DDPMScheduler(), value_range=(0, 1))


def test_only_what_otprior_exports_is_named_after_it() -> None:
    """Else a prior that another file of the package defines could not be pickled."""
    assert otprior.GaussianPrior.__module__ == "otprior"
    inside = {"__module__": "otprior.priors.mean"}
    made = types.new_class("MeanPrior", (Prior,), {"abstract": True}, lambda names: names.update(inside))
    assert made.__module__ == "otprior.priors.mean"


# Shapes of any rank -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(2, 12), (3, 2, 2, 2), (6, 4), (24,)], ids=["sound", "film", "packed", "row"]
)
@pytest.mark.parametrize(
    "kind", [IdentityPrior, GaussianPrior, MixturePrior, SemiDiscretePrior, RandomAtomPrior]
)
def test_latents_have_any_rank_of_shape(kind: type[Prior], shape: tuple[int, ...], tmp_path: Path) -> None:
    data, z = normal(30, *shape, seed=4) / 3, normal(5, *shape)
    # A scheduler alone is enough: no network is asked for its shape.
    prior = kind.fit(data, diffusers.DDPMScheduler(), 500, value_range=None)
    assert prior.shape == shape
    image = kind.fit(data.reshape(30, 1, -1, 4), SCHEDULE, 500, value_range=None)
    more = {"fresh": normal(5, *shape, seed=1)} if prior.needs_fresh else {}
    as_images = {name: value.reshape(5, 1, -1, 4) for name, value in more.items()}
    expected = image(z.reshape(5, 1, -1, 4), **as_images)
    torch.testing.assert_close(prior(z, **more).reshape(5, 1, -1, 4), expected)
    prior.save_pretrained(tmp_path / "prior")
    assert torch.equal(Prior.from_pretrained(tmp_path / "prior")(z, **more), prior(z, **more))
    with pytest.raises(ValueError, match="z must be of shape"):
        prior(z[None])


def test_values_taken_as_they_are_keep_their_shape() -> None:
    sounds = normal(30, 2, 12)
    assert GaussianPrior.fit(sounds, SCHEDULE, value_range=None).shape == (2, 12)
    assert GaussianPrior.fit(sounds.tanh(), SCHEDULE).shape == (1, 2, 12)  # images of one channel
    with pytest.raises(ValueError, match=r"\(N, ...\)"):
        GaussianPrior.fit(sounds[0, 0], SCHEDULE, value_range=None)


def test_a_prior_of_a_process_given_by_its_scales() -> None:
    t = torch.linspace(0, 1, 2)
    schedule = NoiseSchedule.from_scales(1 - t, t, times=t)
    prior = GaussianPrior.fit(normal(30, 2, 12), schedule, 0.775, value_range=None)
    assert (prior.alpha, prior.sigma) == pytest.approx((0.225, 0.775))
    assert GaussianPrior.usual_timestep(schedule) == pytest.approx(0.7748, abs=1e-3)
