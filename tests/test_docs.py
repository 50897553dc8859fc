"""The documentation: what it shows runs, and what it names exists."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from diffusers import DDPMPipeline, UNet2DModel
from PIL import Image

import otprior
from otprior import OTPriorPipeline
from otprior.data import bundled
from otprior.data.images import to_uint8
from otprior.sampling.schedulers import supported_schedulers

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PLACES = [ROOT, ROOT / "docs", ROOT / "src", ROOT / "src/otprior", ROOT / "src/otprior_studies"]
ENTRY_POINTS = ["otprior.commands", "otprior.priors", "otprior.studies"]
RUNNABLE = re.compile(r"<!-- runnable -->\n```python\n(.*?)```", re.DOTALL)
WITH_CODE = [page for page in PAGES if "<!-- runnable -->\n```" in page.read_text(encoding="utf-8")]
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages call path/to/ddpm, path/to/model and path/to/images.

    The bundled network; a small one without classes, not trained; 16 images of each of three classes.
    """
    monkeypatch.chdir(tmp_path)
    pipe = OTPriorPipeline.from_pretrained(
        bundled.pipeline_path(), null_class_label=bundled.null_class_label()
    )
    pipe.save_pretrained("path/to/ddpm")
    blocks: dict[str, Any] = {
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "block_out_channels": (8, 8),
    }
    unet = UNet2DModel(28, 1, 1, norm_num_groups=4, **blocks)
    DDPMPipeline(unet, bundled.load_scheduler()).save_pretrained("path/to/model")
    atoms = bundled.atoms()
    assert atoms.labels is not None
    for label in range(3):
        folder = Path(f"path/to/images/{label}")
        folder.mkdir(parents=True)
        for i in torch.nonzero(atoms.labels == label).reshape(-1)[:16].tolist():
            Image.fromarray(to_uint8(atoms.images[i, 0])).save(folder / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_marked_blocks_run_in_order_in_one_namespace(page: Path, workplace: Path) -> None:
    blocks = RUNNABLE.findall(page.read_text(encoding="utf-8"))
    assert blocks
    # Classes defined in a block need a module to belong to.
    namespace: dict[str, Any] = {"__name__": "documentation"}
    for block in blocks:
        exec(compile(block, str(page), "exec", dont_inherit=True), namespace)


def commands() -> list[str]:
    """The otprior commands of all shell blocks, without comments."""
    lines = [
        line.split(" #")[0].strip()
        for page in PAGES
        for block in SHELL.findall(page.read_text(encoding="utf-8"))
        for line in block.splitlines()
    ]
    return sorted({line for line in lines if line.startswith("otprior ")})


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    from otprior.cli import program

    group: Any = typer.main.get_command(program)
    _, name, *arguments = shlex.split(line)
    group.commands[name].make_context(name, arguments)


def test_scripts_in_shell_blocks_exist_and_know_their_options() -> None:
    pattern = re.compile(r"python ((?:scripts|benchmarks|examples)/\w+\.py)(.*)")
    found = [match for page in PAGES for match in pattern.findall(page.read_text(encoding="utf-8"))]
    assert found
    for script, rest in found:
        source = (ROOT / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[\w-]+", rest.split("#")[0]):
            assert f'"{option}"' in source, f"{script} has no {option}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            path = page.parent / target if target else page
            assert path.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(path), f"{page.name} links to {target}{anchor}"


def test_pages_open_with_what_they_are_for() -> None:
    for page in PAGES:
        opening = page.read_text(encoding="utf-8").split("\n\n")[1:3]
        assert page.name == "README.md" or "This page" in " ".join(opening), page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_named_in_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"[`\"](\w[\w.]*/(?:[\w.-]+/)*(?:[\w.-]+\.(?:py|toml))?)(?=[`<\"])", text):
        assert any((place / name).exists() for place in PLACES), name
    for name in re.findall(r"`(otprior(?:_studies)?\.[\w.]+)", text):
        assert name in ENTRY_POINTS or pkgutil.resolve_name(name), name


def test_architecture_draws_the_floors_of_the_contract() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    floor = {room: len(layers) - i for i, layer in enumerate(layers) for room in layer.split(" | ")}
    assert {room: int(n) for n, room in re.findall(r"^\| (\d) \| `(\w+)` \|", text, re.MULTILINE)} == floor
    picture = (ROOT / "docs/images/floors.svg").read_text(encoding="utf-8")
    drawn = {
        room: int(n)
        for n, rooms in re.findall(r'<g id="floor-(\d)">(.*?)</g>', picture)
        for room in re.findall(r'class="name">(\w+)<', rooms)
    }
    assert drawn == floor


def test_names_in_the_glossary_exist() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)`", text))
    assert len(names) > 30
    for name in names:
        pkgutil.resolve_name(name if name.startswith("otprior_studies") else f"otprior.{name}")


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_report(path: Path) -> bool:
    content = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(content, dict) and ({"rows", "features"} <= content.keys() or "codes" in content)


REPORTS = [path for path in sorted((ROOT / "results").rglob("*.json")) if is_report(path)]


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: str(path.relative_to(ROOT / "results")))
def test_committed_reports_name_no_place_of_the_machine_that_made_them(path: Path) -> None:
    # (Reports are shared. tests/test_report_record.py reads and draws them.)
    assert not re.search(r'"/(home|root|tmp|work)/', path.read_text(encoding="utf-8"))


def test_the_readme_has_the_headlines_figures() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("<!-- results: headline -->")[1].split("<!-- /results -->")[0]
    report = json.loads((ROOT / "results" / "headline" / "5-sets-of-4000-float32.json").read_text())
    assert len(re.findall(r"^\|", table, re.MULTILINE)) == len(report["rows"]) + 2
    for row in report["rows"]:
        start = "N(0, I) at T" if row["prior"] == "none" else row["noise"]
        low, high = row["excess_fid_interval"]
        least, most = (100 * end for end in row["copy_rate_interval"])
        quality = f"{row['excess_fid']:.1f} [{low:.1f}, {high:.1f}]"
        copies = f"{100 * row['copy_rate']:.1f} % [{least:.1f}, {most:.1f}]"
        assert f"| {start} | {row['nfe']} | {quality} | {copies} |" in table


def test_the_readme_is_short_and_its_badges_are_true() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (diffusers,) = (each for each in project["dependencies"] if each.startswith("diffusers"))
    least = diffusers.removeprefix("diffusers>=").split(",")[0]
    truth = {
        "python": project["requires-python"].removeprefix(">=") + "+",
        "diffusers": least,
        "licence": project["license"],
    }
    assert {f"docs/images/badge-{name}.svg" for name in truth} == set(
        re.findall(r"docs/images/badge-\w+\.svg", text)
    )
    for name, value in truth.items():
        badge = (ROOT / f"docs/images/badge-{name}.svg").read_text(encoding="utf-8")
        assert f'aria-label="{name}: {value}"' in badge
        assert f">{value}</text>" in badge


def test_the_how_to_lists_the_schedulers_that_can_start_at_t() -> None:
    text = (ROOT / "docs/how-to/schedulers.md").read_text(encoding="utf-8")
    table = text.split("These can start at t*")[1].split("Stock spacings are")[0]
    assert set(re.findall(r"`(\w+Scheduler)`", table)) == set(supported_schedulers())
    own = {
        name
        for line in table.splitlines()
        if line.endswith("| yes |")
        for name in re.findall(r"`(\w+Scheduler)`", line)
    }
    assert own == {name for name, support in supported_schedulers().items() if support.own}


def test_public_names_have_docstrings() -> None:
    for name in set(otprior.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(otprior, name)), name
