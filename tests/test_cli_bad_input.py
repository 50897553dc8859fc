"""Bad input: one readable line, the right exit code, and everything that stood there before untouched."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import SIZE, assert_refused, run, tree, write_images, write_model
from diffusers import DDPMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file

from otprior.metrics.features import FeatureExtractor, save_extractor
from otprior.priors import IdentityPrior
from otprior.sampling import OTPriorPipeline
from otprior.utils.files import output_dir


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and data, made once; tests work on copies."""
    folder = tmp_path_factory.mktemp("built")
    write_model(folder / "model")
    write_images(folder / "data.npz")
    return folder


@pytest.fixture
def here(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, data, a prior, and an earlier result in `out`; the current folder."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    IdentityPrior.build((1, 8, 8), DDPMScheduler(), 500).save_pretrained(tmp_path / "prior")
    with output_dir(tmp_path / "out") as folder:
        (folder / "report.json").write_text('{"earlier": "keep me"}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _refused_untouched(here: Path, arguments: str, *message: str, code: int = 2) -> None:
    before = tree(here)
    assert_refused(run(*arguments.split()), *message, code=code)
    assert tree(here) == before


FIT = "fit model data.npz --out out --overwrite --tol 0.3"
SAMPLE = "sample model --prior prior --out out --overwrite --seeds 0-1"


# Models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [FIT, SAMPLE])
def test_missing_model(here: Path, command: str) -> None:
    shutil.rmtree(here / "model")
    _refused_untouched(here, command, "model model: there is no such file or folder; name a diffusers folder")


@pytest.mark.parametrize("command", [FIT, SAMPLE])
def test_folder_that_is_no_model(here: Path, command: str) -> None:
    (here / "model" / "model_index.json").unlink()
    _refused_untouched(here, command, "model model: there is no model_index.json in it")


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_corrupt_model_config(here: Path, name: str, content: str) -> None:
    (here / "model" / name).write_text(content)
    _refused_untouched(here, SAMPLE, "model model cannot be loaded: ")


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("unet/config.json", "mid_block_scale_factor", [None]),
        ("unet/config.json", "time_embedding_dim", [[]]),
        ("unet/config.json", "freq_shift", "0"),
        ("scheduler/scheduler_config.json", "clip_sample_range", [1.0]),
        ("scheduler/scheduler_config.json", "trained_betas", True),
        ("scheduler/scheduler_config.json", "steps_offset", None),
    ],
)
def test_config_value_of_another_kind(here: Path, file: str, key: str, value: object) -> None:
    path = here / "model" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    for command in (FIT, SAMPLE):
        _refused_untouched(here, command, f"{key} of {Path('model') / file}")


@pytest.mark.parametrize(("key", "value"), [("block_out_channels", [None]), ("norm_num_groups", 0)])
def test_diffusers_own_errors_are_of_one_kind(here: Path, key: str, value: object) -> None:
    path = here / "model" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match="model"):
        OTPriorPipeline.from_pretrained(here / "model")


def test_index_without_components(here: Path) -> None:
    (here / "model" / "model_index.json").write_text('{"_class_name": "OTPriorPipeline"}')
    _refused_untouched(here, SAMPLE, "model model cannot be loaded: ")


def test_truncated_weights_of_the_model(here: Path) -> None:
    weights = here / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for command in (FIT, SAMPLE):
        _refused_untouched(here, command, "diffusion_pytorch_model.safetensors is damaged or truncated")


def test_model_without_weights(here: Path) -> None:
    (here / "model" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    _refused_untouched(here, SAMPLE, "no .safetensors file")


@pytest.mark.parametrize(
    "command",
    [
        "sample model --prior prior --seeds 0",
        "encode model data.npz --limit 2",
        "codes model data.npz --fast --images 8 --subset 4 --swaps 0 --probed 0",
        "compare model data.npz --starts gaussian@1 --samples 12 --reference data.npz --held-out data.npz",
        "tune model data.npz --validation data.npz --prior gaussian --samples 12",
        "audit model data.npz --prior prior --timesteps 500",
        "reproduce dpm-ot --fast --set model=model --set images=data.npz --set reference=data.npz "
        "--set held_out=data.npz --set extractor=data.npz --set atoms=20 --set code_atoms=10",
    ],
    ids=lambda command: command.split()[0],
)
def test_network_that_holds_nan_is_refused_before_any_work(here: Path, command: str) -> None:
    weights = here / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_out.weight"][0, 0] = float("nan")
    save_file(tensors, weights)
    before = tree(here)
    assert_refused(run(*command.split(), "--out", "a"), "conv_out.weight of", "finite")
    assert tree(here) == before


def test_config_of_another_network(here: Path) -> None:
    path = here / "model" / "unet" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"block_out_channels": [16, 16]}))
    _refused_untouched(here, SAMPLE, "model model cannot be loaded: ")


