"""What must come at once: help, the version, and the refusal of a missing path, all without torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import run

from otprior import __version__
from otprior.cli.commands import LIBRARY, Commands

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


@pytest.mark.parametrize("command", [*Commands()])
def test_help_of_a_command_needs_nothing_heavy(command: str) -> None:
    assert _light([command, "--help"])[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "missing", "bundled", "--out", "new"], "model missing: there is no such file or folder"),
        (["audit", "missing"], "model missing: there is no such file or folder"),
        (["audit", "sdxl", "missing"], "data missing: there is no such file or folder"),
        (["fit", "bundled", "missing", "--out", "new"], "data missing: there is no such file or folder"),
        (
            ["fit", "bundled", "bundled", "--settings", "missing", "--out", "new"],
            "--settings missing: there is no",
        ),
        (["tune", "bundled", "missing", "--out", "new"], "data missing: there is no such file or folder"),
        (["sample", "bundled", "--prior", "missing", "--out", "new"], "prior missing: there is no such"),
        (["evaluate", "missing", "--out", "new"], "images missing: there is no such file or folder"),
        (["fit", "bundled", "bundled", "--out", "."], "output folder . cannot be moved into place"),
    ],
)
def test_paths_are_refused_before_anything_heavy(arguments: list[str], message: str) -> None:
    code, stderr = _light(arguments)
    assert code == 2
    assert stderr.startswith(f"error: {message}")


@pytest.mark.parametrize("command", [*Commands()])
def test_each_help_ends_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    example = result.output.split("Example:")[1]
    assert f"otprior {command}" in example


def test_help_lists_the_library_before_the_studies() -> None:
    sections = run("--help").output.split("Commands:")[1].split("Studies:")
    listed = [
        [line.split()[0] for line in section.splitlines() if line.startswith("  ")] for section in sections
    ]
    assert listed[0] == [*LIBRARY]
    assert {"verify", "codes", "reproduce"} <= {*listed[1]}
    rows = re.findall(r"^  ([a-z]+) +(.*)$", sections[0] + sections[1], re.MULTILINE)
    assert len(rows) >= len([*Commands()])
    for name, text in rows[: len([*Commands()])]:
        assert re.fullmatch(r"[A-Z].*\.", text), name


def test_commands_of_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "greetings.py").write_text(
        '"""`otprior say-hello`: greet somebody."""\nimport typer\nEXAMPLES = ("otprior say-hello me",)\n'
        'def say_hello(name: str) -> None:\n    """Greet NAME."""\n    typer.echo(f"hello {name}")\n'
    )
    folder = tmp_path / "greetings-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: greetings\nVersion: 1\n")
    (folder / "entry_points.txt").write_text(
        "[otprior.commands]\nsay-hello = greetings\nbroken = no_such_module\nfit = greetings\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert re.search(r"^  say-hello +Greet somebody\.$", run("--help").output, re.MULTILINE)
    assert run("say-hello", "you").output == "hello you\n"
    assert "otprior say-hello me" in run("say-hello", "--help").output
    # A command of ours stays what it is, and a broken one says so when it is called.
    assert "Greet" not in run("fit", "--help").output
    result = run("broken")
    assert result.exit_code == 2
    assert "the command broken of no_such_module cannot be loaded" in result.stderr


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"otprior {__version__}\n")
