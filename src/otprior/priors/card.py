"""The model card of a prior on the Hugging Face hub: its use, figures, copying, and the licence of the data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otprior.utils.files import read_json
from otprior.utils.text import markdown
from otprior.utils.validation import require

if TYPE_CHECKING:
    from otprior.priors.base import Prior

# Licences that the hub knows by these names; it refuses a card that names another one without calling it "other".
_LICENSES = (
    "mit", "apache-2.0", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "bsd", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "pddl",
    "odbl", "openrail", "creativeml-openrail-m", "openrail++", "unlicense",
)  # fmt: skip


def model_card(
    prior: Prior,
    repo_id: str,
    data_license: str | None,
    evaluation: str | Path | None,
    with_pipeline: bool = False,
) -> str:
    """The text, with YAML front matter.

    Arguments:
        prior: What is published.
        repo_id: "owner/name".
        data_license: The licence of the images, or None.
        evaluation: The folder of `otprior evaluate` whose figures are shown, or None.
        with_pipeline: Whether the repository is that of an `OTPriorPipeline`, with the prior in its folder `prior`.

    Raises:
        ValueError: If its report.json holds no figures.
    """
    start = f"t* = {prior.timestep:g} (α = {prior.alpha:.3f}, σ = {prior.sigma:.3f})"
    facts = [("prior", markdown(prior.describe(prior.report_facts()))), ("start", start)]
    facts += [("latents", " x ".join(map(str, prior.shape)))]
    facts += [] if prior.num_classes is None else [("classes", str(prior.num_classes))]
    facts += [(name, markdown(text)) for name, text in prior.summary()]
    rows = "\n".join(f"| {name} | {text} |" for name, text in facts)
    labels = "" if prior.num_classes is None else "class_labels=0, "
    return _CARD.format(
        license=_license_lines(data_license),
        name=repo_id.split("/")[-1],
        use=(_USE_PIPELINE if with_pipeline else _USE_PRIOR).format(repo=repo_id, labels=labels),
        rows=rows,
        figures=_figures(evaluation),
        copying=_copying(prior),
        data=_data(prior, data_license),
    )


def _license_lines(name: str | None) -> str:
    if not name:
        return ""
    plain = name.strip().lower()
    if plain in _LICENSES:
        return f"license: {plain}\n"
    return f"license: other\nlicense_name: {re.sub(r'[^a-z0-9.]+', '-', plain).strip('-') or 'unnamed'}\n"


def _figures(evaluation: str | Path | None) -> str:
    if evaluation is None:
        return "None were recorded. `otprior evaluate` measures quality and copying together.\n"
    file = Path(evaluation, "report.json")
    require(
        file.is_file(), "evaluation", "a folder of `otprior evaluate`, with a report.json", str(evaluation)
    )
    report: dict[str, Any] = read_json(file, "rows", "reference", "features")
    row, real = (report["rows"] or [{}])[0], report["reference"]
    measured = row.get("fid") is not None and row.get("copy_rate") is not None
    require(measured, f"rows of {file}", "measured by `otprior evaluate`", "no FID and copy rate")

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:.1%}"

    floor = real.get("fid_floor")
    return (
        f"Of {markdown(str(row.get('samples', '?')))} samples, by {markdown(str(row.get('nfe', '?')))} network "
        f"evaluations each; features: {markdown(str(report['features'].get('name')))}.\n\n"
        "| | samples | held-out images |\n|---|---|---|\n"
        f"| FID | {row['fid']:.4g} | {'–' if floor is None else f'{floor:.4g}'} |\n"
        f"| copy rate | {percent(row['copy_rate'])} | {percent(real.get('copy_rate'))} |\n"
    )


def _copying(prior: Prior) -> str:
    if prior.holds_images:
        return (
            "This repository holds images that the prior was fitted to, in full, and each start is built on one of "
            "them: samples may copy it. How often depends on t*, on the network and on the steps.\n"
        )
    return (
        "This repository holds no image. What it holds was computed from images, which is no guarantee of their "
        "privacy.\n"
    )


def _data(prior: Prior, data_license: str | None) -> str:
    published = f"\nPublished under: {markdown(data_license)}\n" if data_license else ""
    return data_facts(prior.facts, data_license) + published


def data_facts(facts: Mapping[str, Any], data_license: str | None = None) -> str:
    """What is known of a prior's images, as a list."""
    known = {**facts} | ({"license": data_license} if data_license else {})
    names = {"source": "source", "license": "licence", "sha256": "SHA-256 of the pixels"}
    return "".join(
        f"- {text}: {markdown(str(known.get(name) or 'not stated'))}\n" for name, text in names.items()
    )


_USE_PRIOR = """\
from otprior import Prior, attach

attach(pipe, Prior.from_pretrained("{repo}"))  # pipe: a diffusers pipeline of the same latents
pipe(..., num_inference_steps=4)"""

_USE_PIPELINE = """\
from otprior import OTPriorPipeline

pipe = OTPriorPipeline.from_pretrained("{repo}")
pipe(batch_size=4, {labels}num_inference_steps=4).images"""

_CARD = """\
---
library_name: otprior
{license}tags:
- otprior
- diffusers
- optimal-transport
---

# {name}

Where the sampling of a diffusion model begins at t*, in place of white noise at T: a map from seed noise to latents.
Few network evaluations are enough from there, and nothing is retrained.

| | |
|---|---|
{rows}

## Use

```python
{use}
```

## Figures

{figures}
## Copying

{copying}
## Data

{data}"""
