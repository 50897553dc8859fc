"""Counts which of diffusers' stock pipelines can start from a prior, and says why the others cannot.

    python scripts/count_pipelines.py          # a line for each reason
    python scripts/count_pipelines.py --all    # a line for each pipeline

Every pipeline class of the installed diffusers whose code calls `scheduler.step` counts. It can start if
`otprior.attach` takes its class, and the scheduler that it is made for can start at t*. Nothing is loaded: a class's
signatures and source are read. tests/test_attach.py samples from some of each kind.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers

from otprior.sampling.attach import check_pipeline
from otprior.sampling.schedulers import supported_schedulers

PIPELINES = Path(diffusers.__file__).parent / "pipelines"
# A base class of schedulers, or no annotation, stands for whatever is given: a flow or a VP one.
ANY = {"KarrasDiffusionSchedulers", "SchedulerMixin", "Any"}
# What no rule tells; each was looked at.
LOOKED_AT = {
    "DanceDiffusionPipeline": "it is made for IPNDMScheduler",
    "SanaSprintPipeline": "it is made for SCMScheduler",
    "SpectrogramDiffusionPipeline": "it denoises segment by segment",
    "AnyFlowFARPipeline": "it denoises segment by segment",
    "LTXI2VLongMultiPromptPipeline": "it denoises segment by segment",
    "Kandinsky6SRPipeline": "it noises an image: its start is that image",
    "JoyImageEditPlusPipeline": "its latents hold the tokens of other images, too",
}


def pipeline_classes() -> Iterator[tuple[str, Any]]:
    """Pairs (module, class) of pipelines that call `scheduler.step`."""
    for path in sorted(PIPELINES.rglob("*.py")):
        parts = path.relative_to(PIPELINES.parents[1]).with_suffix("").parts
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            pipeline = isinstance(node, ast.ClassDef) and node.name.endswith("Pipeline")
            if pipeline and re.search(r"scheduler\w*\.step\(", ast.unparse(node)):
                yield ".".join(parts), node


def why_not(module: str, node: Any) -> str | None:
    """Why a pipeline cannot start from a prior; None if it can."""
    methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    made, text = methods.get("__init__"), ast.unparse(node)
    prepare = ast.unparse(methods["prepare_latents"]) if "prepare_latents" in methods else ""
    taken = {each.arg: each.annotation for each in made.args.args} if made else {"scheduler": None}
    if node.name in LOOKED_AT:
        return LOOKED_AT[node.name]
    if "scheduler" not in taken:
        return "it has no component called scheduler"
    if made and "OnnxRuntimeModel" in ast.unparse(made.args):
        return "its network is no module of torch"
    annotation = taken["scheduler"]
    named = set(re.findall(r"\w+", ast.unparse(annotation))) if annotation else {"Any"}
    # (Stepping its own scheduler apart, a pipeline takes others, too.)
    apart = any(f"isinstance(self.scheduler, {each})" in text for each in named)
    if not named & (set(supported_schedulers()) | ANY) and not apart:
        return f"it is made for {' or '.join(sorted(each for each in named if each.endswith('Scheduler')))}"
    cls = getattr(importlib.import_module(module), node.name)
    try:
        check_pipeline(cls)
    except ValueError:
        return "it noises an image: its start is that image"
    if prepare and "self.prepare_latents(" not in ast.unparse(methods.get("__call__", node)):
        return "it noises an image: its start is that image"
    if re.search(r"def prepare_(audio|text)_latents|sound_latents", text):
        return "it denoises a film and its sound together, or an image and its text, each from its own noise"
    if "deepcopy(self.scheduler" in text:
        return "it steps several copies of its scheduler"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--all", action="store_true", help="print a line for each pipeline")
    show_all = parser.parse_args().all
    found: dict[str | None, list[str]] = defaultdict(list)
    for module, node in pipeline_classes():
        found[why_not(module, node)].append(node.name)
    total = sum(map(len, found.values()))
    print(
        f"diffusers {diffusers.__version__}: {len(found[None])} of {total} pipelines can start from a prior"
    )
    for reason, names in sorted(found.items(), key=lambda item: -len(item[1])):
        if reason is not None:
            print(f"{len(names):4}  {reason}")
        for name in names if show_all else []:
            print(f"      {name}")


if __name__ == "__main__":
    main()
