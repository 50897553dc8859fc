"""The probability flow: closed forms, change of variables, orders of convergence, limits, the sampler's own steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from exact_denoiser import ExactDenoiser as ExactNetwork
from scipy.stats import binomtest, norm
from torch import Tensor

from otprior.diffusion.ddim import ddim_decode, ddim_encode
from otprior.diffusion.denoisers import FiniteDenoiser, GaussianDenoiser, MixtureDenoiser
from otprior.diffusion.flow import NOISE, Scales, flow_grid, flow_jacobian, probability_flow
from otprior.diffusion.network import NetworkDenoiser
from otprior.diffusion.schedule import NoiseSchedule

CLEAN = Scales.vp(0.995)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _mixture(dim: int = 2) -> MixtureDenoiser:
    factors = _normal(3, dim, dim, seed=4) / 2
    covariances = factors @ factors.mT + 0.1 * torch.eye(dim)
    return MixtureDenoiser(torch.tensor([0.5, 0.3, 0.2]), 2 * _normal(3, dim, seed=5), covariances)


def _slope(sizes: list[float], errors: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


# The map ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [CLEAN, Scales(1.0, 0.02)])
@pytest.mark.parametrize("end", [NOISE, Scales.vp(0.1), Scales(1.0, 80.0), Scales(0.3, 0.7)])
def test_gaussian_closed_form(start: Scales, end: Scales) -> None:
    variances = torch.tensor([4.0, 0.5, 0.0], dtype=torch.float64)
    axes = torch.linalg.qr(_normal(3, 3))[0]
    law = GaussianDenoiser(_normal(3, seed=1), (axes * variances) @ axes.T)
    x = law.noised(50, *start, torch.Generator().manual_seed(2))
    gain = ((end.alpha**2 * variances + end.sigma**2) / (start.alpha**2 * variances + start.sigma**2)).sqrt()
    exact = end.alpha * law.mean + ((x - start.alpha * law.mean) @ axes * gain) @ axes.T
    solved = probability_flow(law, x, start, end, method="dop853", rtol=1e-12, atol=1e-12)
    assert torch.allclose(solved.x, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("end", [Scales.vp(0.3), CLEAN])
def test_change_of_variables(end: Scales) -> None:
    """p_start(x) = p_end(F(x)) |det ∂F|: the law is carried along, and the Jacobian is that of the map."""
    law = _mixture(3)
    z = _normal(40, 3)
    x, jacobian = flow_jacobian(law, z, NOISE, end)
    before = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    after = law.log_density(x, *end) + torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(before, after, atol=1e-8)
    step = 1e-5
    shifted = [
        probability_flow(law, z + sign * step * torch.eye(3)[0], NOISE, end, method="dop853").x
        for sign in (1, -1)
    ]
    # Central differences: truncation of order step², rounding of order 1e-10/step.
    assert torch.allclose((shifted[0] - shifted[1]) / (2 * step), jacobian[:, :, 0], atol=1e-4)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_order_of_convergence(method: str, order: int) -> None:
    law, z = _mixture(), _normal(100, 2)
    exact = probability_flow(law, z, NOISE, CLEAN, method="dop853", rtol=1e-13, atol=1e-13).x
    steps = [64, 96, 128, 192]
    errors = []
    for count in steps:
        solved = probability_flow(law, z, NOISE, CLEAN, method=method, steps=count)
        assert solved.evaluations == {"euler": 1, "heun": 2, "rk4": 4}[method] * count
        errors.append(float((solved.x - exact).abs().mean()))
    assert _slope([1 / count for count in steps], errors) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_torchdiffeq_agrees_with_scipy(method: str) -> None:
    pytest.importorskip("torchdiffeq")
    law, z = _mixture(), _normal(20, 2)
    one = probability_flow(law, z, NOISE, CLEAN, method=method, rtol=1e-9, atol=1e-9)
    other = probability_flow(law, z, NOISE, CLEAN, method="dop853", rtol=1e-12, atol=1e-12)
    assert torch.allclose(one.x, other.x, atol=1e-6)


def test_there_and_back() -> None:
    law, z = _mixture(), _normal(50, 2)
    x = probability_flow(law, z, NOISE, CLEAN, method="dop853").x
    back = probability_flow(law, x, CLEAN, NOISE, method="dop853").x
    assert torch.allclose(back, z, atol=1e-6)
    halfway = probability_flow(law, z, NOISE, Scales.vp(0.4), method="dop853").x
    assert torch.allclose(
        probability_flow(law, halfway, Scales.vp(0.4), CLEAN, method="dop853").x, x, atol=1e-7
    )


def test_one_path_for_every_process() -> None:
    """VP, VE and flow matching differ by the scale of x alone."""
    law, x = _mixture(), _normal(20, 2)
    start, end = Scales.vp(0.2), Scales.vp(0.9)
    reference = probability_flow(law, x, start, end).x
    for factor, other in [(1 / 0.2, 1 / 0.9), (1 / (0.2 + start.sigma), 1 / (0.9 + end.sigma))]:
        a = Scales(factor * start.alpha, factor * start.sigma)
        b = Scales(other * end.alpha, other * end.sigma)
        assert torch.allclose(probability_flow(law, factor * x, a, b).x, other * reference, atol=1e-12)


def test_beginning_of_the_flow() -> None:
    """u(s) = z + s μ + ½ s² (Σ − I) z + O(s³)."""
    law, z = _mixture(3), _normal(30, 3)
    errors, sizes = [], [0.04, 0.02, 0.01]
    for s in sizes:
        x = probability_flow(law, z, NOISE, Scales.vp(math.tanh(s)), method="dop853", rtol=1e-13).x
        series = z + s * law.mean + 0.5 * s**2 * (z @ law.covariance - z)
        errors.append(float((x - series).abs().max()))
    assert _slope(sizes, errors) == pytest.approx(3, abs=0.1)


def test_moving_and_scaling_the_data_moves_and_scales_the_result() -> None:
    """From pure noise nothing but the data's shape matters: D, and with it the flow, has no length of its own."""
    atoms, z = _normal(4, 2), _normal(30, 2)
    end = Scales(1.0, 0.2)
    plain = probability_flow(FiniteDenoiser(atoms), z, NOISE, end, method="dop853").x
    moved = FiniteDenoiser(3 * atoms + 5)
    other = probability_flow(moved, z, NOISE, Scales(1.0, 0.6), method="dop853").x
    assert torch.allclose(other, 3 * plain + 5, atol=1e-7)


