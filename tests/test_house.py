"""The size of the packages: no long file or function, a short root, few public names."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "package_size.py"
SIZE = runpy.run_path(str(SCRIPT))


def test_no_file_or_function_is_too_long() -> None:
    assert list(SIZE["find_too_long"](SIZE["read_packages"]())) == []


def test_the_root_of_the_library_has_few_entries() -> None:
    assert len(SIZE["root_entries"]()) <= 12


def test_public_names_are_few() -> None:
    modules = SIZE["read_packages"]()
    names = {(name, module.path.parts[0]) for module in modules for name in module.public}
    assert len(names) <= 150
    (root,) = (module for module in modules if module.path == Path("otprior/__init__.py"))
    assert len(root.public) <= 30


def test_long_files_and_functions_are_reported(tmp_path: Path) -> None:
    package = tmp_path / "otprior"
    package.mkdir()
    body = "\n".join(f"    x = {i}" for i in range(60))
    (package / "long.py").write_text(f"def short():\n    pass\n\n\ndef long():\n{body}\n" + "\n" * 400)
    (package / "fine.py").write_text("def fine():\n    return 1\n")
    SIZE["read_module"].__globals__["SOURCE"] = tmp_path
    try:
        modules = SIZE["read_packages"]()
    finally:
        SIZE["read_module"].__globals__["SOURCE"] = ROOT / "src"
    assert [module.path.name for module in modules] == ["fine.py", "long.py"]
    found = list(SIZE["find_too_long"](modules))
    assert len(found) == 2
    assert "long.py: 465 lines" in found[0]
    assert "long has 61 lines" in found[1]


@pytest.mark.slow
def test_the_script_prints_a_row_for_every_folder() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder in ("otprior/transport", "otprior_studies/claims"):
        assert folder in done.stdout
