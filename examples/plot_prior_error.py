r"""
How wrong is a start, and what does that cost in samples?
=========================================================

Left: W2 between the latents of four points, the corners of a square, and two starts, at every t*. The figure
shows an interval: from below Gelbrich's bound and exact marginals, from above couplings, of which that of the
data's own probability flow is the tightest. (Corners are a product law along the axes, so here the lower end
is the error.)

Right: the error of white noise in samples of the exact flow, measured as the root mean square distance of
coupled pairs, and the analytic bound I(t*) W2. For Gaussian data of the same covariance the bound is reached
along the widest axis. For points it is useless: it is determined by x midway between two points, where the
flow separates neighbours, and hardly any x is there.

Picture: Left, the prior error against t* for white noise and for the gaussian prior, both falling towards T,
the gaussian prior's faster; right, what the error of white noise costs in samples, with the Gaussian's bound
on its measured curve.
"""

import math
import sys

import matplotlib.pyplot as plt
import torch

from otprior.diffusion.denoisers import FiniteDenoiser, GaussianDenoiser
from otprior.diffusion.flow import Scales, probability_flow
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error import Target, couple_by_flow, gaussian_error
from otprior.error.sampling_cost import RootMeanSquare
from otprior.transport.gaussian import gaussian_map, isotropic, noised
from otprior_studies.claims.growth import diameter_gain, gaussian_gain, log_growth

betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
schedule = NoiseSchedule.vp(torch.cumprod(1 - betas, dim=0))
times = [*range(100, 1000, 100), 999]
moments = {t: Scales.at(schedule, t) for t in times}
end = 10  # timestep of the samples: a little noise is left, so that the growth is finite

# %%
# The data, and one pass of their own flow, which couples p_t at all ten timesteps with codes.

points = torch.cartesian_prod(*[torch.tensor([-2.0, 2.0], dtype=torch.float64)] * 2)
target = Target.of(points)
generator = torch.Generator().manual_seed(0)
flow = couple_by_flow(points, list(moments.values()), 2000, largest_variance=4.0, generator=generator)
white = isotropic(torch.zeros(2), 1.0)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
errors = {
    "N(0, I)": [gaussian_error(target, *scales, white, flow=flow) for scales in moments.values()],
    "gaussian prior": [
        gaussian_error(target, *scales, noised(target.spectrum, *scales), flow=flow)
        for scales in moments.values()
    ],
}
for (name, found), colour in zip(errors.items(), ("#0072b2", "#009e73")):
    low, high = [each.lower.value for each in found], [each.upper.value for each in found]
    left.fill_between(times, low, high, color=colour, alpha=0.3)
    left.plot(times, high, color=colour, label=name)
    print(f"{name}, t* = 500: {low[4]:.4g} to {high[4]:.4g} ({found[4].lower.how}, {found[4].upper.how})")
left.set(yscale="log", ylim=(1e-7, 10), xlabel="t*", ylabel="W2 to the latents' law")
left.legend()

# %%
# Samples: the exact flow carries both members of each pair to the end, for the points and for a Gaussian.


def measured(denoiser, x, starts, scales):
    """The root mean square distance at the end."""
    last = Scales.at(schedule, end)
    carried = [probability_flow(denoiser, each, scales, last, steps=300).x for each in (x, starts)]
    return RootMeanSquare.between(*carried).value


gaussian = GaussianDenoiser(torch.zeros(2), 4 * torch.eye(2))
seeds = flow.codes.double()
cases = {
    "four points": (FiniteDenoiser(points), diameter_gain(math.sqrt(32.0)), "#d55e00"),
    "Gaussian": (gaussian, gaussian_gain(4.0), "#0072b2"),
}
for name, (denoiser, gain, colour) in cases.items():
    costs, bounds = [], []
    for t, scales in moments.items():
        gaussian_x = gaussian_map(seeds.double(), noised(isotropic(torch.zeros(2), 4.0), *scales))
        x = flow.x[flow.at(*scales)].double() if name == "four points" else gaussian_x
        gap = RootMeanSquare.between(x, seeds).value
        costs.append(measured(denoiser, x, seeds, scales))
        bounds.append((log_growth(schedule, t, end, gain) + math.log(gap)) / math.log(10))
    right.plot(times, [math.log10(cost) for cost in costs], color=colour, label=f"{name}: measured")
    if bounds[0] < 12:
        right.plot(times, bounds, color=colour, linewidth=6, alpha=0.3, label=f"{name}: bound")
    else:
        label = f"{name}: bound, above $10^{{{min(bounds):.0f}}}$"
        right.plot([], [], color=colour, linewidth=6, alpha=0.3, label=label)
    print(f"{name}, t* = 500: measured {costs[4]:.4g}, bound 10^{bounds[4]:.4g}")
right.set(xlabel="t*", ylabel="log₁₀ of the distance of samples", ylim=(-6, 2))
right.legend()

figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "prior_error.png", dpi=120)
