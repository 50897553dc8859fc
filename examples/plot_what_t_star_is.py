r"""
What t* is
==========

A diffusion process noises a clean image x_0 step by step: x_t = α_t x_0 + σ_t ε. At the last timestep T next
to nothing of the image is left, and the usual sampler starts there, from white noise. A prior starts at an
earlier timestep t*, where the image is still in the noise.

Timesteps mean different things on different schedules. The logarithm of the signal-to-noise ratio,
log(α²/σ²), means the same on all, so the package chooses t* by it.

Picture: Two images of clothes under more and more noise from t = 0 to t = 999; below, the falling signal
scale, the rising noise scale and the log signal-to-noise ratio, with a line at t* = 500.
"""

import sys

import matplotlib.pyplot as plt
import torch

from otprior import NoiseSchedule, SemiDiscretePrior, bundled

schedule = NoiseSchedule.from_scheduler(bundled.load_scheduler())
images = bundled.split("held_out").images[[1, 4]]
noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))

# %%
# The noised images, at the scale at which the network sees them.

shown = (0, 100, 200, 300, 400, 500, 600, 800, 999)
figure = plt.figure(figsize=(9, 4.6), layout="constrained")
grid = figure.add_gridspec(3, len(shown), height_ratios=(1, 1, 2.2))
for column, t in enumerate(shown):
    latents = schedule.alpha(t) * images + schedule.sigma(t) * noise
    for row in range(2):
        axis = figure.add_subplot(grid[row, column])
        axis.imshow(latents[row, 0], cmap="gray", vmin=-2, vmax=2)
        axis.set(xticks=[], yticks=[], title=f"t = {t}" if row == 0 else "")

# %%
# The scales, and where a semidiscrete prior starts if nothing else is asked for.

times = torch.arange(1000.0)
t_star = SemiDiscretePrior.usual_timestep(schedule)
scales, ratio = figure.add_subplot(grid[2, :5]), figure.add_subplot(grid[2, 5:])
scales.plot(times, schedule.alpha(times), label="signal scale α")
scales.plot(times, schedule.sigma(times), label="noise scale σ")
ratio.plot(times, schedule.log_snr(times), color="black")
ratio.set(title="log(α²/σ²)")
for axis in (scales, ratio):
    axis.axvline(t_star, color="crimson", linestyle="--", label="t*")
    axis.set(xlabel="t")
scales.legend(frameon=False)
print(f"t* = {t_star}: α = {schedule.alpha(t_star):.3f}, σ = {schedule.sigma(t_star):.3f},", end=" ")
print(f"log(α²/σ²) = {schedule.log_snr(t_star):.2f}")
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "what_t_star_is.png", dpi=100)
