"""The training example: end to end at a tiny size, going on after it was stopped or killed, and started by priors."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from otprior import OTPriorPipeline, SemiDiscreteCoupling, SemiDiscretePrior

SCRIPT = Path(__file__).parents[1] / "examples" / "train_flow.py"


def load(path: Path) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script() -> Iterator[ModuleType]:
    """The example, with accelerate as in a fresh process."""
    module = load(SCRIPT)
    AcceleratorState._reset_state(True)
    yield module
    AcceleratorState._reset_state(True)
    for name in ("train_flow", "start_flow"):
        sys.modules.pop(name, None)


def call(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["train_flow.py", *map(str, arguments)])
    script.main()


def figures(folder: Path) -> dict[str, float]:
    """A run's figures without what a clock says."""
    known = json.loads((folder / "figures.json").read_text())
    return {name: value for name, value in known.items() if "seconds" not in name}


def test_what_is_in_the_way_of_the_runs_is_said_in_a_line(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "settings.json").write_text('{"data": ')
    (tmp_path / "file").touch()
    for out, words in ((tmp_path, "settings.json is damaged"), (tmp_path / "file", "must be a folder")):
        with pytest.raises(SystemExit, match=words):
            call(script, monkeypatch, "--data", "plane", "--size", "tiny", "--out", out)


