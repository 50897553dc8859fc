r"""
Starting at t*
==============

A diffusion model need not start from white noise at the last timestep T. This example starts the bundled
network of Fashion-MNIST at t* = 500 from four priors, on the same seeds, in five network evaluations each,
and compares them with five evaluations from T.

A prior is a map from seed noise z ~ N(0, I) to a start at t*, where latents are α x_0 + σ ε:

- *identity*: z itself, as if no signal were left at t*;
- *gaussian*: α μ + (α² Σ + σ² I)^½ z, with mean and covariance of the data;
- *random image + noise*: α y + σ ε, a training image y at random;
- *semidiscrete, coupled*: α y(z) + σ z, the training image that optimal transport assigns to z, and z as its
  noise.

Picture: Rows of eight garments from the same seeds, one row for each start in five evaluations, and below the
coupled row the training image nearest to each. The identity gives patchy shapes, the coupled start clear
garments, some of them like a training image.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from otprior import GaussianPrior, IdentityPrior, OTPriorPipeline, SemiDiscretePrior, timestep_grid
from otprior.data import bundled
from otprior.diffusion.schedule import NoiseSchedule
from otprior.metrics.copying import Atoms
from otprior.priors import RandomAtomPrior
from otprior.sampling import seeds_to_generators

T_STAR, STEPS, SEEDS = 500, 5, range(8)
atoms = bundled.atoms().select(slice(0, None, 10))  # 1,000 of the 10,000, to be quick

# %%
# Fitting
# -------
# A prior needs the noise schedule and clean images; the network is not involved. The tolerance is on χ², the mean
# squared relative error of the cells' masses: 0.2 is coarse (0.05 is the default) and fast.

scheduler = bundled.load_scheduler()
semidiscrete = SemiDiscretePrior.fit(atoms, scheduler, T_STAR, tol=0.2)
priors = {
    "N(0, I) at T": None,
    "identity": IdentityPrior.build((1, 28, 28), scheduler, T_STAR),
    "gaussian": GaussianPrior.fit(atoms, scheduler, T_STAR),
    "random image\n+ noise": RandomAtomPrior.of(semidiscrete, T_STAR),
    "semidiscrete,\ncoupled": semidiscrete,
}
print(f"α = {semidiscrete.alpha:.3f}, σ = {semidiscrete.sigma:.3f}, χ² = {semidiscrete.facts['chi2']:.3f}")

# %%
# Sampling
# --------
# The same seeds and equal steps in log-SNR for all. ``from_pretrained`` replaces the network's ancestral scheduler by
# DPM-Solver++, which is made for few steps. ``nfe`` is counted at the network.

pipe = OTPriorPipeline.from_pretrained(bundled.pipeline_path(), null_class_label=bundled.null_class_label())
pipe.set_progress_bar_config(disable=True)
schedule = NoiseSchedule.from_scheduler(pipe.scheduler)
images = {}
for name, prior in priors.items():
    pipe.prior = prior
    start = schedule.timestep_range[1] if prior is None else T_STAR
    grid = timestep_grid(schedule, start, STEPS, spacing="log_snr")
    result = pipe(
        batch_size=len(SEEDS), timesteps=grid, generator=seeds_to_generators(SEEDS), output_type="latent"
    )
    images[name] = result.images
    print(f"{' '.join(name.split()):24} timesteps {[int(t) for t in grid]}, {result.nfe} evaluations")

# %%
# Did it copy?
# ------------
# A start that is built on training images can hand them back. The last row shows, below each coupled sample, the
# training image that is nearest to it. Eight images prove nothing; ``otprior demo`` measures.

_, nearest = Atoms.build(atoms.images).nearest(images["semidiscrete,\ncoupled"], 1)
images["nearest\ntraining image"] = atoms.images[nearest[:, 0]]

# %%
# One row a start, one column a seed.

figure, axes = plt.subplots(len(images), 1, figsize=(8, 1.05 * len(images)), layout="constrained")
for axis, (name, row) in zip(axes, images.items()):
    strip = torch.cat(list(row[:, 0]), dim=1).clamp(-1, 1).numpy()
    axis.imshow(np.asarray(strip), cmap="gray", vmin=-1, vmax=1)
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axis.set_xticks([])
    axis.set_yticks([])
figure.suptitle(f"The same seeds, {STEPS} network evaluations")
figure.savefig(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("plot_start_at_t.png"), dpi=120)
plt.show()
