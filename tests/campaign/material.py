"""Small material that every case starts from, and the base commands that read it."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
from cli_helpers import SIZE, write_tame_model

OWN = "--reference ref.npz --held-out held.npz --extractor extractor"
FIT = "fit model data.npz --tol 0.5"
SAMPLE = "sample model --seeds 0-2 --steps 2"

# Short jobs: commands (without --out), and the files that each reads.
JOBS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fit": (FIT, ("model", "data.npz")),
    "fit-classes": (f"{FIT} --conditional", ("model", "data.npz")),
    "fit-safetensors": ("fit scheduler_config.json data.safetensors --tol 0.5", ("data.safetensors",)),
    "fit-npy": ("fit scheduler_config.json data.npy --tol 0.5", ("data.npy", "scheduler_config.json")),
    "fit-folder": ("fit model folder --tol 0.5 --conditional", ("folder",)),
    "fit-zip": ("fit model pictures.zip --prior gaussian", ("pictures.zip",)),
    "fit-tar": ("fit model pictures.tar --prior gaussian", ("pictures.tar",)),
    "fit-gaussian": ("fit model data.npz --prior gaussian --timestep 400", ("model", "data.npz")),
    "fit-mixture": ("fit model data.npz --prior mixture --components 4 --tol 0.5", ("model", "data.npz")),
    "fit-settings": ("fit model data.npz --settings settings.json --tol 0.5", ("settings.json",)),
    "fit-samples": ("fit model samples --prior gaussian", ("samples",)),
    "sample": (f"{SAMPLE} --prior prior", ("model", "prior")),
    "sample-classes": (f"{SAMPLE} --prior classes --class-labels 0-2", ("model", "classes")),
    "sample-gaussian": (f"{SAMPLE} --prior gaussian --format npz", ("model", "gaussian")),
    "sample-mixture": (f"{SAMPLE} --prior mixture --scheduler unipc", ("model", "mixture")),
    "sample-none": (f"{SAMPLE} --prior none --class-labels 1 --guidance-scale 2", ("model",)),
    "sample-settings": (
        "sample model --seeds 0-2 --prior prior --settings settings.json",
        ("settings.json", "prior"),
    ),
    "sample-codes": ("sample model --prior prior --steps 2 --codes codes/codes.safetensors", ("codes",)),
    "evaluate": (f"evaluate samples --atoms data.npz {OWN}", ("samples", "data.npz", "extractor", "ref.npz")),
    "evaluate-prior": (f"evaluate samples.npz --atoms prior {OWN}", ("samples.npz", "prior", "held.npz")),
    "encode": ("encode model data.npz --limit 2 --steps 4 --method heun", ("model", "data.npz")),
    "encode-bits": ("encode model folder --limit 2 --steps 2 --method heun --bits --grid", ("folder",)),
    "decode": ("encode model codes/codes.safetensors --decode --limit 2", ("model", "codes")),
    "audit": ("audit model data.npz --limit 8 --draws 0 --timesteps 500 --prior prior", ("model", "prior")),
    "audit-schedule": ("audit scheduler_config.json", ("scheduler_config.json",)),
    "compare": (
        f"compare model data.npz --starts none@1,gaussian@1 --samples 12 {OWN}",
        ("model", "data.npz", "extractor", "ref.npz", "held.npz"),
    ),
    "tune": (
        "tune model data.npz --validation val.npz --extractor extractor --prior gaussian --samples 12 --steps 1 "
        "--minutes 0.01 --copy-margin 1",
        ("model", "data.npz", "extractor", "val.npz"),
    ),
    "codes": (
        "codes model data.npz --fast --images 8 --subset 4 --swaps 0 --probed 0 --steps 2",
        ("model", "data.npz"),
    ),
    "verify": ("verify --only vp-rate --fast", ()),
    "reproduce": (
        "reproduce dpm-ot --fast --set model=model --set images=data.npz --set reference=ref.npz "
        "--set held_out=held.npz --set extractor=extractor",
        ("model", "data.npz"),
    ),
    "demo": ("demo --quick --samples 12", ()),
}
# The job that stands for each command.
ONE_OF_EACH = (
    "demo",
    "fit",
    "sample",
    "evaluate",
    "compare",
    "tune",
    "encode",
    "audit",
    "codes",
    "reproduce",
    "verify",
)
STUDIES = ("compare", "tune", "codes", "reproduce", "demo")  # they sample in processes of their own


def images(count: int, seed: int) -> np.ndarray:
    """Float images that vary along a few directions, as pictures do: (count, 1, SIZE, SIZE)."""
    random = np.random.default_rng(seed)
    axes = np.random.default_rng(7).normal(size=(4, SIZE * SIZE))
    rows = np.tanh(random.normal(size=(count, 4)) @ axes + 0.1 * random.normal(size=(count, SIZE * SIZE)))
    return rows.reshape(count, 1, SIZE, SIZE).astype(np.float32)


def build(folder: Path) -> Path:
    """Writes the material; a second call finds it done."""
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_tame_model(folder / "model")
    shutil.copy(folder / "model/scheduler/scheduler_config.json", folder)
    for seed, (name, count) in enumerate((("data", 40), ("ref", 60), ("held", 60), ("val", 60))):
        np.savez(folder / f"{name}.npz", images=images(count, seed), labels=np.arange(count) % 3)
    np.save(folder / "data.npy", images(40, 0))
    _write_pictures(folder)
    _write_models(folder)
    _run_commands(folder)
    (folder / "done").touch()
    return folder


def _write_pictures(folder: Path) -> None:
    import tarfile

    from PIL import Image

    for k, image in enumerate(images(6, 5)):
        path = folder / "folder" / str(k % 2) / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((image[0] + 1) * 127.5).round().astype(np.uint8)).save(path)
    pictures = sorted((folder / "folder").rglob("*.png"))
    with (
        zipfile.ZipFile(folder / "pictures.zip", "w") as archive,
        tarfile.open(folder / "pictures.tar", "w") as tar,
    ):
        for path in pictures:
            archive.write(path, path.relative_to(folder / "folder"))
            tar.add(path, path.name)


def _write_models(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from otprior.metrics.features import FeatureExtractor, save_extractor
    from otprior.sampling import StartSpec, write_settings

    torch.manual_seed(1)
    extractor = FeatureExtractor("tiny", (1, SIZE, SIZE), (4, 4, 4), 6, 3).eval()
    save_extractor(extractor, folder / "extractor", torch.float32)
    spec = StartSpec("semidiscrete", 500, 2, label="x", options=(("noise", "coupled"),))
    write_settings(folder / "settings.json", {"a": spec}, "val", "by hand")
    tensors = {"images": torch.from_numpy(images(40, 0)), "labels": torch.arange(40) % 3}
    save_file(tensors, folder / "data.safetensors")


def _run_commands(folder: Path) -> None:
    from typer.testing import CliRunner

    from otprior.cli import program

    before = Path.cwd()
    os.chdir(folder)
    try:
        for words in (
            f"{FIT} --out prior",
            f"{FIT} --conditional --out classes",
            "fit model data.npz --prior gaussian --out gaussian",
            "fit model data.npz --prior mixture --components 4 --tol 0.5 --out mixture",
            "encode model data.npz --limit 4 --method heun --steps 4 --out codes",
            "sample model --prior prior --seeds 0-19 --steps 2 --out samples",
            "sample model --prior prior --seeds 0-19 --steps 2 --format npz --out samples-npz",
        ):
            result = CliRunner().invoke(program, words.split())
            assert result.exit_code == 0, (words, result.output)
        shutil.copy(next(Path("samples-npz").rglob("images.npz")), "samples.npz")
        shutil.rmtree("samples-npz")
    finally:
        os.chdir(before)


def copy(material: Path, to: Path) -> Path:
    """The material in another folder, by hard links: replace files there, never write into them."""
    shutil.copytree(material, to, copy_function=os.link, dirs_exist_ok=True)
    return to