# Data -------------------------------------------------------------------------------------------------------


def test_missing_data(here: Path) -> None:
    (here / "data.npz").unlink()
    _refused_untouched(here, FIT, "data data.npz: there is no such file or folder")


def test_truncated_data(here: Path) -> None:
    data = here / "data.npz"
    data.write_bytes(data.read_bytes()[:2000])
    _refused_untouched(here, FIT, "data.npz is damaged")


def test_truncated_safetensors_of_data(here: Path) -> None:
    from safetensors.torch import save_file

    save_file({"images": torch.rand(20, 1, 8, 8) * 2 - 1}, here / "data.safetensors")
    content = (here / "data.safetensors").read_bytes()
    (here / "data.safetensors").write_bytes(content[:-100])
    _refused_untouched(here, FIT.replace("npz", "safetensors"), "data.safetensors is damaged")


def test_images_of_another_size(here: Path) -> None:
    write_images(here / "data.npz", size=16)
    _refused_untouched(here, FIT, "images of data.npz must be 8x8; got 16x16")


def test_image_files_of_another_size(here: Path) -> None:
    (here / "folder").mkdir()
    Image.fromarray(np.zeros((10, 8), dtype=np.uint8)).save(here / "folder" / "a.png")
    command = FIT.replace("data.npz", "folder")
    _refused_untouched(here, command + " --resize none", "must be 8x8; got 10x8")
    _refused_untouched(here, command + " --resize 12", "must be 8x8; got 15x12")
    _refused_untouched(here, command + " --crop 9x8", "must be 8x8; got 9x8")
    Image.fromarray(np.zeros((6, 8), dtype=np.uint8)).save(here / "folder" / "a.png")
    _refused_untouched(here, command, "must be 8x8; got 6x8")


@pytest.mark.parametrize("option", ["--resize 0", "--resize a", "--crop 8x", "--crop none", "--convert RGBA"])
def test_what_pictures_cannot_be_made(here: Path, option: str) -> None:
    _refused_untouched(here, f"{FIT} {option}", option.split()[0])


def test_images_with_other_channels(here: Path) -> None:
    write_images(here / "data.npz", count=20, images=np.zeros((20, 3, 8, 8), dtype=np.uint8))
    _refused_untouched(here, FIT, "images of data.npz must be of 1 channel(s); got 3")


def test_images_of_another_range(here: Path) -> None:
    images = np.random.default_rng(0).uniform(0, 1, (40, 1, 8, 8))
    write_images(here / "data.npz", images=images)
    _refused_untouched(here, FIT, "in [-1, 1] with some value below -0.05", "--value-range 0,1")
    write_images(here / "data.npz", images=255 * images)
    _refused_untouched(here, FIT, "must be in [-1, 1]; got values in", "--value-range low,high")
    _refused_untouched(here, FIT + " --value-range 0,1", "must be in [0, 1]; got values in")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(here: Path, bad: float) -> None:
    images = np.zeros((20, 1, 8, 8))
    images[7, 0, 3, 3] = bad
    write_images(here / "data.npz", count=20, images=images)
    _refused_untouched(here, FIT, "must be finite; got NaN or infinity in 1 of 20 rows, first in row 7")


@pytest.mark.parametrize(("label", "rule"), [(3, "in [0, 2]"), (-1, "in [0, 999999]"), (99, "in [0, 2]")])
def test_labels_out_of_range(here: Path, label: int, rule: str) -> None:
    labels = np.arange(40) % 3
    labels[11] = label
    write_images(here / "data.npz", labels=labels)
    _refused_untouched(here, FIT + " --conditional", f"must be {rule}; got {label} in row 11")


