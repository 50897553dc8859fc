"""Outputs of the commands: nothing but an earlier result is ever replaced, and what is said about it is true."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli_helpers import SIZE, assert_refused, run, tree, write_images, write_tame_model
from safetensors.torch import load_file, save_file

from otprior.cli import main
from otprior.cli.studies import work_folder
from otprior.cli.user_inputs import UserInputs
from otprior.data.samples import diverged
from otprior.experiments.run import run_comparison
from otprior.metrics.features import FeatureExtractor, save_extractor
from otprior.sampling.start_spec import StartSpec
from otprior.utils import files

MODEL, IMAGES = "data/model", "data/images.npz"
OWN = "--reference data/ref.npz --held-out data/held.npz --extractor data/extractor"
# A short job of each command.
JOBS = {
    "demo": "--quick --samples 12",
    "fit": f"{MODEL} {IMAGES} --prior gaussian",
    "sample": f"{MODEL} --prior none --seeds 0-1 --steps 1",
    "evaluate": f"{IMAGES} {OWN} --atoms {IMAGES}",
    "compare": f"{MODEL} {IMAGES} --starts none@1,gaussian@1 --samples 12 {OWN}",
    "tune": f"{MODEL} {IMAGES} --validation data/ref.npz --extractor data/extractor --prior gaussian --samples 12 "
    "--steps 1 --minutes 0.01",
    "encode": f"{MODEL} {IMAGES} --class-label 0 --steps 20 --limit 2",
    "audit": f"{MODEL} {IMAGES} --limit 8 --draws 0 --timesteps 500",
    "verify": "--only vp-rate --fast",
    "codes": f"{MODEL} {IMAGES} --fast --images 8 --subset 4 --swaps 0 --probed 0 --steps 2",
    "reproduce": f"dpm-ot --fast --set model={MODEL}",
}
COMMANDS = tuple(JOBS)
READS_A_MODEL = tuple(name for name in COMMANDS if MODEL in JOBS[name])


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, images, an extractor."""
    folder = tmp_path_factory.mktemp("material")
    write_tame_model(folder / "model")
    for number, name in enumerate(("images", "ref", "held")):
        write_images(folder / f"{name}.npz")
        with np.load(folder / f"{name}.npz") as file:
            arrays = dict(file)
        noise = np.random.default_rng(number).normal(size=arrays["images"].shape)
        arrays["images"] = np.tanh(arrays["images"] + 0.1 * noise).astype(np.float32)
        np.savez(folder / f"{name}.npz", **arrays)
    torch.manual_seed(0)
    extractor = FeatureExtractor("tiny", (1, SIZE, SIZE), (4, 4, 4), dim=6, classes=3)
    save_extractor(extractor, folder / "extractor", torch.float32)
    return folder


