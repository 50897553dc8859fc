"""What is checked about a pipeline folder before and after diffusers loads it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from otprior.diffusion.known_schedules import read_scheduler
from otprior.utils.files import folder_sha256
from otprior.utils.hub import is_hub_name
from otprior.utils.validation import require

# What pipelines call the component that decodes latents.
AUTOENCODERS = ("vae", "vqvae")


def check_components(path: str, index: Mapping[str, Any], given: Collection[str]) -> None:
    """Requires a network and a scheduler, in a pipeline's index or given beside it.

    Raises:
        ValueError: If one is missing; it names those that there are.
    """
    there = [
        name for name, value in index.items() if isinstance(value, list | tuple) and value[0] is not None
    ]
    rule = "a pipeline with components unet and scheduler"
    for name in ("unet", "scheduler"):
        require(name in there or name in given, f"model {path}", rule, f"one with {', '.join(there)}")


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
    if not is_hub_name(path):
        raise FileNotFoundError(f"there is no pipeline folder {folder}")
    return False


def component_folder(pipeline: Path, name: str) -> Path:
    """Where a component's files are: in a folder of its name, or, as in the first repositories, beside the index."""
    folder = pipeline / name
    return folder if folder.is_dir() else pipeline


def own_scheduler(pipeline: Path) -> Any:
    """The scheduler that a pipeline folder brings, whichever another it is sampled with.

    Raises:
        FileNotFoundError: If it brings none.
        ValueError: If diffusers knows none of that kind.
    """
    return read_scheduler(component_folder(pipeline, "scheduler"))


def network_sha256(pipeline: Path, *further: str) -> str:
    """One digest of a pipeline folder's network and scheduler, and of the files that `further` patterns name."""
    flat = component_folder(pipeline, "unet") == pipeline
    own = ("config.json", "*.safetensors", "scheduler_config.json") if flat else ("unet/*", "scheduler/*")
    return folder_sha256(pipeline, *further, *own)


def check_readable(folder: Path) -> None:
    """Requires sound safetensors files.

    Raises:
        FileNotFoundError: If there is none: pickled weights are not loaded.
        ValueError: If one is damaged.
    """
    if not _tensor_names(folder):
        hint = "Have diffusers read them once, and save_pretrained(...) writes .safetensors."
        raise FileNotFoundError(
            f"{folder} holds no .safetensors file; pickled weights are not loaded. {hint}"
        )


def check_complete(folder: Path, network: nn.Module, variant: str | None = None) -> None:
    """Requires that the files which diffusers read hold every tensor of the network.

    diffusers leaves what the constructor put there in the place of a missing one, and only warns.

    Arguments:
        folder: The component's.
        network: What was made of it.
        variant: Which of several files was asked for, such as "fp16".
    """
    names: dict[str, Any] = dict.fromkeys(_tensor_names(folder, variant))
    rename = getattr(network, "_fix_state_dict_keys_on_load", None)
    if rename is not None:
        rename(names)  # attention had other names in the first repositories
    missing = sorted(set(network.state_dict()) - set(names))
    got = f"{len(missing)} missing, such as {missing[:2]}"
    require(not missing, f"tensors of {folder}", "all that its config calls for", got)


def _weights(folder: Path, variant: str | None) -> list[Path]:
    """The files of weights of a variant, in parts or whole; a name without a variant has no dot in it."""
    stem = r"[^.]+" if variant is None else rf"[^.]+\.{re.escape(variant)}(-\d+-of-\d+)?"
    return [path for path in sorted(folder.glob("*.safetensors")) if re.fullmatch(stem, path.stem)]


def _tensor_names(folder: Path, variant: str | None = None) -> set[str]:
    names: set[str] = set()
    for path in _weights(folder, variant) or _weights(folder, None):
        try:
            with safe_open(path, framework="pt") as file:
                names.update(file.keys())
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or truncated: {error}") from error
    return names