def test_on_the_line_basins_are_bounded_by_normal_quantiles() -> None:
    """The flow keeps order and masses, so each basin lies between the quantiles of the masses so far."""
    weights = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    law = FiniteDenoiser(torch.tensor([[-2.0], [0.0], [0.7], [3.0]]), weights)
    quantiles = torch.from_numpy(norm.ppf(weights.cumsum(0)[:-1].numpy()))
    for side, offset in ((-1, 0), (1, 1)):
        z = (quantiles + side * 1e-8)[:, None]
        x = probability_flow(law, z, NOISE, Scales.vp(0.9999), method="dop853", rtol=1e-12, atol=1e-12).x
        nearest = (x - law.atoms[:, 0]).abs().argmin(dim=1)
        assert nearest.tolist() == [0 + offset, 1 + offset, 2 + offset]


def test_finite_data_receive_their_weights() -> None:
    law = FiniteDenoiser(_normal(4, 2, seed=3), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    x = probability_flow(law, _normal(4000, 2), NOISE, Scales(1.0, 1e-3), steps=160).x
    distance, atom = torch.cdist(x, law.atoms).min(dim=1)
    # All but points that started within about exp(−s) of a boundary have arrived.
    assert float((distance > 0.01).double().mean()) < 1e-3
    for k, weight in enumerate(law.weights.tolist()):
        # One in a thousand would fail at these levels; the draws are fixed.
        assert binomtest(int((atom == k).sum()), 4000, weight).pvalue > 1e-3


def test_bad_input_is_refused() -> None:
    law, z = _mixture(), _normal(3, 2)
    with pytest.raises(ValueError, match="method must be one of"):
        probability_flow(law, z, NOISE, CLEAN, method="rk5")
    with pytest.raises(ValueError, match="end must be scales"):
        probability_flow(law, z, NOISE, Scales(1.0, 0.0))
    with pytest.raises(ValueError, match="steps must be an integer >= 1"):
        probability_flow(law, z, NOISE, CLEAN, steps=0)
    with pytest.raises(ValueError, match="grid must be two moments or more, α/σ rising"):
        ddim_decode(law, z, [CLEAN, NOISE])
    with pytest.raises(ValueError, match="grid must be two moments or more, α/σ falling"):
        ddim_encode(law, z, [NOISE, CLEAN])


# DDIM and its inversion -------------------------------------------------------------------------------------


def test_ddim_is_of_first_order() -> None:
    law, z = _mixture(), _normal(100, 2)
    exact = probability_flow(law, z, NOISE, CLEAN, method="dop853").x
    steps = [50, 100, 200, 400]
    errors = [float((ddim_decode(law, z, flow_grid(NOISE, CLEAN, n)).x - exact).abs().mean()) for n in steps]
    assert _slope([1 / n for n in steps], errors) == pytest.approx(1, abs=0.15)


def test_inversion_closes_with_the_fixed_point_and_not_without() -> None:
    law = _mixture()
    x = law.noised(100, *CLEAN, torch.Generator().manual_seed(0))
    errors, steps = [], [50, 100, 200]
    for n in steps:
        grid = flow_grid(CLEAN, NOISE, n)
        plain = ddim_encode(law, x, grid)
        assert plain.evaluations == n
        errors.append(float((ddim_decode(law, plain.x, grid[::-1]).x - x).abs().mean()))
        closed = ddim_encode(law, x, grid, iterations=100, tol=1e-13)
        assert closed.residual <= 1e-13
        assert torch.allclose(ddim_decode(law, closed.x, grid[::-1]).x, x, atol=1e-9)
    assert _slope([1 / n for n in steps], errors) == pytest.approx(1, abs=0.2)


def test_ddim_steps_are_those_of_diffusers() -> None:
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    network = ExactNetwork(schedule, 0.3, 0.5)
    x = z = _normal(3, 1, 2, 2)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t).sample, t, x).prev_sample
    # The last step goes to ᾱ_0, as `set_alpha_to_one=False` says.
    grid = [Scales.at(schedule, float(t)) for t in [*scheduler.timesteps.tolist(), 0]]
    ours = ddim_decode(NetworkDenoiser(network, scheduler), z, grid).x
    # diffusers keeps its table of ᾱ in float32.
    assert torch.allclose(ours, x, atol=1e-5)


