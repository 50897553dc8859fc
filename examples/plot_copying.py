r"""
Copying, found
==============

A start that is made of training images can hand them back, the more so the earlier in the noise it begins: at
a small t* the image is still in the latent. A good FID says nothing about that; copying has to be looked for.

A sample counts as a copy if its nearest training image is 1.5 times nearer than the second nearest. Real
images that nobody trained on pass that test now and then, too. So the figure to compare with is theirs.

Picture: Left, the share of copies against t*, from nearly all at t* = 200 down to that of held-out images at
600; right, samples at t* = 300 above the training images nearest to them: most are the same pictures.
"""

import sys

import matplotlib.pyplot as plt
import torch

from otprior import OTPriorPipeline, SemiDiscretePrior, bundled
from otprior.metrics import Atoms, bootstrap_mean, copy_mask
from otprior.sampling import seeds_to_generators

SEEDS = range(96)
images = bundled.atoms().select(slice(0, None, 10))  # 1,000 of the 10,000, to be quick
pipe = OTPriorPipeline.from_pretrained(bundled.pipeline_path(), null_class_label=bundled.null_class_label())
pipe.set_progress_bar_config(disable=True)
prior = SemiDiscretePrior.fit(images, pipe.scheduler, tol=0.2)
atoms = Atoms.build(images.images)
generator = torch.Generator().manual_seed(0)

# %%
# The same seeds from five t*. Nothing is solved again for another t*.

found, samples = {}, {}
for t in (200, 300, 400, 500, 600):
    pipe.prior = prior.at(t)
    samples[t] = pipe(
        batch_size=len(SEEDS),
        num_inference_steps=5,
        generator=seeds_to_generators(SEEDS),
        output_type="latent",
    ).images.clamp(-1, 1)
    copies = copy_mask(atoms.nearest(samples[t], 2)[0])
    found[t] = bootstrap_mean(copies, generator)
    print(f"t* = {t}: {found[t].estimate:.0%} copies, 95 % interval {found[t].lo:.0%} to {found[t].hi:.0%}")
real = bootstrap_mean(copy_mask(atoms.nearest(bundled.split("held_out").images, 2)[0]), generator)
print(f"held-out images: {real.estimate:.1%}")

# %%
# Eight samples at t* = 300, and the training image nearest to each.

figure, (curve, pairs) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(2, 3), layout="constrained")
middle = [each.estimate for each in found.values()]
spread = [
    [each.estimate - each.lo for each in found.values()],
    [each.hi - each.estimate for each in found.values()],
]
curve.errorbar(list(found), middle, spread, marker="o", capsize=3, label="coupled start, 5 evaluations")
curve.axhspan(real.lo, real.hi, color="0.8")
curve.axhline(real.estimate, color="0.4", label="held-out real images")
curve.set(xlabel="t*", ylabel="copies", ylim=(-0.02, 1))
curve.legend(frameon=False, fontsize=8)
shown = samples[300][:8]
nearest = images.images[atoms.nearest(shown, 1)[1][:, 0]]
rows = [torch.cat(list(each[:, 0]), dim=1) for each in (shown, nearest)]
pairs.imshow(torch.cat(rows), cmap="gray", vmin=-1, vmax=1)
pairs.set(xticks=[], yticks=[])
pairs.set_title("samples at t* = 300; below each, its nearest training image", fontsize=9)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "copying.png", dpi=90)
