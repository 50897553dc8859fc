"""Docstrings of public names: an example that runs, and the shapes of tensors."""

from __future__ import annotations

import doctest
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from test_site import public_names

from otprior import GaussianPrior, NoiseSchedule, OTPriorPipeline, bundled
from otprior.transport.gaussian import isotropic

PUBLIC = {name.rpartition(".")[2]: value for name, value in public_names().items()}
DOCUMENTED = sorted(name for name, value in PUBLIC.items() if callable(value))
# These take minutes, long preparations, a pipeline with prompts or another library's network. What docs/reference shows
# of them runs.
NOT_RUN = {
    "CouplingFlowMatcher", "SemiDiscreteCoupling", "attach", "detach", "encode_images", "evaluate", "fit_grid",
    "from_azula", "from_k_diffusion", "from_lucidrains", "from_module", "open_images", "report_schema",
    "run_comparison", "start_at",
}  # fmt: skip
# These are shown by a call within the text, or by what returns them.
SHOWN_OTHERWISE = {"tune": "`tune(", "OTPriorPipelineOutput": "What a call returns"}


@pytest.fixture(scope="module")
def shared() -> dict[str, Any]:
    """The names that examples find, beside the public ones: docs/reference/index.md lists them."""
    scheduler, images = bundled.load_scheduler(), bundled.atoms().select(slice(0, 200))
    prior = GaussianPrior.fit(images, scheduler, timestep=500)
    pipe = OTPriorPipeline.from_pretrained(bundled.pipeline_path(), null_class_label=10)
    pipe.set_progress_bar_config(disable=True)
    return PUBLIC | {
        "bundled": bundled, "dataclass": dataclass, "isotropic": isotropic, "torch": torch,
        "Image": Image, "Path": Path,
        "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler,
        "images": images, "pipe": pipe, "prior": prior, "scheduler": scheduler,
        "schedule": NoiseSchedule.from_scheduler(scheduler),
    }  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_has_an_example_that_runs(
    name: str, shared: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documentation = inspect.getdoc(PUBLIC[name]) or ""
    generator = torch.Generator().manual_seed(0)
    drawn = {"generator": generator, "z": torch.randn(2, 1, 28, 28, generator=generator)}
    example = doctest.DocTestParser().get_doctest(documentation, shared | drawn, name, None, None)
    assert example.examples or SHOWN_OTHERWISE[name] in documentation
    if name in NOT_RUN:
        return
    monkeypatch.chdir(tmp_path)
    Path("samples").mkdir()
    said: list[str] = []
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        failed = (
            doctest.DocTestRunner(optionflags=options).run(example, out=said.append, clear_globs=False).failed
        )
    assert not failed, "".join(said)


def test_tensors_that_are_taken_have_a_shape_in_the_docstring() -> None:
    shape = re.compile(r"\([A-Z*\d][\w*.]*(, ?[\w*. …×+]+)*,?\)|\bshape|\bscalar")
    missing = []
    for name in DOCUMENTED:
        taken = [str(each.annotation) for each in inspect.signature(PUBLIC[name]).parameters.values()]
        documentation = (inspect.getdoc(PUBLIC[name]) or "").partition(">>>")[0]
        if any("Tensor" in annotation for annotation in taken) and not shape.search(documentation):
            missing.append(name)
    assert not missing
