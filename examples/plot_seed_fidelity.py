r"""
Does a start keep the image of its seed?
========================================

Under a deterministic sampler a seed *is* an image: the one that the probability flow makes of its noise z. A
fast sampler that makes good images may still make *other* images of the same seeds. Here the image of each
seed is computed with many evaluations from T, and compared with what few evaluations make of the same z, from
N(0, I) at T and from a gaussian and a semidiscrete prior at several t*.

Two figures, both paired by seed: the distance to the seed's image, root mean square over pixels (which lie in
[-1, 1]), and how often the bundled classifier puts both into the same class, where chance is about one in
ten.

Picture: Two charts against t*, for the gaussian and the coupled start: the distance to the image of the seed,
and the share of seeds that keep their class. The gaussian start is nearer; a grey band shows white noise from
T.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from otprior import GaussianPrior, OTPriorPipeline, SemiDiscretePrior, timestep_grid
from otprior.data import bundled
from otprior.diffusion.schedule import NoiseSchedule
from otprior.metrics import bootstrap_mean
from otprior.metrics.features import classify
from otprior.sampling import seeds_to_generators

STEPS, FINE_STEPS, SEEDS = 5, 30, range(24)
STARTS = (800, 650, 500, 350)

# %%
# Priors fitted to 1,000 of the bundled images. A fitted map does not depend on t*: ``at`` moves it without a new solve.

atoms = bundled.atoms().select(slice(0, None, 10))
pipe = OTPriorPipeline.from_pretrained(bundled.pipeline_path(), null_class_label=bundled.null_class_label())
pipe.set_progress_bar_config(disable=True)
schedule = NoiseSchedule.from_scheduler(pipe.scheduler)
priors = {
    "gaussian": GaussianPrior.fit(atoms, schedule),
    "semidiscrete, coupled": SemiDiscretePrior.fit(atoms, schedule, tol=0.2),
}


def sample(prior, start, steps):
    """Images of the seeds, (24, 1, 28, 28)."""
    pipe.prior = prior
    grid = timestep_grid(schedule, start, steps, spacing="log_snr")
    generators = seeds_to_generators(SEEDS)
    result = pipe(batch_size=len(SEEDS), timesteps=grid, generator=generators, output_type="latent")
    return result.images.clamp(-1, 1)


# %%
# The image of each seed, then the same seeds in few evaluations. Intervals are 95 %, over seeds; with so few seeds
# they are wide, and ``otprior demo`` uses 200.

last = schedule.timestep_range[1]
truth = sample(None, last, FINE_STEPS)
classes = classify(bundled.extractor(), truth)
resampling = torch.Generator().manual_seed(0)


def compare(images):
    """Distance to the seed's image and class agreement, each an interval with its estimate."""
    distances = (images - truth).square().mean(dim=(1, 2, 3)).sqrt()
    agrees = classify(bundled.extractor(), images) == classes
    return bootstrap_mean(distances, resampling), bootstrap_mean(agrees, resampling)


white = compare(sample(None, last, STEPS))
found = {name: [compare(sample(prior.at(t), t, STEPS)) for t in STARTS] for name, prior in priors.items()}
for name, pairs in found.items():
    for t, (distance, agreement) in zip(STARTS, pairs):
        print(f"{name:22} t* = {t}: distance {distance.estimate:.3f}, same class {agreement.estimate:.2f}")
print(f"{'N(0, I) at T':22}          distance {white[0].estimate:.3f}, same class {white[1].estimate:.2f}")

# %%
# The grey band is N(0, I) at T with as many evaluations.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
titles = ("distance to the seed's image (RMS)", "same class as the seed's image")
for k, (axis, title) in enumerate(zip(axes, titles)):
    axis.axhspan(white[k].lo, white[k].hi, color="0.88")
    axis.axhline(white[k].estimate, color="0.5", lw=1, label=f"N(0, I) at T, {STEPS} evaluations")
    for offset, (name, pairs) in zip((-6, 6), found.items()):
        values = [pair[k] for pair in pairs]
        middle = [value.estimate for value in values]
        spread = [[v.estimate - v.lo for v in values], [v.hi - v.estimate for v in values]]
        axis.errorbar([t + offset for t in STARTS], middle, spread, marker="o", capsize=3, label=name)
    axis.set_title(title)
    axis.set_xlabel("t*")
axes[0].set_ylim(bottom=0)
axes[1].set_ylim(0, 1.02)
axes[0].legend(frameon=False)
figure.savefig(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("plot_seed_fidelity.png"), dpi=120)
plt.show()
