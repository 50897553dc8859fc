"""What must come at once: help, the version, and the refusal of a missing path, all without torch."""

import subprocess
import sys

import pytest
from cli_helpers import run

from otprior import __version__
from otprior.cli import _COMMANDS

HEAVY = ("torch", "diffusers", "matplotlib", "numpy", "scipy")


def _light(arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a fresh process that must end before anything heavy is imported."""
    program = (
        "import sys\n"
        "from otprior.cli import main\n"
        f"sys.argv = ['otprior', *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as ended:\n"
        f"    heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    assert not heavy, heavy\n"
        "    sys.exit(ended.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "AssertionError" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def test_help_needs_nothing_heavy() -> None:
    assert _light(["--help"])[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "missing", "bundled", "--out", "new"], "model missing: there is no such file or folder"),
        (["audit", "missing"], "model missing: there is no such file or folder"),
        (["audit", "sdxl", "missing"], "data missing: there is no such file or folder"),
        (["fit", "bundled", "missing", "--out", "new"], "data missing: there is no such file or folder"),
        (
            ["fit", "bundled", "bundled", "--weights", "missing", "--out", "new"],
            "weights missing: there is no",
        ),
        (["sample", "bundled", "--prior", "missing", "--out", "new"], "prior missing: there is no such"),
        (["evaluate", "missing", "--out", "new"], "images missing: there is no such file or folder"),
        (["fit", "bundled", "bundled", "--out", "."], "output folder . cannot be moved into place"),
    ],
)
def test_paths_are_refused_before_anything_heavy(arguments: list[str], message: str) -> None:
    code, stderr = _light(arguments)
    assert code == 2
    assert stderr.startswith(f"error: {message}")


@pytest.mark.parametrize("command", _COMMANDS)
def test_each_help_ends_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    example = result.output.split("Example:")[1]
    assert f"otprior {command}" in example


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"otprior {__version__}\n")
