"""Networks from outside diffusers: each adapter is the exact denoiser of a known law, and samples it.

None of the libraries is installed: stand-ins have the interfaces that their sources show.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from otprior import GaussianPrior, seeds_to_generators
from otprior.diffusion.network import NetworkDenoiser
from otprior.sampling.adapters import from_azula, from_k_diffusion, from_lucidrains, from_module

SHAPE = (2, 4, 4)
# Clean data are N(MEAN, SPREAD² I).
MEAN, SPREAD = 0.3, 0.4
ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def clean(x: Tensor, alpha: Any, sigma: Any) -> Tensor:
    """E[x_0 | x], in closed form."""
    return MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (x - alpha * MEAN)


class Exact(nn.Module):
    """Estimates what is asked for, at the timesteps of `ALPHAS` or, for a flow, t in [0, 1]."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        if self.kind == "flow":
            sigma = t.reshape(-1, 1, 1, 1)
            alpha = 1 - sigma
        else:
            squared = ALPHAS[t.round().long()].float().reshape(-1, 1, 1, 1)
            alpha, sigma = squared.sqrt(), (1 - squared).sqrt()
        x_0 = clean(x, alpha, sigma)
        noise = (x - alpha * x_0) / sigma
        answers = {"epsilon": noise, "x_0": x_0, "v": alpha * noise - sigma * x_0, "flow": noise - x_0}
        return answers[self.kind]


def lucidrains(objective: str, kind: str) -> Any:
    size = {"image_size": SHAPE[1:] if kind == "v" else SHAPE[1], "channels": SHAPE[0]}
    return SimpleNamespace(model=Exact(kind), objective=objective, alphas_cumprod=ALPHAS.float(), **size)


class KDenoiser(nn.Module):
    """As k-diffusion's: D(x_0 + σ ε, σ)."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return clean(x, 1.0, sigma.reshape(-1, 1, 1, 1))


class AzulaDenoiser(nn.Module):
    """As azula's, with a rectified or a variance-preserving schedule."""

    def __init__(self, rectified: bool) -> None:
        super().__init__()
        self.rectified = rectified

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = t * torch.pi / 2
        return (1 - t, t) if self.rectified else (angle.cos(), angle.sin())

    def forward(self, x: Tensor, t: Tensor) -> Any:
        alpha, sigma = (each.reshape(-1, 1, 1, 1) for each in self.schedule(t))
        return SimpleNamespace(mean=clean(x, alpha, sigma))


ADAPTED: dict[str, Callable[[], Any]] = {
    **{
        kind: lambda kind=kind: from_module(Exact(kind), kind, SHAPE, ALPHAS)
        for kind in ("epsilon", "x_0", "v")
    },
    "flow": lambda: from_module(Exact("flow"), "flow", SHAPE),
    "lucidrains noise": lambda: from_lucidrains(lucidrains("pred_noise", "epsilon")),
    "lucidrains x_0": lambda: from_lucidrains(lucidrains("pred_x0", "x_0")),
    "lucidrains v": lambda: from_lucidrains(lucidrains("pred_v", "v")),
    "k-diffusion": lambda: from_k_diffusion(KDenoiser(), SHAPE),
    "azula rectified": lambda: from_azula(AzulaDenoiser(rectified=True), SHAPE),
    "azula VP": lambda: from_azula(AzulaDenoiser(rectified=False), SHAPE),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapted_network_is_the_denoiser_that_it_was(name: str) -> None:
    pipe = ADAPTED[name]()
    denoise = NetworkDenoiser(pipe.unet, pipe.scheduler)
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    for timestep in (150, 500, 850):
        alpha, sigma = denoise.schedule.alpha(timestep), denoise.schedule.sigma(timestep)
        # Schedulers hold their process in float32, of which a cumulated product of 1,000 factors is made.
        torch.testing.assert_close(denoise(x, alpha, sigma), clean(x, alpha, sigma), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ADAPTED)
def test_a_prior_starts_an_adapted_network(name: str) -> None:
    pipe = ADAPTED[name]()
    pipe.set_progress_bar_config(disable=True)
    data = MEAN + SPREAD * torch.randn(4000, *SHAPE, generator=torch.Generator().manual_seed(1))
    pipe.prior = GaussianPrior.fit(data, pipe.scheduler, value_range=None)
    # (Of first order, a flow's scheduler needs more.)
    steps = 50 if name == "flow" else 10
    result = pipe(
        batch_size=500,
        num_inference_steps=steps,
        generator=seeds_to_generators(range(500)),
        output_type="latent",
    )
    assert result.nfe == steps
    # 16,000 numbers: standard errors are 0.003 and 0.002; the steps leave the rest.
    assert abs(float(result.images.mean()) - MEAN) < 0.02
    assert abs(float(result.images.std()) - SPREAD) < 0.03


def test_what_is_not_declared_is_refused() -> None:
    with pytest.raises(ValueError, match="parameterisation must be"):
        from_module(Exact("v"), "score", SHAPE, ALPHAS)
    with pytest.raises(ValueError, match="alphas_cumprod must be given"):
        from_module(Exact("v"), "v", SHAPE)
    with pytest.raises(ValueError, match="alphas_cumprod must be None"):
        from_module(Exact("flow"), "flow", SHAPE, ALPHAS)
    with pytest.raises(ValueError, match="sigma_min"):
        from_k_diffusion(KDenoiser(), SHAPE, 1.0, 0.5)
