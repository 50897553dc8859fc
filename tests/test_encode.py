"""Codes: the round trip, files, exact networks, the bundled one; and `otprior encode`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import assert_refused, run, tree, write_images, write_tame_model, written
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from exact_denoiser import ExactDenoiser
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from otprior.data import bundled
from otprior.diffusion.codes import Codes, Encoder, code_moments
from otprior.diffusion.network import NetworkDenoiser
from otprior.diffusion.schedule import NoiseSchedule
from otprior.report import SamplingReport


def _exact(flow: bool = False) -> NetworkDenoiser:
    scheduler = FlowMatchEulerDiscreteScheduler() if flow else DDIMScheduler()
    network = ExactDenoiser(NoiseSchedule.from_scheduler(scheduler), 0.3, 0.5)
    return NetworkDenoiser(network, scheduler)


def _images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (0.3 + 0.5 * torch.randn(count, 1, 2, 2, generator=generator)).double()


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("method", ["ddim", "heun", "rk4", "dop853"])
def test_codes_of_an_exact_network_are_those_of_the_flow(method: str, flow: bool) -> None:
    denoiser = _exact(flow)
    clean, noisy = code_moments(denoiser.schedule)
    images = _images(5)
    encoder = Encoder(method, steps=200, tol=1e-8)
    found = encoder.encode(denoiser, images, clean, noisy)
    spread = (0.25 * clean.alpha**2 + clean.sigma**2) ** 0.5
    white = (clean.alpha * images - clean.alpha * 0.3) / spread
    exact = noisy.alpha * 0.3 + (0.25 * noisy.alpha**2 + noisy.sigma**2) ** 0.5 * white
    # DDIM is of first order; the network takes its timestep in float32.
    assert float((found.x - exact).abs().max()) < (0.05 if method == "ddim" else 2e-3)
    back = encoder.decode(denoiser, found.x, clean, noisy)
    assert float((back.x - images).abs().max()) < 1e-3


def test_moments_leave_out_the_end_without_signal() -> None:
    schedule = NoiseSchedule.from_scheduler(DDIMScheduler(rescale_betas_zero_snr=True))
    clean, noisy = code_moments(schedule)
    assert clean.alpha > 0.99
    assert 0 < noisy.alpha < 0.01


def test_fixed_point_closes_the_round_trip_of_the_bundled_network() -> None:
    """Fifty evaluations a sample: below 1e-3 in every pixel with the fixed point, not without; nothing clipped."""
    pipe = bundled.load_pipeline()
    labels = torch.full((1,), bundled.null_class_label())
    denoiser = NetworkDenoiser(pipe.unet.eval(), pipe.scheduler, labels)
    clean, noisy = code_moments(denoiser.schedule)
    images = bundled.split("held_out").images[:1]
    errors = {}
    with torch.no_grad():
        for iterations in (1, 20):
            encoder = Encoder(steps=50, iterations=iterations)
            found = encoder.encode(denoiser, images, clean, noisy)
            back = encoder.decode(denoiser, found.x, clean, noisy)
            assert back.evaluations == 50
            errors[iterations] = float((back.x - images).abs().max())
    assert errors[20] < 1e-3
    assert errors[1] > 1e-2


@pytest.mark.parametrize("labels", [None, torch.tensor([1, 2, 0])])
def test_codes_survive_a_file(tmp_path: Path, labels: Tensor | None) -> None:
    codes = Codes(torch.randn(3, 1, 2, 2), labels, Encoder("heun", steps=7), {"model": "m", "n": 3})
    codes.save(tmp_path / "codes.safetensors")
    loaded = Codes.load(tmp_path / "codes.safetensors")
    assert torch.equal(loaded.codes, codes.codes)
    assert (loaded.labels is None) == (labels is None)
    assert labels is None or torch.equal(loaded.labels, labels)
    assert loaded.encoder == codes.encoder
    assert loaded.provenance == {"model": "m", "n": 3}


def test_files_that_are_no_codes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        Codes.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match="damaged or no"):
        Codes.load(tmp_path / "text.safetensors")
    save_file({"images": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="must be a file that otprior wrote"):
        Codes.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rk5"}, "method must be one of"),
        ({"steps": 0}, "steps must be an integer in"),
        ({"iterations": 0}, "iterations must be an integer in"),
        ({"tol": 0.0}, r"tol must be in \[1e-13, 1\]"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(**options)  # type: ignore[arg-type]


# The command ------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny network of three classes and 4 labelled images; the current folder."""
    write_tame_model(tmp_path / "model")
    write_images(tmp_path / "data.npz", count=4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ENCODE = "encode model data.npz --out codes --steps 30 --tol 1e-7 --iterations 40 --threads 1"


def test_encode_and_decode_give_the_images_back(here: Path) -> None:
    result = run(*ENCODE.split(), "--conditional", "--grid", "--bits", "--probes", 2, "--batch-size", 3)
    assert result.exit_code == 0, result.output
    assert "round trip: " in result.output
    assert "bits per dimension: " in result.output
    assert set(written(here / "codes")) == {"codes.safetensors", "report.json", "grid.png"}
    report = json.loads((here / "codes" / "report.json").read_text())
    SamplingReport.from_json(report)
    assert report["encoding"]["evaluations to decode"] == 30
    assert report["encoding"]["round trip, largest error of a pixel"] < 1e-3
    codes = Codes.load(here / "codes" / "codes.safetensors")
    assert codes.labels is not None
    assert codes.labels.tolist() == [0, 1, 2, 0]
    assert codes.provenance["model"] == "model"

    result = run("encode", "model", "codes/codes.safetensors", "--decode", "--out", "images", "--threads", 1)
    assert result.exit_code == 0, result.output
    with np.load(here / "data.npz") as file:
        originals = torch.from_numpy(file["images"])
    for i in (0, 3):
        pixels = np.asarray(Image.open(here / "images" / "images" / f"{i:06d}.png"), dtype=np.float64)
        # The round trip's error, and rounding to 8 bits.
        assert float(np.abs(pixels / 127.5 - 1 - originals[i, 0].numpy()).max()) < 1e-3 + 1 / 254


def test_decoding_with_another_label_gives_another_image(here: Path) -> None:
    assert run(*ENCODE.split(), "--class-label", 0).exit_code == 0
    for label in (0, 1):
        words = f"encode model codes/codes.safetensors --decode --class-label {label} --out out-{label} --threads 1"
        assert run(*words.split()).exit_code == 0
    one, other = (tree(here / f"out-{label}" / "images") for label in (0, 1))
    assert one != other


def test_codes_of_no_class_are_decoded_by_another_networks_label_for_it(here: Path) -> None:
    assert run(*ENCODE.split()).exit_code == 0
    assert Codes.load(here / "codes" / "codes.safetensors").of_no_class
    decode = "encode model codes/codes.safetensors --decode --threads 1"
    for name, option in (("null", "--null-label"), ("label", "--class-label"), ("own", None)):
        words = [] if option is None else [option, 1]
        assert run(*decode.split(), *words, "--out", name).exit_code == 0
    null, label, own = (tree(here / name / "images") for name in ("null", "label", "own"))
    assert null == label != own


def test_sampling_from_codes_makes_the_images_again(here: Path) -> None:
    assert run(*ENCODE.split()).exit_code == 0
    loose = run("encode", "model", "codes/codes.safetensors", "--decode", "--tol", 1, "--out", "none")
    assert_refused(loose, "--tol must be left out with decoding by ddim")
    words = "sample model --prior none --codes codes/codes.safetensors --scheduler ddim --steps 60"
    words += " --spacing grid:log_snr"
    result = run(*words.split(), "--out", "again")
    assert result.exit_code == 0, result.output
    with np.load(here / "data.npz") as file:
        originals = torch.from_numpy(file["images"])
    again = [
        np.asarray(Image.open(path)) / 127.5 - 1 for path in sorted((here / "again" / "images").iterdir())
    ]
    assert len(again) == 4
    # Another grid than the codes were made on, and an untrained network: not the exact inverse, but each image
    # is nearest to its own original, and well below the 0.8 by which two originals differ.
    apart = torch.from_numpy(np.stack(again))[:, None] - originals[None, :, 0]
    error = apart.abs().mean(dim=(2, 3))
    assert error.argmin(dim=1).tolist() == [0, 1, 2, 3]
    assert float(error.diagonal().max()) < 0.3

    assert run(*words.split(), "--seeds", "1,3", "--out", "some").exit_code == 0
    for name in ("000001.png", "000003.png"):
        assert (here / "some" / "images" / name).read_bytes() == (
            here / "again" / "images" / name
        ).read_bytes()
    refused = run(*words.split(), "--seeds", "2-4", "--out", "none")
    assert_refused(refused, "--seeds must be numbers of the 4 codes, from 0 on; got 4")
    missing = run("sample", "model", "--prior", "none", "--codes", "missing", "--out", "none")
    assert_refused(missing, "codes missing: there is no such file or folder; `otprior encode` makes them")


def test_refined_encoders_are_finer() -> None:
    assert Encoder("rk4", steps=12).refined() == Encoder("rk4", steps=24)
    assert Encoder("ddim", steps=12).refined() == Encoder("ddim", steps=24)
    assert Encoder("dop853", tol=1e-3).refined() == Encoder("dop853", tol=1e-4)


def test_refusals(here: Path) -> None:
    words = ENCODE.split()
    too_long = run(*ENCODE.replace("--steps 30", "--steps 3").split(), "--class-label", 0)
    assert_refused(too_long, "codes must be finite", "raise steps")
    assert_refused(run(*words, "--decode"), "codes data.npz is damaged or no .safetensors file")
    assert_refused(run(*words, "--class-label", 9), "--class-label")
    assert_refused(run(*words, "--conditional", "--class-label", 1), "--conditional must be left out")
    assert_refused(run(*words, "--probes", 4), "--probes must be left out without --bits")
    assert_refused(run(*words, "--decode", "--bits"), "--bits must be left out with --decode")
    for method, option in (("heun", "--tol 1e-3"), ("rk4", "--iterations 5"), ("dop853", "--steps 9")):
        given = f"encode model data.npz --out codes --method {method} {option}".split()
        assert_refused(run(*given), f"{option.split()[0]} must be left out with encoding by {method}")
    assert_refused(run("encode", "model", "none.npz", "--out", "codes"), "data none.npz: there is no such")
    assert_refused(run("encode", "nothing", "data.npz", "--out", "codes"), "model nothing: there is no such")
    assert not (here / "codes").exists()
