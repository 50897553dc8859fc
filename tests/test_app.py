"""`otprior app`: what its buttons do, called directly; and the page in a browser."""

from __future__ import annotations

import base64
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_helpers import run, write_model
from newcomer_material import write_photographs
from tiny_pipelines import text_to_image

import otprior.cli.app as command
from otprior import GaussianPrior, NoiseSchedule, bundled
from otprior.data import ImageSet

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def test_without_gradio_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    result = run("app")
    assert result.exit_code == 2
    assert result.stderr.strip().count("\n") == 0
    assert "pip install 'otprior[app]'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("missing",), "model missing"),
        (("bundled", "--prior", "missing"), "prior missing"),
        (("bundled", "--data", "missing"), "--data missing"),
        (("bundled", "--host", "192.0.2.1"), "--host"),
    ],
)
def test_what_is_missing_is_refused_in_one_line(arguments: tuple[str, ...], named: str) -> None:
    pytest.importorskip("gradio")
    result = run("app", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {named}")
    assert result.stderr.strip().count("\n") == 0


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match="--port"):
            command.check_address("127.0.0.1", taken.getsockname()[1])


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    pytest.importorskip("gradio")
    from otprior.cli.app import page

    return page


FIELDS = {
    "model": "bundled", "starts": ["gaussian", "semidiscrete"], "data": "bundled", "limit": 100, "timestep": 525,
    "steps": 2, "noise": "coupled", "rho": 0.85, "seeds": "0-1", "full_steps": 3, "labels": "", "prompt": None,
    "guidance": "",
}  # fmt: skip


class Press:
    """Presses the buttons of a page without a browser."""

    def __init__(self, page: Any, folder: Path) -> None:
        self.page = page
        self.bench = page.Workbench(folder, torch.device("cpu"))
        self.handlers = page.Handlers(self.bench)
        self.told: list[str] = []

    def generate(self, **changed: Any) -> list[tuple[Any, ...]]:
        values = (FIELDS | changed).values()
        return list(self.handlers.generate(*values, request=None, progress=self.listen))

    def listen(self, share: float | None, desc: str) -> None:
        self.told.append(desc)


@pytest.fixture(scope="module")
def few() -> ImageSet:
    return bundled.atoms().sample(200)


@pytest.fixture
def press(page: Any, tmp_path: Path, few: ImageSet, monkeypatch: pytest.MonkeyPatch) -> Press:
    # The nearest of few images: what is tested here is not how they are read.
    work = sys.modules["otprior.cli.app.work"]
    monkeypatch.setattr(work, "load_data", lambda name, shape: few)
    return Press(page, tmp_path / "work")


def linked(html: str) -> dict[str, bytes]:
    """The files that links hold."""
    links = re.findall(r'download="([^"]+)" href="data:[^,]+,([^"]+)"', html)
    return {name: base64.b64decode(content) for name, content in links}


def test_a_run_shows_each_start_and_its_commands_make_the_same_images(
    press: Press, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, (status, images, taken) = press.generate()
    assert "Done" in status
    rows = re.findall(r'<th scope="row">(.*?)<', images, re.DOTALL)
    assert [row.split()[0].strip(",:") for row in rows] == ["full", "gaussian", "semidiscrete"]
    assert images.count("<img") == 3 * 2 * 2
    assert images.count("alt=") == images.count("<img")
    assert any(text.startswith("sampling") for text in press.told)
    given = linked(taken)
    archive = zipfile.ZipFile(io.BytesIO(given.pop("images.zip")))
    assert {*given} == {"settings-1-gaussian.json", "settings-2-semidiscrete.json"}
    monkeypatch.chdir(tmp_path)
    for name, content in given.items():
        Path(name).write_bytes(content)
    for line in re.findall(r"^otprior .*$", re.sub(r"</?pre[^>]*>", "\n", taken), re.MULTILINE):
        result = run(*shlex.split(line)[1:])
        assert result.exit_code == 0, result.stderr
    for name in (name for name in archive.namelist() if name.endswith(".png")):
        assert archive.read(name) == Path(name).read_bytes(), name


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model": "missing"}, "model missing"),
        ({"data": "missing"}, "training images missing"),
        ({"data": ""}, "training images must be given"),
        ({"starts": ["./missing"]}, "prior ./missing"),
        ({"starts": ["mixture"], "noise": "frozen"}, "noise"),
        ({"starts": ["gaussian"], "timestep": 3, "steps": 10}, "K must be at most"),
        ({"timestep": 5000}, "must be"),
        ({"seeds": "0-99"}, "seeds"),
        ({"seeds": "<b>"}, "&lt;b&gt;"),
        ({"steps": None}, "K must be given"),
        ({"labels": "77"}, "class_labels"),
        ({"guidance": "much"}, "guidance scale must be a number"),
    ],
)
def test_bad_input_is_said_in_one_line_on_the_page(press: Press, changed: dict[str, Any], named: str) -> None:
    ((status, *_),) = press.generate(**changed)
    assert 'role="alert"' in status
    assert named in status
    assert "unexpected" not in status
    assert "\n" not in status


def test_a_prior_of_another_shape_or_model_is_refused(press: Press, tmp_path: Path) -> None:
    schedule = NoiseSchedule.from_scheduler(bundled.load_scheduler())
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    GaussianPrior.fit(images, schedule).save_pretrained(tmp_path / "small")
    ((status, *_),) = press.generate(starts=[str(tmp_path / "small")])
    assert "prior must be for the network" in status