def test_data_without_labels(here: Path) -> None:
    np.save(here / "data.npy", np.zeros((20, 8, 8), dtype=np.uint8))
    command = FIT.replace("npz", "npy") + " --conditional"
    _refused_untouched(
        here, command, "data must be labelled with --conditional; got data.npy, which has no labels"
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.full(40, 0.5), "weights must be of sum 1; got a sum of 20"),
        (np.r_[-0.1, 1.1, np.zeros(38)], "weights must be nonnegative; got a minimum of -0.1"),
        (np.r_[np.nan, np.ones(39)], "weights must be finite"),
        (np.full(39, 1 / 39), "weights must be of shape (40,), one an atom; got (39,)"),
        (np.array(["a"] * 40), "weights weights.npy must be one array of numbers"),
        (np.full(40, 1 / 40 + 3j), "weights weights.npy must be one array of numbers"),
    ],
)
def test_weights(here: Path, weights: np.ndarray, message: str) -> None:
    np.save(here / "weights.npy", weights)
    _refused_untouched(here, FIT + " --weights weights.npy", message)


def test_weights_file_that_is_none(here: Path) -> None:
    (here / "weights.npy").write_text("1, 2, 3")
    _refused_untouched(here, FIT + " --weights weights.npy", "weights weights.npy is damaged")
    _refused_untouched(here, FIT + " --weights missing.npy", "weights missing.npy: there is no such file")
    np.save(here / "weights.npy", np.full(40, 1 / 40))
    _refused_untouched(here, FIT + " --weights weights.npy --limit 3", "weights must be of shape (3,)")


# Options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timestep", ["1000", "-1", "1e9", "nan", "500.5"])
def test_timestep_outside_the_schedule(here: Path, timestep: str) -> None:
    for command in (FIT, SAMPLE):
        _refused_untouched(here, f"{command} --timestep={timestep}", "timestep must be")


def test_no_steps(here: Path) -> None:
    before = tree(here)
    result = run(*SAMPLE.split(), "--steps", 0)
    assert result.exit_code == 2
    assert "--steps" in result.stderr
    assert "1" in result.stderr
    assert tree(here) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps 502", "--steps must be at most 501"),
        ("--class-labels 4", "--class-labels must be in [0, 3]; got 4"),
        ("--guidance-scale 2", "--guidance-scale must be 1 unless"),
        ("--null-label 4", "--null-label must be an integer in [0, 3]; got 4"),
        ("--float", "--float must be given with --format npz"),
        ("--scheduler DDIMInverse", "Use DPMSolverMultistepScheduler.from_config"),
        ("--scheduler IPNDM", "--scheduler must be a VP, EDM or flow-matching scheduler"),
        ("--device nonsense", "--device must be one that this machine has; got nonsense"),
        ("--seeds 3-1", "--seeds must be"),
    ],
)
def test_sampling_options(here: Path, options: str, message: str) -> None:
    _refused_untouched(here, f"{SAMPLE} {options}", message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--prior gaussian",
            "--tol is an option neither of this command nor of --prior gaussian, which has --rank",
        ),
        (
            "--prior mixture --smoothing 1",
            "--smoothing is an option neither of this command nor of --prior mixture",
        ),
        ("--prior mixture --components 1000", "components must be at most half of"),
        ("--components 10", "--components is an option neither of this command nor of --prior semidiscrete"),
        ("--prior=nowhere", "prior must be one of"),
        ("--prior=unsolved", "unsolved priors are made from a semidiscrete one"),
        ("--auto 5", "--auto no longer exists: type `otprior tune MODEL DATA --steps N --out DIR`"),
        ("--from-model 9", "--from-model no longer exists: type `otprior sample MODEL --prior none"),
        ("--rank 1.5", "rank must be a whole number of axes >= 1, or a share of variance such as 0.95"),
        ("--rank 65", "rank must be an integer in [1, 64]; got 65"),
        ("--resume", "there is no state of a solve in out.work; leave --resume out to begin"),
        ("--smoothing -1", "smoothing must be 0, or a number in"),
        ("--tol 0", "tol must be a positive number"),
        ("--noise fresh --correlation 0.5", "correlation must be 1 with noise='fresh'"),
        ("--value-range 1,0", "--value-range must be"),
    ],
)
def test_fitting_options(here: Path, options: str, message: str) -> None:
    _refused_untouched(here, f"{FIT} {options}", message)


