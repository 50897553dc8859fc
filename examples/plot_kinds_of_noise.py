r"""
Fresh, coupled, whitened, frozen: the noise of a start
======================================================

A semidiscrete start is α y(z) + σ (noise): the cell of z chooses the image y(z). There are four choices for
the noise.

- *fresh*: drawn anew. The starts have the law of the data's latents at t*. The seed decides the image alone.
- *coupled*: z itself. A start carries more of its image than such a latent does, since z leans towards its
  image: gaps open between the cells.
- *whitened*: z, carried within its cell back to nearly N(0, I). The law is nearly that of the latents, and a
  start is still a function of its seed.
- *frozen*: one noise for each image, drawn once. There are as many starts as images.

Here the data are ten points of the plane, so that the law can be seen.

Picture: Four clouds of start latents in the plane, coloured by their image. Fresh and whitened clouds overlap
softly, the coupled cloud is torn apart between cells, and the frozen one is ten dots.
"""

import sys

import matplotlib.pyplot as plt
import torch

from otprior import NoiseSchedule, SemiDiscretePrior, bundled

# %%
# Ten points, as "images" of 2 x 1 x 1. t* is where the log-SNR is −1.

angles = torch.arange(10) * (2 * torch.pi / 10)
points = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([1.0, 1.6]).repeat(5)[:, None] * 1.3
schedule = NoiseSchedule.from_scheduler(bundled.load_scheduler())
t_star = round(schedule.timestep(-1.0))
prior = SemiDiscretePrior.fit(
    points.reshape(10, 2, 1, 1), schedule, t_star, value_range=None, tol=1e-3, noise="whitened"
)

# %%
# 4,000 starts of each kind from the same seeds, and their second moment beside that of the latents, α² E|y|² + 2 σ².

generator = torch.Generator().manual_seed(0)
z, anew = torch.randn(2, 4000, 2, 1, 1, generator=generator)
right = prior.alpha**2 * float(points.square().sum(dim=1).mean()) + 2 * prior.sigma**2
figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.9), layout="constrained")
for axis, noise in zip(axes, ("fresh", "coupled", "whitened", "frozen")):
    starts = prior.with_options(noise=noise)(z, fresh=anew if noise == "fresh" else None).flatten(1)
    moment = float(starts.square().sum(dim=1).mean())
    axis.scatter(
        *starts.T, c=prior.source(z), cmap="tab10", s=2 if noise != "frozen" else 30, alpha=0.6, linewidths=0
    )
    axis.set(
        title=f"{noise}\nE‖x‖² = {moment:.2f}",
        xticks=[],
        yticks=[],
        xlim=(-4, 4),
        ylim=(-4, 4),
        aspect="equal",
    )
    print(
        f"{noise:9} E|x|² = {moment:.3f} (the latents': {right:.3f}), {len(starts.unique(dim=0)):5} different starts"
    )
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "kinds_of_noise.png", dpi=80)
