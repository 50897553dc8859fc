r"""
Uses of codes: paths, neighbours, swaps
=======================================

The code of an image is the seed noise from which the network makes it. A *path* between two codes is a path
of images; codes at a small angle belong to similar images; and a code can be decoded with another class label
than it was encoded with, which keeps the layout of the image.

The straight path leaves the shell on which normal draws of so many dimensions lie, and its middle is too
smooth; the spherical path stays on the shell. Between two *sets* of codes the straight path to each code's
partner in the best pairing is the displacement interpolation of optimal transport; partners are nearer,
though in 784 dimensions not by much.

Picture: Rows of garments: three paths between two shoes, sneakers whose codes are decoded as ankle boots, and
the images nearest to one image by code and by pixels.
"""

import sys
from pathlib import Path

import torch

from otprior.data import bundled
from otprior.diffusion.code_paths import interpolate, nearest_codes
from otprior.diffusion.codes import Encoder, ImageCoder, swap
from otprior.metrics.neighbours import nearest
from otprior.report import ReportImages, image_grid
from otprior.transport import best_partners

FROM, TO, COUNT, STEPS = 7, 9, 8, 8
OTHERS = 40

# %%
# Held-out images of two classes and of all classes, and their codes without a class label: Runge-Kutta in 12 steps, 48
# evaluations for each image.

pipe = bundled.load_pipeline()
pipe.unet.eval().requires_grad_(False)
coder = ImageCoder(pipe.unet, pipe.scheduler, Encoder("rk4", steps=12))
held_out = bundled.split("held_out")
names = bundled.class_names()
sets = [held_out.images[held_out.labels == label][:COUNT] for label in (FROM, TO)]
images = torch.cat([*sets, held_out.images[-OTHERS:]])


def no_class(count):
    """Class labels that mean no class."""
    return torch.full((count,), bundled.null_class_label())


with torch.no_grad():
    codes = coder.encode(images, no_class(len(images))).x
first, second = codes[:COUNT], codes[COUNT : 2 * COUNT]

# %%
# Three paths from the first image. Lengths are in units of √d, about 1 for a normal draw.

partner = int(best_partners(first, second)[0])
paths = {
    "spherical path": interpolate(first[:1], second[:1], STEPS)[0],
    "straight path": interpolate(first[:1], second[:1], STEPS, "straight")[0],
    "straight path to the optimal partner": interpolate(first[:1], second[partner][None], STEPS, "straight")[
        0
    ],
}
rows = []
for name, path in paths.items():
    with torch.no_grad():
        decoded = coder.decode(path, no_class(STEPS)).x
    shortest = float(path.flatten(1).norm(dim=1).min()) / path[0].numel() ** 0.5
    print(f"{name:38} shortest code on the way {shortest:.2f}")
    rows.append(ReportImages(name, decoded.clamp(-1, 1), note=f"shortest code {shortest:.2f} √d"))

# %%
# Codes encoded as one class and decoded as another.

with torch.no_grad():
    swapped = swap(coder, coder, sets[0], torch.full((COUNT,), FROM), torch.full((COUNT,), TO))
rows.append(ReportImages(names[FROM], sets[0]))
rows.append(ReportImages(f"their codes as {names[TO]}", swapped.clamp(-1, 1)))

# %%
# The images whose codes are nearest to the first one's, and those whose pixels are; each begins with the image itself.

cosines, by_code = nearest_codes(codes[:1], codes, STEPS)
by_pixel = nearest(images[:1], images, STEPS)[1]
print(
    f"{'nearest codes':38} cosine of the angle "
    + " ".join(f"{value:.2f}" for value in cosines[0, 1:].tolist())
)
rows.append(ReportImages("nearest codes", images[by_code[0]]))
rows.append(ReportImages("nearest pixels", images[by_pixel[0]]))

target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("plot_codes.png")
target.write_bytes(image_grid(rows))
