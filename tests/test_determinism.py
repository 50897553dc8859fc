"""What changes an image, and what does not: the rows of docs/determinism.md that no other test has."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import SIZE, run, write_images, write_tame_model
from torch import Tensor

from otprior import OTPriorPipeline, Prior, load_images, seeds_to_generators, solve_semidiscrete

PAGE = Path(__file__).resolve().parents[1] / "docs" / "determinism.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, images and a prior whose starts need fresh noise, too."""
    folder = tmp_path_factory.mktemp("determinism")
    write_tame_model(folder / "model")
    write_images(folder / "data.npz")
    command = ("fit", folder / "model", folder / "data.npz", "--noise", "fresh", "--tol", 0.5)
    result = run(*command, "--out", folder / "prior")
    assert result.exit_code == 0, result.output
    return folder


def pipeline(folder: Path) -> Any:
    pipe: Any = OTPriorPipeline.from_pretrained(
        folder / "model", prior=Prior.from_pretrained(folder / "prior")
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe: Any, *seeds: int, **options: Any) -> Tensor:
    told = {"num_inference_steps": 3, "output_type": "pt"} | options
    return pipe(len(seeds), generator=seeds_to_generators(seeds), **told).images


def test_every_row_names_a_test_that_there_is() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 15
    for file, name in named:
        text = (Path(__file__).parent / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), (file, name)


def test_each_setting_changes_the_image(folder: Path) -> None:
    pipe = pipeline(folder)
    plain = images(pipe, 5)
    assert torch.equal(images(pipe, 5), plain)
    others = {
        "seed": images(pipe, 6),
        "steps": images(pipe, 5, num_inference_steps=4),
        "label": images(pipe, 5, class_labels=1),
        "guidance": images(pipe, 5, class_labels=1, guidance_scale=3.0),
    }
    pipe.prior = pipe.prior.at(400)
    others["t*"] = images(pipe, 5)
    pipe.prior = None
    others["prior"] = images(pipe, 5)
    for name, other in others.items():
        assert not torch.equal(other, plain), name
    assert not torch.equal(others["guidance"], others["label"])


def test_weights_change_the_image(folder: Path) -> None:
    pipe = pipeline(folder)
    plain = images(pipe, 5)
    with torch.no_grad():
        pipe.unet.conv_out.bias.add_(0.1)
    assert not torch.equal(images(pipe, 5), plain)


def test_the_order_of_requests_is_no_matter(folder: Path) -> None:
    pipe = pipeline(folder)
    forward = {seed: images(pipe, seed) for seed in range(6)}
    for seed in (3, 5, 0, 0, 4, 1, 2):
        assert torch.equal(images(pipe, seed), forward[seed])
    # In one batch, the rows change places and nothing else.
    torch.testing.assert_close(images(pipe, 2, 1, 0), images(pipe, 0, 1, 2).flip(0), atol=1e-5, rtol=0)


def test_other_work_before_is_no_matter(folder: Path) -> None:
    plain = images(pipeline(folder), 5)
    pipe = pipeline(folder)
    images(pipe, 1, 2, 3, num_inference_steps=5, class_labels=[0, 1, 2])
    solve_semidiscrete(load_images(folder / "data.npz").images.flatten(1), tol=0.5)
    pipe.prior(torch.randn(3, 1, SIZE, SIZE), None, torch.randn(3, 1, SIZE, SIZE))
    with pytest.raises(ValueError, match="num_inference_steps"):
        images(pipe, 5, num_inference_steps=0)
    assert torch.equal(images(pipe, 5), plain)


def test_global_generators_are_no_matter_and_left_alone(folder: Path) -> None:
    pipe = pipeline(folder)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
        prior = type(pipe.prior).fit(folder / "data.npz", pipe.scheduler, 500, noise="fresh", tol=0.5)
        found.append((images(pipe, 5), prior.state_dict()))
        after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]
    (one, first), (other, second) = found
    assert torch.equal(one, other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_fresh_process_is_no_matter(folder: Path, tmp_path: Path) -> None:
    command = ["sample", folder / "model", "--prior", folder / "prior", "--seeds", "0-3", "--steps", "2"]
    command += ["--format", "npz", "--float"]
    assert run(*command, "--out", tmp_path / "here").exit_code == 0
    words = [*map(str, command), "--threads", "1", "--out", str(tmp_path / "there")]
    environment = os.environ | {"PYTHONHASHSEED": "12345", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-m", "otprior", *words], check=True, env=environment, capture_output=True
    )
    here, there = (next((tmp_path / name).rglob("images.npz")) for name in ("here", "there"))
    assert np.array_equal(np.load(here)["images"], np.load(there)["images"])
