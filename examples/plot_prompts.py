r"""
A pipeline with prompts
=======================

`attach` lets a stock pipeline of diffusers start at t* from a prior. All arguments keep their meaning:
`latents=` and `generator=` are the seed, `num_inference_steps=4` are four steps from t*.

The pipeline here is Stable Diffusion's own class. So that it fits into a minute, its network is small: for
each of three prompts it knows the mean and covariance of one class of the bundled images, and denoises
exactly. A prior by class is told by `condition` which class a prompt means.

For such a network the right image of a seed is known: μ + Σ^½ z. Four steps from the prior come nearer to it
than forty from white noise, because the schedule keeps some signal at T, which white noise lacks.

Picture: Six seeds for each of the prompts "Trouser", "Sneaker" and "Bag", in four rows: the right images,
forty steps from white noise, four steps from white noise, which are blurred, and four steps from the prior.
"""

import sys

import diffusers
import matplotlib.pyplot as plt
import torch
from diffusers.configuration_utils import FrozenDict

from otprior import GaussianPrior, NoiseSchedule, attach, bundled, detach
from otprior.diffusion import GaussianDenoiser
from otprior.transport.gaussian import gaussian_map

PROMPTS, SEEDS = ("Trouser", "Sneaker", "Bag"), 6
images = bundled.atoms()
places = [bundled.class_names().index(prompt) for prompt in PROMPTS]
scheduler = diffusers.DPMSolverMultistepScheduler(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
)
schedule = NoiseSchedule.from_scheduler(scheduler)

# %%
# A stand-in for a network with prompts. The "text encoder" is the number of the prompt.


class ExactNetwork(torch.nn.Module):
    """The noise that a perfect network predicts, with the call of UNet2DConditionModel."""

    dtype, device = torch.float32, torch.device("cpu")
    config = FrozenDict(in_channels=1, sample_size=28, time_cond_proj_dim=None)

    def __init__(self, laws):
        super().__init__()
        self.laws = laws

    def forward(self, sample, timestep, encoder_hidden_states, **_):
        law = self.laws[int(encoder_hidden_states.flatten()[0])]
        rows, t = sample.flatten(1).double(), float(timestep)
        return (law.noise(rows, schedule.alpha(t), schedule.sigma(t)).reshape(sample.shape).float(),)


rows = [images.images[images.labels == place].flatten(1).double() for place in places]
laws = [GaussianDenoiser(each.mean(dim=0), torch.cov(each.T) + 1e-4 * torch.eye(784)) for each in rows]
parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
pipe = diffusers.StableDiffusionPipeline(
    unet=ExactNetwork(laws), scheduler=scheduler, requires_safety_checker=False, **parts
)
pipe.set_progress_bar_config(disable=True)

# %%
# A gaussian prior for each prompt, at t* where the log-SNR is −2.5, and the same seeds with and without it.

t_star = round(schedule.timestep(-2.5))
labels = torch.cat([torch.full((len(each),), k) for k, each in enumerate(rows)])
prior = GaussianPrior.fit(
    torch.cat(rows).float().reshape(-1, 1, 28, 28), scheduler, t_star, labels, value_range=None
)
z = torch.randn(SEEDS, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def sample(steps):
    """One row of samples for all prompts, (28, 3 · 6 · 28)."""
    columns = []
    for k in range(len(PROMPTS)):
        call = {
            "prompt_embeds": torch.full((SEEDS, 1, 1), float(k)),
            "guidance_scale": 1.0,
            "latents": z.clone(),
        }
        done = pipe(**call, height=224, width=224, num_inference_steps=steps, output_type="latent").images
        columns += list(done[:, 0])
    return torch.cat(columns, dim=1).clamp(-1, 1)


right = [
    gaussian_map(z.flatten(1).double(), prior.spectrum(k)).reshape(-1, 28, 28) for k in range(len(PROMPTS))
]
found = {"the right image": torch.cat(list(torch.cat(right).float()), dim=1).clamp(-1, 1)}
found |= {"white noise, 40 steps": sample(40), "white noise, 4 steps": sample(4)}
attach(pipe, prior, condition=lambda call: int(call["prompt_embeds"].flatten()[0]))
found[f"prior at t* = {t_star},\n4 steps"] = sample(4)
detach(pipe)

figure, axes = plt.subplots(4, 1, figsize=(9, 2.4), layout="constrained")
for axis, (name, row) in zip(axes, found.items()):
    axis.imshow(row, cmap="gray", vmin=-1, vmax=1)
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    axis.set(xticks=[], yticks=[])
    gap = float((row - found["the right image"]).square().mean().sqrt())
    print(f"{' '.join(name.split()):28} distance to the right image, a pixel: {gap:.3f}")
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "prompts.png", dpi=100)
