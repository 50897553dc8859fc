#!/bin/sh
# What a newcomer does: installs the wheel into an empty environment, then fits and samples a text-to-image pipeline (of
# tiny random weights) from a folder of photographs of mixed sizes, upright by their EXIF: in ten lines of Python, and
# in four commands.
#
#   PYTHON=.venv/bin/python sh tests/newcomer.sh         dependencies are those of PYTHON's environment
#   PYTHON=... FULL=1 sh tests/newcomer.sh               pip installs them, too
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
isolation=$("$python" -c 'import importlib.util as u; print("--no-build-isolation" if u.find_spec("hatchling") else "")')
"$python" -m pip wheel --quiet --no-deps $isolation --wheel-dir "$work/dist" "$root"
others=$("$python" -c 'import sys; print("\n".join(p for p in sys.path if p.endswith("site-packages")))')
"$python" -m venv --without-pip "$work/venv"
if [ -n "${FULL:-}" ]; then
    "$python" -m pip --python "$work/venv/bin/python" install --quiet "$work"/dist/*.whl transformers
else
    "$python" -m pip --python "$work/venv/bin/python" install --quiet --no-deps "$work"/dist/*.whl
    echo "$others" > "$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/others.pth"
fi
cd "$work"
PATH="$work/venv/bin:$PATH"
export HF_HUB_OFFLINE=1
PYTHONPATH="$root/tests" python - <<'END'
from pathlib import Path

import otprior
from newcomer_material import write_photographs
from tiny_pipelines import text_to_image

assert Path(otprior.__file__).is_relative_to(Path("venv").resolve()), otprior.__file__
text_to_image().save_pretrained("model")
write_photographs(Path("photographs"))
END

# Ten lines of Python.
python - <<'END'
import diffusers, otprior
from otprior.data import encode_images

pipe = diffusers.StableDiffusionPipeline.from_pretrained("model")
latents = encode_images(pipe.vae, "photographs", resize=16, crop=16, convert="RGB")
prior = otprior.GaussianPrior.fit(latents, pipe.scheduler)
otprior.attach(pipe, prior)
generators = otprior.seeds_to_generators([0, 1])
images = pipe(["a cat"] * 2, num_inference_steps=4, generator=generators).images
images[1].save("cat.png")
prior.save_pretrained("model/prior")
END

# Four commands.
otprior fit model photographs --tol 0.5 --out prior
otprior sample model --prior prior --prompt "a cat" --steps 4 --seeds 0-7 --out images
otprior audit model photographs --prior prior --timesteps 500,999 --out audit
otprior sample model --prompt "a cat" --steps 4 --seeds 0-7 --out by-gaussian

python - <<'END'
from pathlib import Path

import numpy as np
from PIL import Image

seed = "images/000001.png"
pictures = {name: np.asarray(Image.open(name)).astype(int) for name in ("cat.png", f"by-gaussian/{seed}", f"images/{seed}")}
mine, told, other = pictures.values()
assert len(list(Path("images/images").glob("*.png"))) == 8
assert mine.shape == other.shape == (16, 16, 3)
# In batches of another size rounding may differ, by one grey level.
assert abs(mine - told).max() <= 1 < abs(mine - other).max()
assert Path("audit/report.html").stat().st_size > 10_000
END
echo "a newcomer can do it"
