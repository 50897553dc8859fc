r"""
What well-known schedules leave at T
====================================

The usual sampler starts from N(0, I) at T. That is right only if the process ends there. Many schedules keep
some signal: Stable Diffusion's leaves α_T = 0.068, so the latents at T still remember the brightness of their
images.

The audit gives the prior error, the 2-Wasserstein distance between N(0, I) and the noised data at T, as an
interval. Here the data are the bundled images under each schedule, and the error is a pixel's, in units of
the noise: W2/(σ √d). It is nothing for schedules that end in white noise, and largest for Stable Diffusion's.

Picture: One bar for each known schedule, from the lower to the upper end of the error of white noise at T, on
a logarithmic scale: Stable Diffusion and SDXL are highest, the linear and the EDM schedule five to ten times
lower, the cosine schedule far below.
"""

import sys

import matplotlib.pyplot as plt
import torch

from otprior import NoiseSchedule, bundled
from otprior.diffusion.known_schedules import known_names, known_schedule
from otprior.error import Target, gaussian_error
from otprior.transport.gaussian import isotropic

target = Target.of(bundled.atoms().images)
dim = target.rows.shape[1]
rows = []
for name in known_names():
    schedule = NoiseSchedule.from_scheduler(known_schedule(name).scheduler)
    last = schedule.timestep_range[1]
    alpha, sigma = float(schedule.alpha(last)), float(schedule.sigma(last))
    white = isotropic(torch.zeros(dim), float(schedule.prior_scale(last)) ** 2)
    error = gaussian_error(target, alpha, sigma, white)
    low, high = (end.value / (sigma * dim**0.5) for end in (error.lower, error.upper))
    rows.append((name, alpha / sigma, low, high))
    print(f"{name:18} α/σ at T {alpha / sigma:.4f}, error of N(0, I) {low:.6f} to {high:.6f}")

# %%
# The intervals. A schedule without a bar ends in white noise.

figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
for place, (_, _, low, high) in enumerate(rows):
    if high > 1e-8:
        axis.bar(place, high - low, bottom=low, width=0.5, color="#0072b2")
axis.set(yscale="log", xlim=(-0.6, len(rows) - 0.4))
axis.set_xticks(range(len(rows)), [f"{name}\nα/σ = {ratio:.3f}" for name, ratio, *_ in rows], fontsize=8)
axis.set_ylabel("error of N(0, I) at T")
axis.grid(axis="y", alpha=0.3)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "audit_schedules.png", dpi=100)
