"""The decision of an audit, against samples: by the exact denoiser of a known law the recommended start is nearer."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from otprior import GaussianPrior, Prior
from otprior.data.images import ImageSet
from otprior.diffusion.grids import timestep_grid
from otprior.diffusion.mixture_network import MixtureNetwork
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error.audit import AuditRequest, run_audit
from otprior.error.sampling_cost import Sampler
from otprior.priors import IdentityPrior
from otprior.report.audit.record import Audit

LEAKING = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02}
COUNT = 800


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def law(shape: tuple[int, int, int], schedule: NoiseSchedule, mean: float) -> MixtureNetwork:
    """Six Gaussians of low rank about a mean image of one value, and their denoiser."""
    dim, rank = math.prod(shape), 1
    means = mean + 0.5 * torch.randn(6, dim, generator=random(0), dtype=torch.float64)
    bases = torch.linalg.qr(torch.randn(6, dim, rank, generator=random(1), dtype=torch.float64))[0]
    wide, narrow = (value * torch.ones(6, dtype=torch.float64) for value in (0.3, 0.02))
    return MixtureNetwork.of(shape, schedule, means, bases, wide[:, None], narrow)


def energy(samples: Tensor, reference: Tensor) -> float:
    """Energy distance of two samples; up to its error at most 0 if they are of one law."""
    x, y = samples.flatten(1).double(), reference.flatten(1).double()
    inside = sum(float(torch.cdist(each, each).sum()) / (len(each) * (len(each) - 1)) for each in (x, y))
    return 2 * float(torch.cdist(x, y).mean()) - inside


@pytest.mark.parametrize(
    ("shape", "betas", "mean", "steps", "expected"),
    [
        ((1, 1, 2), LINEAR, 0.0, 20, ("identity", 999)),
        ((1, 6, 6), LEAKING, 1.6, 12, ("gaussian", 999)),
        ((1, 6, 6), LINEAR, 16.0, 20, ("gaussian", 999)),
        ((1, 4, 4), LINEAR, 0.0, 5, ("gaussian", 500)),
    ],
    ids=["a good schedule", "a leaking one", "a shifted mean", "few steps"],
)
def test_samples_agree(
    shape: tuple[int, int, int], betas: Any, mean: float, steps: int, expected: tuple[str, int]
) -> None:
    scheduler = diffusers.UniPCMultistepScheduler(**betas)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    network = law(shape, schedule, mean)
    data = network.draw(300, random(2))
    audit = run_audit(
        AuditRequest(
            scheduler, "exact", unet=network, data=ImageSet(data), timesteps=(500.0, 999.0),
            cost_timesteps=(500.0, 999.0), steps=steps, fine_steps=32, draws=32, pairs=32,
        )
    )  # fmt: skip
    found = audit.decision
    assert found is not None
    assert (found.prior, found.timestep) == expected
    assert found.white_is_right is (expected == ("identity", 999))

    reference = network.draw(COUNT, random(3))
    z = torch.randn(COUNT, *shape, generator=random(4))
    sampler = Sampler(network, scheduler)

    def distance(prior: Prior) -> float:
        start = (prior.alpha, prior.sigma, timestep_grid(schedule, prior.timestep, steps))
        return energy(sampler(prior(z), *start), reference)

    white = distance(IdentityPrior.build(shape, scheduler, 999))
    other = distance(GaussianPrior.fit(data, scheduler, int(found.timestep), value_range=None))
    # The seeds are the same, so the error of a difference is less than that of a distance, about 0.002 at this count.
    if found.white_is_right:
        assert abs(white - other) < 5e-4
        assert white < 0.004
    else:
        assert other < white - 1e-3


@pytest.mark.parametrize(("mean", "right"), [(0.0, True), (2.0, False)])
def test_a_shift_within_the_error_of_the_mean_is_no_reason(mean: float, right: bool) -> None:
    """Of 16 images the mean is off by 0.27 standard deviations at T, and this much is found; a true shift is 1.1."""
    scheduler = diffusers.DDIMScheduler(**LEAKING)
    data = ImageSet(mean + 2 * torch.randn(16, 1, 8, 8, generator=random(0)))
    found = run_audit(AuditRequest(scheduler, "x", data=data, timesteps=(999.0,), draws=0)).decision
    assert found is not None
    assert found.white_is_right is right
    assert found.white_error > 0.2
    assert found.noise_floor == pytest.approx(0.27, abs=0.02)
    assert (found.steps, found.timestep) == (None, 999)


def test_without_data_there_is_no_decision_and_older_reports_are_read() -> None:
    audit = run_audit(AuditRequest(diffusers.DDIMScheduler(), "x", shape=(1, 8, 8)))
    assert audit.decision is None
    values = audit.to_json()
    values.pop("decision", None)
    assert Audit.from_json(values).decision is None
