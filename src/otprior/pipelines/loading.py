"""What is checked about a pipeline folder before and after diffusers loads it."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from otprior.validation import require

__all__ = ["check_complete", "check_readable", "is_local"]


def is_local(path: str | Path) -> bool:
    """True for a pipeline folder, False for a name of the form "owner/name" that is no path.

    Raises:
        FileNotFoundError: If it is neither; the network is not asked.
    """
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise FileNotFoundError(f"{folder} is no pipeline folder: there is no model_index.json in it")
        return True
    if folder.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(path)):
        raise FileNotFoundError(f"there is no pipeline folder {folder}")
    return False


def check_readable(folder: Path) -> None:
    """Requires sound safetensors files.

    Raises:
        FileNotFoundError: If there is none: pickled weights are not loaded.
        ValueError: If one is damaged.
    """
    if not _tensor_names(folder):
        raise FileNotFoundError(f"{folder} holds no .safetensors file; pickled weights are not loaded")


def check_complete(folder: Path, network: nn.Module) -> None:
    """Requires that the files hold every tensor of the network.

    diffusers leaves what the constructor put there in the place of a missing one, and only warns.
    """
    missing = sorted(set(network.state_dict()) - _tensor_names(folder))
    got = f"{len(missing)} missing, such as {missing[:2]}"
    require(not missing, f"tensors of {folder}", "all that its config calls for", got)


def _tensor_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                names.update(file.keys())
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or truncated: {error}") from error
    return names
