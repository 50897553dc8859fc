r"""
Start at t*, step by step
=========================

What the network is given, and what it answers, at every evaluation: from white noise at T in ten evaluations,
and from a coupled start at t* = 500 in five. The answer is E[x_0 | x_t], a mean over all images that fit the
latent. From T it takes half of the evaluations until it is a garment, since everything fits at first; from t*
the first answer is one already.

The sampler is DDIM, written out.

Picture: Rows of latents with the network's answers below them, ten columns from white noise at T and five
from a prior's start at t* = 500; the second begins with a recognisable garment.
"""

import sys

import matplotlib.pyplot as plt
import torch

from otprior import NoiseSchedule, SemiDiscretePrior, bundled, timestep_grid
from otprior.diffusion import NetworkDenoiser
from otprior.sampling import seeds_to_generators

SEED = 5
pipe = bundled.load_pipeline()
schedule = NoiseSchedule.from_scheduler(pipe.scheduler)
denoiser = NetworkDenoiser(pipe.unet, pipe.scheduler, torch.tensor([bundled.null_class_label()]))
z = torch.randn(1, 1, 28, 28, generator=seeds_to_generators([SEED])[0])

# %%
# The two starts have the same seed. The prior is fitted to 1,000 images, to be quick.

prior = SemiDiscretePrior.fit(bundled.atoms().select(slice(0, None, 10)), schedule, timestep=500, tol=0.2)
starts = {"from N(0, I) at T": (z, 999, 10), "from the prior at t* = 500": (prior(z), 500, 5)}


@torch.no_grad()
def sample(x, start, steps):
    """Latents and the network's answers along DDIM's steps."""
    grid = [float(t) for t in timestep_grid(schedule, start, steps, spacing="log_snr")]
    latents, answers = [], []
    for t, then in zip(grid, [*grid[1:], None]):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        clean = denoiser(x, alpha, sigma)
        latents.append(x)
        answers.append(clean)
        noise = (x - alpha * clean) / sigma
        x = clean if then is None else schedule.alpha(then) * clean + schedule.sigma(then) * noise
    return grid, latents, answers


figure = plt.figure(figsize=(9, 4.8), layout="constrained")
for part, (name, start) in zip(figure.subfigures(2, 1), starts.items()):
    grid, latents, answers = sample(*start)
    axes = part.subplots(2, 10)
    part.suptitle(name, x=0.01, ha="left", weight="bold")
    for axis in axes.flat:
        axis.axis("off")
    for column, t in enumerate(grid):
        for row, picture, limit in ((0, latents[column], 2), (1, answers[column], 1)):
            axes[row, column].imshow(picture[0, 0], cmap="gray", vmin=-limit, vmax=limit)
        axes[0, column].set_title(f"t = {t:.0f}", fontsize=9)
    print(f"{name}: timesteps {[round(t) for t in grid]}")
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "step_by_step.png", dpi=100)