def test_it_goes_on_from_its_checkpoint_as_if_never_stopped(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    common = ["--data", "plane", "--size", "tiny", "--seeds", 3, "--checkpoint-every", 8]
    call(script, monkeypatch, *common, "--out", tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole").glob("*-3"))
    assert names == ["independent-3", "minibatch-2048-3", "minibatch-256-3", "semidiscrete-3"]
    kept = script.save

    def stop(accelerator: Any, latest: Path) -> None:
        kept(accelerator, latest)
        raise KeyboardInterrupt

    for name in ("semidiscrete", "minibatch-256"):
        cut = [*common, "--couplings", name, "--out", tmp_path / "cut"]
        monkeypatch.setattr(script, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            call(script, monkeypatch, *cut)
        monkeypatch.setattr(script, "save", kept)
        # What a kill leaves between the two renames of a checkpoint.
        latest = tmp_path / "cut" / f"{name}-3" / "checkpoint"
        latest.rename(latest.with_name("checkpoint.old"))
        call(script, monkeypatch, *cut)
        assert figures(tmp_path / "cut" / f"{name}-3") == figures(tmp_path / "whole" / f"{name}-3")
    # Pairs of the map are cheaper than independent ones.
    costs = {name: figures(tmp_path / "whole" / name)["cost of the pairs"] for name in names}
    assert costs["semidiscrete-3"] < 0.2 * costs["independent-3"]


def test_images_by_class_with_guidance_in_bfloat16(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "STEPS_OF_SAMPLING", (1, 2))
    monkeypatch.setattr(script, "FINE", 4)
    options = ["--couplings", "semidiscrete", "--guidance", 1, 2, "--mixed-precision", "bf16"]
    common = ["--data", "fashion", "--size", "tiny", "--by-class", "--seeds", 1, "--steps", 2, "--tol", 0.3]
    trained: list[Any] = []
    keep = script.keep
    monkeypatch.setattr(script, "keep", lambda *kept: (trained.append(kept[1]), keep(*kept)))
    call(script, monkeypatch, *common, *options, "--out", tmp_path)
    found = figures(tmp_path / "semidiscrete-1")
    assert all(math.isfinite(value) for value in found.values())
    assert {"distance at 2", "copy_rate at 2, guidance 2", "straightness"} <= set(found)
    with pytest.raises(SystemExit, match="other settings"):
        call(script, monkeypatch, *common, *options, "--steps", 3, "--out", tmp_path)
    assert "| loss |" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "semidiscrete-1" / "validation.png").exists()

    # The pipeline that was left starts at u* = 0.6 where Euler's method of the example does, and goes the same way.
    pipe = OTPriorPipeline.from_pretrained(tmp_path / "semidiscrete-1")
    data = script.Data.load("fashion", script.SIZES["fashion", "tiny"]).train
    images, labels = replace(data, labels=None), torch.arange(4)
    pipe.prior = SemiDiscretePrior.fit(images, pipe.scheduler, 400.0, data.labels, value_range=None, tol=0.3)
    pairs = SemiDiscreteCoupling.from_prior(pipe.prior, images, tol=0.3).sample(4, torch.Generator(), labels)
    found = pipe(4, labels, 2, guidance_scale=2.0, latents=pairs.noise, output_type="latent").images
    start = 0.4 * pairs.noise + 0.6 * pairs.images
    network = script.ImageNetwork(script.SIZES["fashion", "tiny"], 10, 28)
    network.unet = trained[0].unet  # (without accelerate's cast to bfloat16)
    expected = script.sample(network, start, labels, 10, 2, 2.0, begin=0.6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # (sums of float32 in another order)


def test_starts_of_both_forms_on_trained_flows(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pairing = ["--couplings", "independent", "semidiscrete"]
    common = ["--data", "plane", "--size", "tiny", "--steps", 4, "--seeds", 0, 1, *pairing]
    call(script, monkeypatch, *common, "--out", tmp_path)
    AcceleratorState._reset_state(True)
    starts = load(SCRIPT.with_name("start_flow.py"))
    call(starts, monkeypatch, tmp_path, "--at", 0.5)
    known = json.loads((tmp_path / "semidiscrete-1" / "starts.json").read_text())
    trained = json.loads((tmp_path / "semidiscrete-1" / "figures.json").read_text())
    assert known["none at 0, 5"]["distance"] == trained["distance at 5"]
    assert known["semidiscrete at 1, 0"]["copy_rate"] == 1.0
    table = (tmp_path / "starts.md").read_text()
    assert table.count("| semidiscrete interpolated at 0.5 |") == 2
    assert table.count("2 seeds") == 2

    # Interpolated starts of the map are the pairs of its training at u*.
    settings = json.loads((tmp_path / "settings.json").read_text())
    args = argparse.Namespace(**settings, out=tmp_path)
    data = script.Data.load("plane", script.SIZES["plane", "tiny"])
    ends, pairs = starts.Ends(args, data), script.load_map(args, data).draw(0, range(500))
    fresh = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    made = ends.start("semidiscrete", "interpolated", 0.3, pairs.noise, fresh, None)
    torch.testing.assert_close(made, 0.3 * pairs.images + 0.7 * pairs.noise)
    # Noised ones have the covariance of independent pairs. (Those of the map have twice the variance.)
    expected = 0.25 * torch.eye(2) + 0.25 * data.train.images.T.cov()
    for name in starts.Ends.names:
        found = ends.start(name, "noised", 0.5, pairs.noise, fresh, None).T.cov()
        # Four standard errors of 500 draws, each at most √(2/500) of a variance.
        torch.testing.assert_close(found, expected, rtol=0, atol=0.26 * float(expected.max()))


def test_mini_batches_by_class_pair_within_the_class(script: ModuleType) -> None:
    data = script.spirals(200, 0)
    noise, images, labels = script.BatchPairs(data, 8, 64, 0, True, slice(None)).draw(2)
    for label in (0, 1):
        own = labels == label
        best = images[own][script.best_pairing(noise[own], images[own])]
        # (The same point may have been drawn twice.)
        torch.testing.assert_close(best, images[own])
        assert set(map(tuple, images[own].tolist())) <= set(
            map(tuple, data.images[data.labels == label].tolist())
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--couplings", "independent", "minibatch-x"], "--couplings takes"),
        (["--couplings", "minibatch-1"], "--couplings takes"),
        (["--steps", 0], "--steps is at least 1"),
        (["--checkpoint-every", 0], "--checkpoint-every is at least 1"),
        (["--seeds", 1, 1], "--seeds names one twice"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[Any],
    message: str,
) -> None:
    with pytest.raises(SystemExit):
        call(script, monkeypatch, "--out", tmp_path / "out", "--size", "tiny", *arguments)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_continues_after_kill_9(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    options = "--data plane --size small --couplings semidiscrete --seeds 0 --steps 400 --checkpoint-every 20"
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *options.split(), "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment)
    killed = subprocess.Popen([*command, str(tmp_path / "cut")], env=environment)
    run = tmp_path / "cut" / "semidiscrete-0"
    while not (run / "checkpoint").exists():
        assert killed.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    killed.kill()
    assert killed.wait() == -9
    assert not (run / "figures.json").exists()
    subprocess.run([*command, str(tmp_path / "cut")], check=True, env=environment)
    assert figures(run) == figures(tmp_path / "whole" / "semidiscrete-0")
