"""Text of the command line: seeds, labels, ranges of values, names of schedulers."""

from io import StringIO

import pytest
from cli_helpers import assert_refused, run
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from otprior.cli import program
from otprior.cli.options import format_seeds, parse_labels, parse_seeds, parse_value_range
from otprior.cli.progress import Bar
from otprior.sampling.schedulers.names import named_scheduler, with_spacing


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", [7]), ("0-3", [0, 1, 2, 3]), ("3,5,9", [3, 5, 9]), ("9, 3-4", [3, 4, 9]), ("5-5", [5])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=30, unique=True))
def test_seeds_are_read_back_as_they_are_written(seeds: list[int]) -> None:
    assert parse_seeds(format_seeds(sorted(seeds))) == sorted(seeds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "whole numbers and ranges"),
        ("1-", "whole numbers and ranges"),
        ("-3", "whole numbers and ranges"),
        ("1.5", "whole numbers and ranges"),
        ("5-2", "from a lower to a higher number"),
        ("1,2,1", "different; got 1 more than once"),
        ("0-99999999999", "ranges of at most 1,000,000"),
        (f"{2**63}", "below 2\\^63"),
    ],
)
def test_seeds_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"--seeds must be .*{message}"):
        parse_seeds(text)


def test_labels_keep_their_order_and_may_repeat() -> None:
    assert parse_labels("2,0-1,2") == [2, 0, 1, 2]


def test_value_range() -> None:
    assert parse_value_range("auto") == "auto"
    assert parse_value_range("none") is None
    assert parse_value_range("-1,1.5") == (-1.0, 1.5)
    for text in ("0", "1,0", "a,b", "0,1,2"):
        with pytest.raises(ValueError, match="--value-range must be"):
            parse_value_range(text)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("DPMSolverMultistep", "DPMSolverMultistepScheduler"),
        ("dpm++2m", "DPMSolverMultistepScheduler"),
        ("DPM++", "DPMSolverMultistepScheduler"),
        ("ddim", "DDIMScheduler"),
        ("unipc", "UniPCMultistepScheduler"),
        ("deis", "DEISMultistepScheduler"),
        ("euler", "EulerDiscreteScheduler"),
        ("EulerDiscreteScheduler", "EulerDiscreteScheduler"),
        ("sa-solver", "SASolverScheduler"),
    ],
)
def test_names_of_schedulers(name: str, found: str) -> None:
    scheduler = named_scheduler(name, DDPMScheduler(beta_schedule="squaredcos_cap_v2"))
    assert type(scheduler).__name__ == found
    assert scheduler.config.beta_schedule == "squaredcos_cap_v2"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scheduler must be one of .*DDIM, .*; got foo"):
        named_scheduler("foo", DDPMScheduler())
    scheduler = named_scheduler("unipc", DDPMScheduler())
    with pytest.raises(ValueError, match=r"spacing must be one of trailing, .*grid:karras; got foo"):
        with_spacing(scheduler, "foo")
    with pytest.raises(ValueError, match="one that UniPCMultistepScheduler has; got 'lu'"):
        with_spacing(scheduler, "lu")


def test_a_spacing_replaces_another() -> None:
    karras = with_spacing(named_scheduler("dpm++2m", DDPMScheduler()), "karras")
    assert karras.config.use_karras_sigmas
    linspace = with_spacing(karras, "linspace")
    assert not linspace.config.use_karras_sigmas
    assert linspace.config.timestep_spacing == "linspace"


def test_of_two_priors_the_last_one_counts() -> None:
    assert_refused(
        run("fit", "x", "y", "--prior=mixture", "--prior", "gaussian", "--noise", "fresh"), "gaussian"
    )
    line = "fit --out o --prior mixture --components 3 --prior gaussian --prior mixture -- x y"
    assert_refused(CliRunner().invoke(program, line.split()), "model x")


def test_progress_never_runs_backwards() -> None:
    # A solver's forecast of draws grows while it solves.
    out = StringIO()
    bar = Bar("solving", Console(file=out, width=200), None)
    shares = []
    for done, total in ((10, 20), (90, 100), (95, 190), (180, 200), (1, 10)):
        bar._printed = float("-inf")  # (else it prints once in a while only)
        bar.update(done, total)
        shares.append(int(out.getvalue().strip().splitlines()[-1].split(", ")[1].rstrip("%")))
    assert shares == [50, 90, 90, 90, 10]  # the last is other work