def test_the_stop_button_ends_the_work(press: Press) -> None:
    def stop_at_once(share: float | None, desc: str) -> None:
        press.handlers.stop(None)

    values = (FIELDS | {"starts": ["none"]}).values()
    ((status, *_),) = press.handlers.generate(*values, request=None, progress=stop_at_once)
    assert "Stopped" in status


def test_a_pipeline_with_prompts_keeps_its_own_sampler(page: Any, tmp_path: Path) -> None:
    text_to_image().save_pretrained(tmp_path / "model")
    write_photographs(tmp_path / "photographs")
    press = Press(page, tmp_path / "work")
    given: dict[str, Any] = {
        "model": str(tmp_path / "model"),
        "starts": ["none", "gaussian"],
        "data": str(tmp_path / "photographs"),
    }
    ((status, *_),) = press.generate(**given)
    assert "prompt" in status
    *_, (status, images, taken) = press.generate(**given, prompt="a cat")
    assert "Done" in status
    assert images.count("<img") == 3 * 2 * 2
    commands = re.findall(r"^otprior sample .*$", re.sub(r"</?pre[^>]*>", "\n", taken), re.MULTILINE)
    assert len(commands) == 3
    assert all("--prompt &#39;a cat&#39;" in line for line in commands)
    assert not any("--scheduler" in line for line in commands)


def test_another_model_moves_the_range_of_t(press: Press, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    status, slider, data = press.handlers.model(str(tmp_path / "model"))
    assert "alert" not in status
    assert slider["minimum"] < slider["value"] < slider["maximum"]
    assert data == ""
    assert "alert" in press.handlers.model("missing")[0]


@pytest.mark.slow
def test_the_prior_error_is_plotted_and_tabulated(press: Press) -> None:
    values = (FIELDS | {"starts": ["none", "gaussian", "semidiscrete"]}).values()
    status, shown = press.handlers.error(*values, request=None, progress=press.listen)
    assert "Done" in status
    assert "<table" in shown
    assert 'alt="The prior error' in shown
    headings = re.findall(r'<th scope="col">(.*?)</th>', shown)
    assert headings == ["t*", "α", "N(0, I)", "gaussian prior", "semidiscrete, coupled ρ=0.85"]


def test_the_server_takes_no_files_and_no_other_host(page: Any, press: Press) -> None:
    import httpx

    first = page.Choice.first(press.bench, "bundled", ("gaussian",), None)
    built = page.build_page(press.bench, first)
    address = page.serve(built, "127.0.0.1", None, False)
    try:
        assert httpx.get(address).status_code == 200
        assert httpx.get(address, headers={"host": "evil.example"}).status_code == 400
        assert httpx.post(f"{address}gradio_api/upload", files={"files": b"x"}).status_code == 403
        for path in ("/etc/hostname", str(Path(__file__))):
            assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404)
        page_source = httpx.get(address).text
        assert "fonts.googleapis" not in page_source
        assert "cdnjs" not in page_source
    finally:
        built.close(verbose=False)


# In a browser ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("gradio")
    words = [
        sys.executable,
        "-m",
        "otprior",
        "app",
        "--prior",
        "none",
        "--prior",
        "gaussian",
        "--threads",
        "1",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        yield found[0]
        server.send_signal(2)
        assert server.wait(30) == 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_in_a_browser(address: str, width: int, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api")
    wrong: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        local = (address, "data:", "blob:")
        tab.on(
            "request", lambda request: None if request.url.startswith(local) else wrong.append(request.url)
        )
        tab.goto(address)
        generate = tab.get_by_role("button", name="Generate")
        generate.wait_for()
        for name in ("Model", "Training images", "Seeds"):
            tab.get_by_role("textbox", name=name).wait_for()
        tab.get_by_role("group", name="Noise of a start").get_by_role("radio", name="fresh").wait_for()
        # t* is moved by the keyboard, and from there the tab key reaches the button.
        slider = tab.get_by_role("slider", name="Start timestep")
        slider.focus()
        slider.press("ArrowLeft")
        timestep = tab.get_by_role("spinbutton", name="Start timestep")
        api.expect(timestep).to_have_value("524")
        tab.get_by_role("textbox", name="Seeds").fill("0-1")
        for _ in range(3):
            tab.keyboard.press("Tab")
            if tab.evaluate("document.activeElement.innerText").strip() == "Generate":
                break
        tab.keyboard.press("Enter")
        row = tab.get_by_role("row", name="gaussian, t* = 524")
        row.wait_for(timeout=120_000)
        assert row.get_by_role("img").count() == 4
        tab.locator("#status", has_text="Done").wait_for(timeout=240_000)
        with tab.expect_download() as download:
            tab.get_by_role("link", name="settings-2-gaussian.json").click()
        assert '"start_timestep": 524' in Path(download.value.path()).read_text()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        tab.screenshot(path=tmp_path / f"{width}.png", full_page=True)
        # What stands empty below "More" stays so, and the work can be stopped.
        tab.get_by_role("button", name="More").click()
        api.expect(tab.get_by_role("textbox", name="Guidance scale")).to_have_value("")
        tab.get_by_role("textbox", name="Seeds").fill("0-19")
        generate.click()
        tab.wait_for_timeout(1500)
        tab.get_by_role("button", name="Stop").click()
        tab.locator("#status", has_text="Stopped").wait_for(timeout=60_000)
        browser.close()
    assert wrong == []
