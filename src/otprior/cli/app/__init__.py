"""`otprior app`: try starts on a page in the browser."""

from __future__ import annotations

import os
import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.inputs import BUNDLED, check_data, check_model, check_prior, set_up_torch
from otprior.cli.options import Debug, Device, Threads, Verbose
from otprior.cli.prior_options import DEFAULT, prior_names
from otprior.cli.session import fail, say, session
from otprior.utils.validation import invalid

EXAMPLES = (
    "otprior app",
    "otprior app path/to/ddpm --prior path/to/prior --data path/to/images",
    "otprior app bundled --prior none --prior gaussian --prior semidiscrete --port 8000 --open",
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")

OptionalModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A diffusers folder, 'owner/name' of the Hugging Face hub, 'bundled' or 'bundled-by-class'. It can be "
        "changed on the page, "
        "and so can priors and data.",
    ),
]
Priors = Annotated[
    list[str] | None,
    typer.Option(
        "--prior",
        metavar="PRIOR",
        help=f"A prior's folder, or 'owner/name' of the hub; or a kind that is fitted at once: {prior_names()}; or "
        "none, white noise at T. May be given several times.",
        show_default=DEFAULT,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Training images: what is fitted to, and where the nearest image is looked for.",
        show_default="bundled, for the bundled model",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port", min=1, max=65535, help="Of the page.", show_default="the first free one from 7860"
    ),
]
Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Where the page can be reached; 0.0.0.0 is from other machines, too.",
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


def app(
    model: OptionalModel = BUNDLED,
    prior: Priors = None,
    data: Data = None,
    port: Port = None,
    host: Host = "127.0.0.1",
    open_browser: Open = False,
    device: Device = "cpu",
    threads: Threads = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Serve a page on which starts are tried: t*, steps and noise, the same seeds under each, copies, prior error.

    Ctrl-C ends it. Nothing is sent anywhere, and nothing can be uploaded: folders are named by their paths on this
    machine. It needs gradio: pip install 'otprior[app]'.
    """
    with session(verbose, debug):
        priors = tuple(prior or (DEFAULT,))
        _check(model, priors, data)
        if find_spec("gradio") is None:
            raise fail("otprior app needs gradio: pip install 'otprior[app]'", 2)
        check_address(host, port)
        with tempfile.TemporaryDirectory(prefix="otprior-app-") as folder:
            # (gradio reads these as it is imported.)
            os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
            from otprior.cli.app.page import build_page, serve
            from otprior.cli.app.work import Choice, Workbench

            bench = Workbench(Path(folder), set_up_torch(threads, device))
            page = build_page(bench, Choice.first(bench, model, priors, data))
            address = serve(page, host, port, open_browser)
            say(f"otprior app is at {address} (Ctrl-C ends it)")
            if host not in LOOPBACK:
                say(
                    "Whoever can reach this machine can use the page, and see the images of any folder on it."
                )
            try:
                page.block_thread()
            finally:
                page.close(verbose=False)


def _check(model: str, priors: tuple[str, ...], data: str | None) -> None:
    """Looks at the paths."""
    check_model(model)
    for name in priors:
        if not is_kind(name):
            check_prior(name)
    if data is not None:
        check_data(data, "--data")


def is_kind(name: str) -> bool:
    """Whether a start's name is "none" or a kind of prior, and no folder's. (./gaussian is a folder.)"""
    return name == "none" or name in prior_names().split(", ")


def check_address(host: str, port: int | None) -> None:
    """Refuses a port that is in use, and an address that this machine does not have.

    Raises:
        ValueError: Naming it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number, what, rule, got in (
        (0, "--host", "an address of this machine", host),
        (port or 0, "--port", "one that is free", port),
    ):
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, number))
            except OSError as error:
                raise invalid(what, rule, f"{got} ({error.strerror or error})") from error
