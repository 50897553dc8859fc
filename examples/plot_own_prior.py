r"""
A prior of your own
===================

A prior is a map from seed noise z to a start at t*. Write a subclass with `fit` and `_start`, and the rest
comes with it: moving it to another t*, saving, loading, the pipelines and the reports.

This one keeps the mean image of every class and nothing else: α μ_c(z) + σ z, with the class chosen by the
direction of z. It stores ten pictures. Within a class starts differ by their noise alone; the samples show
what the network makes of that.

Picture: Samples of eight seeds from the identity, from the prior of class means and from the gaussian prior;
the class means give clear garments, the identity patchy squares.
"""

import sys

import matplotlib.pyplot as plt
import torch
from diffusers.configuration_utils import register_to_config

from otprior import GaussianPrior, IdentityPrior, OTPriorPipeline, Prior, bundled
from otprior.priors import read_data
from otprior.sampling import seeds_to_generators


class ClassMeanPrior(Prior):
    """T(z) = α μ_c(z) + σ z, c(z) the class whose centred mean z is best aligned with."""

    kind = "class_mean"

    @register_to_config
    def __init__(self, shape, schedule, timestep, classes):
        super().__init__()
        self.set_up(shape, schedule, timestep)
        self.register_buffer("means", torch.zeros(classes, self.dim))

    @classmethod
    def fit(cls, data, schedule, timestep=None, *, value_range="auto"):
        """Fits the means; the data have labels."""
        schedule, timestep = cls.read_start(schedule, timestep)
        images, _ = read_data(data, value_range=value_range)
        classes = int(data.labels.max()) + 1
        prior = cls(list(images.images.shape[1:]), schedule.to_dict(), timestep, classes)
        rows = images.images.double().flatten(1)
        for label in range(classes):
            prior.means[label] = rows[data.labels == label].mean(dim=0)
        return prior.eval()

    def _start(self, z, labels, fresh):
        directions = torch.nn.functional.normalize(self.means - self.means.mean(dim=0), dim=1)
        return self.alpha * self.means[(z @ directions.T).argmax(dim=1)] + self.sigma * z


# %%
# Fit it, and sample it like any other.

pipe = OTPriorPipeline.from_pretrained(bundled.pipeline_path(), null_class_label=bundled.null_class_label())
pipe.set_progress_bar_config(disable=True)
atoms = bundled.atoms()
priors = {
    "identity": IdentityPrior.build((1, 28, 28), pipe.scheduler, 500),
    "class means": ClassMeanPrior.fit(atoms, pipe.scheduler, 500),
    "gaussian": GaussianPrior.fit(atoms, pipe.scheduler, 500),
}
figure, axes = plt.subplots(3, 1, figsize=(7, 3), layout="constrained")
for axis, (name, prior) in zip(axes, priors.items()):
    pipe.prior = prior
    images = pipe(
        batch_size=8, num_inference_steps=5, generator=seeds_to_generators(range(8)), output_type="latent"
    ).images
    axis.imshow(torch.cat(list(images[:, 0]), dim=1).clamp(-1, 1), cmap="gray")
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axis.set(xticks=[], yticks=[])
    stored = sum(tensor.numel() for tensor in prior.state_dict().values())
    print(
        f"{name:12} {stored:7,} numbers stored, deviation of samples' pixels {float(images.std(dim=0).mean()):.2f}"
    )
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "own_prior.png", dpi=100)
