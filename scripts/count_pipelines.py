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
    made = methods.get("__init__")
    taken = {each.arg: each.annotation for each in made.args.args} if made else {"scheduler": None}
    if "scheduler" not in taken:
        return "it has no component called scheduler"
    annotation = taken["scheduler"]
    named = set(re.findall(r"\w+", ast.unparse(annotation))) if annotation else {"Any"}
    able = named & (set(supported_schedulers()) | ANY)
    if not able:
        return f"it is made for {' or '.join(sorted(each for each in named if each.endswith('Scheduler')))}"
    cls = getattr(importlib.import_module(module), node.name)
    try:
        check_pipeline(cls)
    except ValueError:
        return "it noises an image: its start is that image"
    if "prepare_latents" in methods and holds_image(methods["prepare_latents"]):
        return "its latents hold an image or a film"
    if "prepare_latents" in methods and "config.sigma_max" in ast.unparse(methods["prepare_latents"]):
        return "it scales its noise itself, by sigma_max"
    return None


def holds_image(prepare: ast.FunctionDef) -> bool:
    """Whether `prepare_latents` puts an image into the noise: x * mask + noise * (1 - mask), or latents[...] = x."""
    text = ast.unparse(prepare)
    return bool(re.search(r"\(1(\.0)? - \w*mask\w*\)|latents\[[^\]]*\] = ", text))


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