@pytest.fixture
def home(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the material in `data`; studies are short, and work in this process."""
    home = tmp_path / "home"
    shutil.copytree(material, home / "data")
    monkeypatch.chdir(home)
    starts = (StartSpec("semidiscrete", 500, 1),)
    inputs = UserInputs(MODEL, IMAGES, Path("data/extractor"), tol=1.0)
    study = inputs.comparison("short", starts, 12, "data/ref.npz", "data/held.npz")
    for module in ("demo", "tune"):
        monkeypatch.setattr(f"otprior.cli.{module}.default_workers", lambda *_: 0)
    monkeypatch.setattr("otprior_studies.cli.codes.default_workers", lambda *_: 0)
    # (Last: a module that is imported now would keep the patched one.)
    monkeypatch.setattr("otprior.cli.studies.default_workers", lambda *_: 0)
    monkeypatch.setattr(
        "otprior.experiments.processes.kept_processes", lambda *_, **__: contextlib.nullcontext()
    )
    monkeypatch.setattr("otprior.experiments.chosen.demo", lambda *_: study)
    monkeypatch.setattr("otprior.data.bundled.full_sampler", lambda: None)
    short = SimpleNamespace(
        request=lambda work, *_: work, run=lambda work: {"": run_comparison(study, work, workers=0)}
    )
    monkeypatch.setattr("otprior.experiments.study.find_study", lambda *_: short)
    return home


def words(command: str, out: str) -> list[str]:
    return [command, *JOBS[command].split(), "--out", out, "--overwrite"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("out", ["data", "data/model/unet", "link", ".", ".."])
def test_inputs_and_what_is_around_them_stay(home: Path, command: str, out: str) -> None:
    if out not in (".", "..") and command not in READS_A_MODEL:
        out = {"data": "data", "link": "link"}.get(out, "data/model")
    (home / "link").symlink_to(home / "data")
    before = tree(home.parent)
    result = run(*words(command, out))
    assert_refused(result, "output folder")
    assert tree(home.parent) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_what_no_run_wrote_stays(home: Path, command: str) -> None:
    (home / "photographs").mkdir()
    (home / "photographs" / "a.png").write_bytes(b"precious")
    before = tree(home)
    assert_refused(run(*words(command, "photographs")), "photographs holds a.png, which no earlier run wrote")
    assert tree(home) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), 2, "nothing can be written to"),
        (OSError(errno.EROFS, "Read-only file system"), 1, "Read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "no space is left on the disk"),
    ],
)
def test_a_target_that_takes_nothing_is_refused_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str, error: OSError, code: int, said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    before = tree(home)
    assert_refused(run(*words(command, "new")), said, code=code)
    assert tree(home) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_target_that_another_process_is_writing_is_refused_at_once(home: Path, command: str) -> None:
    with files.output_dir("deep/new"):
        before = tree(home)
        assert_refused(run(*words(command, "deep/new")), "is being written by process")
        assert tree(home) == before


def _on(stream: io.TextIOBase, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs a whole command in this process with another standard output; returns its exit code."""
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["otprior", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_that_cannot_be_shown_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - Python closes it, in vain
    code = _on(full, words(command, "a [b]/out"), monkeypatch)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert lines == ["error: the result is written, but cannot be shown: [Errno 28] No space left on device"]
    assert code == 1
    assert (home / "a [b]" / "out" / files.WRITTEN).is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_of_few_letters_is_enough_and_brackets_are_letters(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    kept = io.BytesIO()
    stream = io.TextIOWrapper(kept, encoding="latin-1")
    code = _on(stream, words(command, "a [b]/[out]"), monkeypatch)
    assert code == 0
    stream.flush()
    assert "a [b]/[out]" in kept.getvalue().decode("latin-1")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_fills_up_leaves_the_earlier_result(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    with files.output_dir("new") as folder:
        (folder / "report.json").write_text("{}")
    before = tree(home)

    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_put_in_place", fill)
    assert_refused(run(*words(command, "new")), "no space is left on the disk", code=1)
    after = {name: content for name, content in tree(home).items() if not name.startswith("new.work")}
    assert after == before


def test_an_earlier_result_is_replaced_also_through_a_link(home: Path) -> None:
    assert run(*words("sample", "samples")).exit_code == 0
    (home / "link").symlink_to("samples")
    result = run(*words("sample", "link"), "--format", "npz")
    assert result.exit_code == 0, result.output
    assert (home / "link").is_symlink()
    assert sorted(os.listdir("samples")) == [files.WRITTEN, "images.npz", "report.json", "starts.npz"]
    assert sorted(os.listdir(home)) == ["data", "link", "samples"]


def test_a_link_to_nothing_gets_something_to_lead_to(home: Path) -> None:
    (home / "link").symlink_to("disk/samples")
    assert run(*words("sample", "link")).exit_code == 0
    assert (home / "link").is_symlink()
    assert (home / "disk" / "samples" / "report.json").is_file()


def test_help_is_shown_on_a_terminal_of_few_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = io.BytesIO()
    for command in ("fit", "audit"):
        stream = io.TextIOWrapper(kept, encoding="ascii")
        assert _on(stream, [command, "--help"], monkeypatch) == 0


def test_an_error_of_ours_is_one_line_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'x'")

    monkeypatch.setattr("otprior.cli.sample_jobs.load_model", broken)
    result = run(*words("sample", "samples"))
    assert_refused(result, "unexpected AttributeError", "--debug", code=1)
    result = run(*words("sample", "samples"), "--debug")
    assert isinstance(result.exception, AttributeError)
    assert not (home / "samples").exists()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.linspace(-1, 1, 64).repeat(4, 1).reshape(4, 1, 8, 8), None),
        (torch.linspace(-1.4, 1.4, 64).repeat(4, 1).reshape(4, 1, 8, 8), None),
        (torch.linspace(-9, 9, 64).repeat(4, 1).reshape(4, 1, 8, 8), "far outside"),
        (torch.full((4, 1, 8, 8), 0.1), "of one colour"),
    ],
)
def test_samples_that_fell_apart_are_told_from_images(images: torch.Tensor, said: str | None) -> None:
    found = diverged(images)
    assert found is None if said is None else said in str(found)


def test_a_sampler_that_diverged_is_said_to_have(home: Path) -> None:
    assert "diverged" not in run(*words("sample", "out")).stderr
    weights = home / MODEL / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_out.weight"] *= 1000
    save_file(tensors, weights, metadata={"format": "pt"})
    for command in ("sample", "compare"):
        # (The network's own sampler clips what it ends with.)
        own = ["--scheduler", "dpm++2m"] if command == "sample" else []
        result = run(*words(command, "out"), *own)
        assert result.exit_code == 0, result.output
        assert "seems to have diverged" in " ".join(result.stderr.split())


def test_a_refused_run_takes_its_work_folder_with_it(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "out.work"
    for error, kept in ((ValueError, False), (KeyboardInterrupt, True), (ValueError, True)):
        # (The third finds what the second left: an interrupted run's pieces outlive a refused one.)
        with contextlib.suppress(error), work_folder(out) as folder:
            folder.mkdir(exist_ok=True)
            raise error
        assert work.exists() == kept