def test_an_unfinished_solve_is_not_begun_anew_by_mistake(here: Path) -> None:
    (here / "new.work").mkdir()
    (here / "new.work" / "map-0.safetensors").write_bytes(b"state")
    begin = FIT.replace("--out out --overwrite", "--out new")
    _refused_untouched(here, begin, "new.work holds the state of an unfinished solve; pass --resume to go on")
    _refused_untouched(here, f"{begin} --resume", "map-0.safetensors is damaged")


def test_prior_of_another_shape_or_damaged(here: Path) -> None:
    IdentityPrior.build((1, 4, 4), DDPMScheduler(), 500).save_pretrained(here / "other")
    _refused_untouched(
        here, SAMPLE.replace("prior prior", "prior other"), "prior must be for the network's latents"
    )
    (here / "prior" / "config.json").write_text("{")
    _refused_untouched(here, SAMPLE, "config.json is damaged")
    (here / "prior" / "config.json").unlink()
    _refused_untouched(here, SAMPLE, "prior prior: there is no config.json in it; `otprior fit` makes one")


def test_no_prior_named(here: Path) -> None:
    _refused_untouched(here, SAMPLE.replace("--prior prior", ""), "--prior must be given")
    _refused_untouched(
        here, SAMPLE.replace("prior prior", "prior none") + " --timestep 400", "--timestep must be left"
    )


def test_evaluation_sets_go_together(here: Path) -> None:
    command = "evaluate data.npz --out out --overwrite --reference data.npz"
    _refused_untouched(
        here, command, "--reference, --atoms and --held-out must be given together", "no --atoms"
    )


def test_images_that_do_not_fit_the_bundled_ones(here: Path) -> None:
    _refused_untouched(
        here, "evaluate data.npz --out out --overwrite", "bundled reference must be of shape (1, 8, 8)"
    )


# Outputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [FIT, SAMPLE, "evaluate data.npz --out out --overwrite"])
def test_output_folder_that_exists(here: Path, command: str) -> None:
    _refused_untouched(
        here, command.replace(" --overwrite", ""), "output folder out is not empty; pass --overwrite"
    )
    _refused_untouched(
        here, command.replace("--out out", "--out data.npz"), "output folder data.npz is a file"
    )