# Networks ---------------------------------------------------------------------------------------------------


class _Other(ExactNetwork):
    """The exact network, trained to say v or the sample instead."""

    def __init__(self, kind: str, schedule: NoiseSchedule) -> None:
        super().__init__(schedule, 0.3, 0.5)
        self.kind = kind

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> tuple[Tensor]:  # type: ignore[override]
        (noise,) = super().forward(sample, timestep, return_dict=False)
        t = float(timestep.reshape(-1)[0])
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        clean = (sample - sigma * noise) / alpha
        return (alpha * noise - sigma * clean if self.kind == "v_prediction" else clean,)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_network_denoiser_is_the_exact_one(kind: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler() if kind == "flow" else DDIMScheduler(prediction_type=kind)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    network = (
        _Other(kind, schedule) if kind in ("v_prediction", "sample") else ExactNetwork(schedule, 0.3, 0.5)
    )
    law = GaussianDenoiser(torch.full((4,), 0.3), 0.25 * torch.eye(4))
    x = _normal(3, 1, 2, 2)
    for alpha, sigma in [(0.6, 0.8), (1.0, 2.0), (0.3, 0.4)]:
        ours = NetworkDenoiser(network, scheduler)(x, alpha, sigma)
        # The network takes its timestep in float32.
        assert torch.allclose(ours.flatten(1), law(x.flatten(1), alpha, sigma), atol=1e-4)


def test_network_denoiser_refuses_moments_that_the_network_does_not_know() -> None:
    scheduler = DDIMScheduler()
    network = ExactNetwork(NoiseSchedule.from_scheduler(scheduler), 0.3, 0.5)
    with pytest.raises(ValueError, match="log_snr must be in"):
        NetworkDenoiser(network, scheduler)(_normal(1, 1, 2, 2), *NOISE)
