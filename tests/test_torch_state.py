"""Results that are promised exact, under each process-wide state of torch that a caller may have set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_helpers import SIZE, write_tame_model
from diffusers import DDIMScheduler
from torch import Tensor

from otprior import (
    BrenierPotential,
    GaussianPrior,
    IdentityPrior,
    MixturePrior,
    NoiseSchedule,
    OTPriorPipeline,
    Prior,
    RandomAtomPrior,
    SemiDiscretePrior,
    seeds_to_generators,
    solve_semidiscrete,
    timestep_grid,
    transport_cost,
)
from otprior.data.images import to_pixels
from otprior.diffusion import Encoder, ImageCoder
from otprior.metrics import FeatureExtractor, Reference, bootstrap_mean, evaluate, extract_features, nearest


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


IMAGES = torch.tanh(normal(60, 4) @ normal(4, SIZE * SIZE, seed=1)).reshape(60, 1, SIZE, SIZE)
SCHEDULER = DDIMScheduler()
LABELS = [row % 3 for row in range(60)]
Z = normal(4, 1, SIZE, SIZE, seed=2)
FRESH = normal(4, 1, SIZE, SIZE, seed=3)
KINDS = {
    "gaussian": (GaussianPrior, {}),
    "gaussian by class": (GaussianPrior, {"labels": LABELS, "rank": 3}),
    "semidiscrete": (SemiDiscretePrior, {"tol": 0.3}),
    "semidiscrete along axes": (SemiDiscretePrior, {"tol": 0.5, "rank": 6}),
    "semidiscrete, smoothed": (SemiDiscretePrior, {"tol": 0.3, "smoothing": 0.3}),
    "frozen": (SemiDiscretePrior, {"tol": 0.3, "noise": "frozen"}),
    "mixture": (MixturePrior, {"tol": 0.3, "components": 6, "rank": 3}),
    "random atom": (RandomAtomPrior, {}),
}
torch.manual_seed(0)
EXTRACTOR = FeatureExtractor("tiny", (1, SIZE, SIZE), (4, 4, 4), dim=6, classes=3).eval()


def prior_results(name: str, folder: Path) -> Iterator[Any]:
    """Tensors of a fitted prior, starts, and those of the prior read back and moved."""
    cls, options = KINDS[name]
    prior = cls.fit(IMAGES, SCHEDULER, timestep=500, **options)
    yield from prior.state_dict().values()
    prior.save_pretrained(folder)
    for each in (prior, Prior.from_pretrained(folder), prior.at(400)):
        labels = None if prior.num_classes is None else torch.tensor([0, 1, 2, 0], device="cpu")
        start, source = each.start_and_source(Z, labels, FRESH if each.needs_fresh else None)
        yield start
        yield source
        yield each.alpha


def transport_results() -> Iterator[Any]:
    atoms = IMAGES.flatten(1)
    solution = solve_semidiscrete(atoms, tol=0.2)
    yield solution.potential
    yield solution.chi2.value
    brenier = BrenierPotential.build(atoms, solution.potential)
    yield from (
        brenier.assign(Z.flatten(1)),
        brenier.value(Z.flatten(1)),
        brenier.barycentre(Z.flatten(1), 0.5),
    )
    for dim in (1, 2, 3):
        yield solve_semidiscrete(normal(7, dim, seed=dim), tol=0.2).potential
    cost = transport_cost(atoms, solution.potential, generator=torch.Generator("cpu").manual_seed(1))
    yield list(vars(cost).values())


def metric_results() -> Iterator[Any]:
    features = extract_features(EXTRACTOR, IMAGES)
    yield features
    reference = Reference.build(features[:20], IMAGES[20:40], features[20:40], IMAGES[40:], features[40:])
    generator = torch.Generator("cpu").manual_seed(0)
    yield evaluate(features[:25], IMAGES[:25], reference=reference, generator=generator)
    yield from nearest(IMAGES.flatten(1)[:5], IMAGES.flatten(1)[5:], 2)
    yield bootstrap_mean(IMAGES.flatten(), generator).limits()


def diffusion_results() -> Iterator[Any]:
    schedule = NoiseSchedule.from_scheduler(SCHEDULER)
    yield list(timestep_grid(schedule, 500, 5))
    yield list(timestep_grid(schedule, 500, 5, "karras"))
    yield [schedule.alpha(3.5), schedule.sigma(3.5), schedule.log_snr(3.5)]
    yield to_pixels((IMAGES > 0).to(torch.uint8).numpy() * 255)


def network_results(model: Path) -> Iterator[Any]:
    pipe: Any = OTPriorPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    for prior in (None, IdentityPrior.build((1, SIZE, SIZE), pipe.scheduler, 500)):
        pipe.prior = prior
        for output in ("latent", "pt"):
            generators = seeds_to_generators([0, 1, 2])
            yield pipe(3, generator=generators, num_inference_steps=3, output_type=output).images
    coder = ImageCoder(pipe.unet, pipe.scheduler, Encoder("heun", steps=3))
    label = torch.tensor([3, 3], device="cpu")
    with torch.no_grad():
        codes = coder.encode(IMAGES[:2], label).x
        yield from (codes, coder.decode(codes, label).x)


# States ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def products(where: Any, precision: str) -> Iterator[None]:
    before = where.fp32_precision
    where.fp32_precision = precision
    try:
        yield
    finally:
        where.fp32_precision = before


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@contextlib.contextmanager
def global_seed() -> Iterator[None]:
    torch.manual_seed(12345)
    yield


# The user decides in what precision a network of theirs computes.
OF_NETWORKS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "precision medium": lambda: matmul_precision("medium"),
    "fp32_precision of all": lambda: products(torch.backends, "tf32"),
    "fp32_precision of cuda": lambda: products(torch.backends.cuda.matmul, "tf32"),
    "fp32_precision of mkldnn": lambda: products(torch.backends.mkldnn.matmul, "bf16"),
}
STATES: dict[str, Callable[[], Any]] = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "meta": default_device,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "deterministic": deterministic,
    "RANK alone": lambda: environment(RANK="3"),
    "RANK and WORLD_SIZE": lambda: environment(RANK="1", WORLD_SIZE="2"),
    "a global seed": global_seed,
}


def same(ours: Any, theirs: Any) -> bool:
    """Whether two results are equal to the bit."""
    if isinstance(ours, Tensor):
        alike = ours.dtype == theirs.dtype and ours.device == theirs.device
        return alike and torch.equal(ours, theirs)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    return bool(ours == theirs) or ours != ours


def check(results: Callable[[str], Iterator[Any]], states: dict[str, Callable[[], Any]]) -> None:
    plain = list(results("plain"))
    for name, state in states.items():
        with state():
            before = torch.get_default_dtype(), torch.backends.cuda.matmul.fp32_precision
            found = list(results(name))
            after = torch.get_default_dtype(), torch.backends.cuda.matmul.fp32_precision
        wrong = [
            k for k, (ours, theirs) in enumerate(zip(plain, found, strict=True)) if not same(ours, theirs)
        ]
        assert not wrong, f"under {name}, results {wrong} are others"
        assert after == before, name


@pytest.mark.parametrize("kind", KINDS)
def test_priors_depend_on_no_state(kind: str, tmp_path: Path) -> None:
    check(lambda state: prior_results(kind, tmp_path / state), STATES | OF_NETWORKS)


def test_transport_depends_on_no_state() -> None:
    check(lambda _: transport_results(), STATES | OF_NETWORKS)


def test_metrics_depend_on_no_state() -> None:
    check(lambda _: metric_results(), STATES | OF_NETWORKS)


def test_schedules_depend_on_no_state() -> None:
    check(lambda _: diffusion_results(), STATES | OF_NETWORKS)


def test_samples_and_codes_depend_on_no_state_but_the_networks_precision(tmp_path: Path) -> None:
    model = write_tame_model(tmp_path / "model")
    check(lambda _: network_results(model), STATES)


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_require_gradients_are_images(kind: str) -> None:
    cls, options = KINDS[kind]
    plain = cls.fit(IMAGES, SCHEDULER, timestep=500, **options)
    prior = cls.fit(IMAGES.clone().requires_grad_(), SCHEDULER, timestep=500, **options)
    assert not any(tensor.requires_grad for tensor in prior.state_dict(keep_vars=True).values())
    assert same(list(prior.state_dict().values()), list(plain.state_dict().values()))
    labels = None if prior.num_classes is None else torch.tensor([0, 1, 2, 0])
    fresh = FRESH if prior.needs_fresh else None
    start = prior(Z.clone().requires_grad_(), labels, fresh)
    assert torch.equal(start, plain(Z, labels, fresh))