def _no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_while_fitting(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = lambda path, mode: open("/dev/full", mode)  # noqa: E731, SIM115
    monkeypatch.setattr("otprior.utils.arrays.open", full, raising=False)
    _refused_untouched(here, FIT, "no space is left on the disk. out is as it was.", code=1)


def test_full_disk_after_the_prior_was_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otprior.cli.fit_prior.write_json", _no_space)
    _refused_untouched(here, FIT, "no space is left on the disk. out is as it was.", code=1)


@pytest.mark.parametrize(
    "place", ["PIL.Image.Image.save", "numpy.savez_compressed", "otprior.cli.sample.write_json"]
)
def test_full_disk_while_sampling(here: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(place, _no_space)
    _refused_untouched(here, SAMPLE, "no space is left on the disk. out is as it was.", code=1)


def test_transport_that_is_not_solved(here: Path) -> None:
    command = f"{FIT} --tol 1e-3 --max-draws 2000"
    _refused_untouched(here, command, "semi-discrete solve ", "--keep-unconverged saves it", code=1)
    result = run(*command.split(), "--keep-unconverged")
    assert result.exit_code == 0, result.output
    assert "upper 95 % limit" in result.stdout
    assert "(converged)" not in result.stdout
    assert "keep me" not in (here / "out" / "report.json").read_text()


def test_debug_shows_where_an_error_came_from(here: Path) -> None:
    result = run(*FIT.split(), "--timestep", 5000, "--debug")
    assert isinstance(result.exception, ValueError)


def test_interrupt_while_fitting(here: Path) -> None:
    """A real Ctrl-C to a process that has begun to solve."""
    write_images(here / "data.npz", count=1000)
    before = tree(here)
    command = f"{FIT} --tol 0.01 --threads 1".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "otprior", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background of a shell inherits an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    said = io.StringIO()
    try:
        for line in process.stderr:
            said.write(line)
            if line.startswith("solving the transport"):
                process.send_signal(signal.SIGINT)
                break
        output, rest = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, said.getvalue() + rest
    assert rest.splitlines()[-1] == "stopped; nothing was written, and out is as it was"
    assert "Traceback" not in rest
    assert output == ""
    assert tree(here) == before


def test_sets_that_overlap_are_refused(here: Path) -> None:
    for name in ("atoms", "others"):
        write_images(here / f"{name}.npz")
    with np.load(here / "others.npz") as file:
        arrays = dict(file)
    np.savez(here / "others.npz", **arrays | {"images": -arrays["images"]})
    for reference, held_out, named in (("others", "atoms", "held-out"), ("atoms", "others", "reference")):
        words = f"evaluate data.npz --atoms atoms.npz --reference {reference}.npz --held-out {held_out}.npz"
        _refused_untouched(here, f"{words} --out out --overwrite", f"--{named} must be", "40 that are")
    words = "evaluate data.npz --atoms atoms.npz --reference others.npz --held-out others.npz --out out --overwrite"
    _refused_untouched(here, words, "--held-out must be", "40 that are")
    extractor = FeatureExtractor("tiny", (1, SIZE, SIZE), (4, 4, 4), 16, 3).eval()
    save_extractor(extractor, here / "extractor", torch.float32)
    words = "compare model data.npz --starts none@1 --samples 24 --extractor extractor --workers 1 --out b"
    for reference, held_out in (("data", "others"), ("others", "data"), ("others", "others")):
        asked = f"{words} --reference {reference}.npz --held-out {held_out}.npz"
        _refused_untouched(here, asked, "must be images that are not among", "40 that are")
    words = "audit model atoms.npz --held-out data.npz --timesteps 500 --draws 0"
    _refused_untouched(here, words, "--held-out must be", "40 that are")


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("encode model data.npz --method dop853 --tol 1e-320", "tol must be"),
        ("encode model data.npz --limit 1 --tol 1e300", "tol must be"),
        ("fit model data.npz --tol 1e300", "tol must be"),
        ("tune bundled bundled --device vulkan", "--device must be"),
        ("demo --quick --device vulkan", "--device must be"),
        ("compare --device vulkan", "--device must be"),
        ("codes model data.npz --fast --device vulkan", "--device must be"),
        ("reproduce dpm-ot --device vulkan", "--device must be"),
        ("verify --fast --device vulkan", "--device must be"),
        ("audit model data.npz --draws 100000000000 --timesteps 500", "draws must be an integer in"),
        ("audit model data.npz --steps 1000000000000 --timesteps 500 --draws 2", "must be"),
    ],
)
def test_numbers_without_a_bound_are_refused_before_the_work(here: Path, command: str, part: str) -> None:
    assert_refused(run(*command.split(), "--out", "a"), part)
    assert not (here / "a").exists()


@pytest.mark.parametrize(
    ("key", "value", "told", "code"),
    [
        ("sample_size", 10**7, "the memory is not enough", 1),
        ("sample_size", float("inf"), "integers", 2),
        ("layers_per_block", 10**9, "at most 1,000", 2),
    ],
)
def test_networks_that_no_machine_holds(here: Path, key: str, value: int, told: str, code: int) -> None:
    path = here / "model" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    words = "sample model --prior none --steps 2 --seeds 0 --out a"
    assert_refused(run(*words.split()), told, code=code)


@pytest.mark.parametrize("scale", ["nan", "inf", "1e308"])
def test_guidance_that_only_overflows_is_refused(here: Path, scale: str) -> None:
    result = run(*SAMPLE.split(), "--guidance-scale", scale, "--class-labels", 0)
    assert result.exit_code == 2
    assert "--guidance-scale" in result.stderr


def test_weights_that_are_a_pipe_are_refused_and_not_waited_for(here: Path) -> None:
    weights = next((here / "model" / "unet").glob("*.safetensors"))
    weights.unlink()
    os.mkfifo(weights)
    assert_refused(run(*SAMPLE.split()), "a regular file")


def test_steps_without_a_bound_leave_no_work_folder(here: Path) -> None:
    sets = ("--reference", "bundled", "--held-out", "bundled")
    result = run(*["compare", "bundled", "bundled", "--starts", "none@1000000000", "--out", "a"], *sets)
    assert_refused(result, "steps of --starts")
    assert not list(here.glob("a*"))
