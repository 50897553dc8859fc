"""The page of `otprior app`, in gradio: what can be chosen, and what is shown of it.

Nothing is fetched from elsewhere, and nothing is counted. The server refuses uploads and calls for other hosts (so that
no other page in the browser can reach it by a name of its own). Files to take away are part of the page.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import typer
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from otprior.cli.app import LOOPBACK
from otprior.cli.app.results import error_html, files_html, images_html
from otprior.cli.app.work import FEW_IMAGES, FULL_SAMPLER, MOST_SEEDS, Choice, Result, Workbench
from otprior.cli.inputs import BUNDLED, NETWORKS
from otprior.cli.prior_options import prior_names
from otprior.diffusion.grids import MOST_STEPS
from otprior.priors.semidiscrete import NOISES
from otprior.utils.text import printable
from otprior.utils.validation import invalid, require

logger = logging.getLogger(__name__)

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
# Says changes of the status aloud, and what a group of radio buttons chooses.
ALOUD = """() => {
  document.getElementById('status').setAttribute('aria-live', 'polite');
  for (const group of document.querySelectorAll('fieldset'))
    group.setAttribute('aria-label', group.querySelector('[data-testid="block-info"]').innerText);
}"""
INTRODUCTION = (
    "Sampling usually starts from white noise at the last timestep T. A **prior** starts it at a timestep t* in the "
    "middle, from the same seeds, so that few network evaluations will do. Choose, and press Generate."
)


class Stopped(Exception):
    """The stop button was pressed."""


class Handlers:
    """What the buttons do; each has a browser tab's name, so that its stop button stops its own work.

    Arguments:
        bench: Does the work.
    """

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._stops: dict[str | None, threading.Event] = {}

    def stop(self, request: gr.Request) -> None:
        """Ends the work of this tab at its next step."""
        self._stop_of(request).set()

    def generate(
        self, *values: Any, request: gr.Request, progress: gr.Progress
    ) -> Iterator[tuple[str, Any, Any]]:
        """Status, images, and what can be taken away, as the starts are done."""
        found: list[Result] = []
        listen = self._listener(request, progress)
        try:
            for result in self.bench.run(read_choice(*values), listen):
                found.append(result)
                found.sort(key=lambda each: each.folder.name != FULL_SAMPLER)
                yield status(f"{result.label}: done."), images_html(found), gr.skip()
        except Exception as error:
            yield told(error), gr.skip(), gr.skip()
            return
        end = f"Done: {len(found)} starts on {len(found[0].seeds)} seeds."
        yield status(end), images_html(found), files_html(found)

    def error(self, *values: Any, request: gr.Request, progress: gr.Progress) -> tuple[str, Any]:
        """Status, and the prior error along t*."""
        try:
            audit = self.bench.error(read_choice(*values), self._listener(request, progress))
            return status("Done: the prior error."), error_html(audit)
        except Exception as error:
            return told(error), gr.skip()

    def model(self, name: str) -> tuple[str, Any, Any]:
        """Status, the range of t*, and the usual data of another model."""
        try:
            low, high, step = timesteps(self.bench, name.strip())
            usual = self.bench.usual_timestep(name.strip())
        except Exception as error:
            return told(error), gr.skip(), gr.skip()
        slider = gr.update(minimum=low, maximum=high, step=step, value=usual)
        return status(""), slider, BUNDLED if name.strip() in NETWORKS else ""

    def _listener(self, request: gr.Request, progress: gr.Progress) -> Callable[..., None]:
        stop = self._stop_of(request)
        stop.clear()

        def listen(what: str, share: float | None, note: str) -> None:
            if stop.is_set():
                raise Stopped
            progress(share, desc=", ".join(filter(None, (what, note))))

        return listen

    def _stop_of(self, request: gr.Request | None) -> threading.Event:
        return self._stops.setdefault(getattr(request, "session_hash", None), threading.Event())


def read_choice(*values: Any) -> Choice:
    """The values of the page's fields, in the order of `_fields`; None and "" stand for an empty one.

    Raises:
        ValueError: If a field that has to be filled is not, or one is no number.
    """
    texts: list[Any] = [value.strip() if isinstance(value, str) else value for value in values]
    model, starts, data, limit, timestep, steps, noise, rho, seeds, full_steps, labels, prompt, guidance = (
        texts
    )
    needed = {
        "the model": model,
        "t*": timestep,
        "K": steps,
        "ρ": rho,
        "seeds": seeds,
        "steps of the full sampler": full_steps,
    }
    for name, value in needed.items():
        require(value not in (None, ""), name, "given", "nothing")
    return Choice(
        model, tuple(name.strip() for name in starts or ()), data or "", int(limit) if limit else None,
        int(timestep) if float(timestep).is_integer() else float(timestep), int(steps), noise, float(rho), seeds,
        int(full_steps), labels or "", prompt or "", _number(guidance, "the guidance scale"),
    )  # fmt: skip


def _number(text: str | None, name: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise invalid(name, "a number", repr(text)) from None


def timesteps(bench: Workbench, model: str) -> tuple[float, float, float]:
    """The lowest and the highest t* of a model, and the step between them."""
    schedule = bench.schedule(model)
    low, high = schedule.timestep_range
    return low, high, 1 if schedule.discrete else (high - low) / 1000


def status(text: str) -> str:
    """What is said of the work."""
    return f"<p>{escape(printable(text))}</p>"


def told(error: Exception) -> str:
    """An error in one line; those that nobody expected leave their traceback in the terminal."""
    if isinstance(error, Stopped):
        return status("Stopped.")
    if isinstance(error, ValueError | OSError):
        # (On the page, fields have no dashes.)
        text = re.sub(r"(^| )--(?=[a-z])", r"\1", " ".join(str(error).split()))
        text = re.sub(r"\bnum_(inference_)?steps\b", "K", text)
    elif isinstance(error, typer.Exit):
        text = "this did not succeed; the terminal says why"
    else:
        logger.exception("unexpected")
        text = f"unexpected {type(error).__name__}: {error}; the terminal shows where"
    return f'<p role="alert" class="bad">{escape(printable(text))}</p>'


def build_page(bench: Workbench, first: Choice) -> gr.Blocks:
    """The page, which begins with these choices.

    Raises:
        FileNotFoundError, ValueError: If the model has no schedule that is known.
    """
    handlers = Handlers(bench)

    # (gradio asks a function for its arguments' types, and hands over these two by them.)
    def generate(request: gr.Request, *values: Any, progress: gr.Progress = gr.Progress()) -> Any:
        yield from handlers.generate(*values, request=request, progress=progress)

    def error(request: gr.Request, *values: Any, progress: gr.Progress = gr.Progress()) -> Any:
        return handlers.error(*values, request=request, progress=progress)

    with gr.Blocks(title="otprior", analytics_enabled=False) as page:
        gr.Markdown("# otprior\n\n" + INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                fields = _fields(first, timesteps(bench, first.model))
                with gr.Row():
                    go = gr.Button("Generate", variant="primary")
                    stop = gr.Button("Stop", variant="stop")
                look = gr.Button("Show the prior error along t*")
                say = gr.HTML(status("Ready."), elem_id="status")
            with gr.Column(scale=5, min_width=320):
                images = gr.HTML(elem_classes="results")
                taken = gr.HTML(elem_classes="results")
                errors = gr.HTML(elem_classes="results")
        options: dict[str, Any] = {
            "api_visibility": "private",
            "concurrency_id": "work",
            "show_progress_on": say,
        }
        go.click(generate, [*fields.values()], [say, images, taken], **options)
        look.click(error, [*fields.values()], [say, errors], **options)
        own: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
        stop.click(handlers.stop, None, None, **own)
        fields["model"].change(
            handlers.model, fields["model"], [say, fields["timestep"], fields["data"]], **own
        )
        fields["noise"].change(
            lambda noise: gr.update(interactive=noise == "coupled"),
            fields["noise"],
            fields["correlation"],
            **own,
        )
        page.load(None, None, None, js=ALOUD)
    return page


def _fields(first: Choice, times: tuple[float, float, float]) -> dict[str, Any]:
    """The fields, in the order of `read_choice`."""
    low, high, step = times
    kinds = ["none", *prior_names().split(", ")]
    return {
        "model": gr.Textbox(first.model, label="Model", info="bundled, a diffusers folder, or owner/name of the hub"),
        "starts": gr.Dropdown(
            list(dict.fromkeys([*kinds, *first.starts])), value=list(first.starts), multiselect=True,
            allow_custom_value=True, label="Starts",
            info="kinds of priors, fitted at once; none is N(0, I) at T; or type a prior's folder",
        ),
        "data": gr.Textbox(first.data, label="Training images", info="bundled, or a folder or file"),
        "limit": gr.Number(
            first.limit, label="Fit to so many of them", info=f"{FEW_IMAGES:,} take seconds; 0: all", precision=0,
            minimum=0,
        ),
        "timestep": gr.Slider(low, high, first.timestep, step=step, label="Start timestep t*"),
        "steps": gr.Slider(1, 50, first.steps, step=1, label="Steps K"),
        "noise": gr.Radio(list(NOISES), value=first.noise, label="Noise of a start"),
        "correlation": gr.Slider(
            0.05, 1, first.correlation, step=0.05, label="Correlation ρ", info="of coupled noise with the seed's"
        ),
        "seeds": gr.Textbox(first.seeds, label="Seeds", info=f"such as 0-5 or 3,7; at most {MOST_SEEDS}"),
        **_further(first),
    }  # fmt: skip


def _further(first: Choice) -> dict[str, Any]:
    """Fields that few need."""
    with gr.Accordion("More", open=False):
        return {
            "full_steps": gr.Number(
                first.full_steps,
                label="Steps of the full sampler",
                precision=0,
                minimum=1,
                maximum=MOST_STEPS,
            ),
            "labels": gr.Textbox(label="Class labels", info="such as 3 or 0-9; empty for none"),
            "prompt": gr.Textbox(label="Prompt", info="for a model that takes one"),
            # (gradio shows an empty number as 0 once the accordion is open.)
            "guidance": gr.Textbox(label="Guidance scale", info="such as 5; empty for the model's"),
        }


class _NoUploads:
    """Refuses what would put a file on this machine."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refused = scope["type"] == "http" and scope["path"].rstrip("/").endswith("/upload")
        answer = PlainTextResponse("nothing can be uploaded here", 403) if refused else self.app
        await answer(scope, receive, send)


def serve(page: gr.Blocks, host: str, port: int | None, open_browser: bool) -> str:
    """Starts the server in the background; the page's address.

    Arguments:
        page: The page.
        host: Where it can be reached.
        port: None for the first free one from 7860.
        open_browser: Whether to open it.
    """
    hosts = [*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(_NoUploads)]
    # (The default theme's fonts would be fetched.)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    # (Its small print is too pale to read.)
    theme.set(
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
    )  # fmt: skip
    _, address, _ = page.queue(default_concurrency_limit=1).launch(
        server_name=host, server_port=port, share=False, inbrowser=open_browser, prevent_thread_lock=True, quiet=True,
        footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, mcp_server=False, pwa=False,
        allowed_paths=[], max_file_size=1, app_kwargs={"middleware": middleware},
        theme=theme, css=STYLE,
    )  # fmt: skip
    return address
