"""A prior's folder: `config.json`, `model.safetensors`, and a README.md where the tensors are training images."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from otprior.priors.registry import find_class, prior_kinds
from otprior.utils.arrays import DIGEST, read_tensors, write_tensors
from otprior.utils.files import output_dir, read_json
from otprior.utils.hub import UPLOADS
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import require

if TYPE_CHECKING:
    from otprior.priors.base import Prior

    AnyPrior = TypeVar("AnyPrior", bound=Prior)

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_prior(
    folder: str | Path,
    overwrite: bool,
    class_name: str,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    card: str | None,
) -> None:
    """Writes a folder whole, or not at all.

    Arguments:
        folder: The folder.
        overwrite: Whether one that is not empty may be replaced.
        class_name: The prior's class.
        config: Its arguments.
        tensors: Its buffers.
        card: Text of its README.md, or None.
    """
    written = {"_class_name": class_name, "format_version": FORMAT_VERSION, **config}
    with output_dir(folder, overwrite) as temporary:
        text = json.dumps(written, indent=2, allow_nan=False) + "\n"
        (temporary / CONFIG_FILE).write_text(text, encoding="utf-8")
        write_tensors(temporary / WEIGHTS_FILE, tensors, {"format": "pt"})
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")
            if not UPLOADS.get():
                logger.warning("%s holds training data; see its README.md before you share it.", folder)


@plain_torch()
def load_prior(folder: Path, base: type[AnyPrior]) -> AnyPrior:
    """The prior in a folder, of whichever class its config names, if that is a `base`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If config or tensors are damaged, of another format version, or do not belong together.
    """
    config = _read_config(folder)
    name = config.pop("_class_name", None)
    version = config.pop("format_version", None)
    require(version == FORMAT_VERSION, f"format_version of {folder}", str(FORMAT_VERSION), version)
    found = find_class(name) if isinstance(name, str) else None
    rule = "the class of a prior that is installed or imported, such as those of " + ", ".join(prior_kinds())
    require(found is not None, f"_class_name of {folder}", rule, name)
    assert found is not None
    require(issubclass(found, base), f"prior in {folder}", f"a {base.__name__}", name)
    assert issubclass(found, base)
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        prior = found(**config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, MemoryError) as error:
        raise ValueError(f"config.json of {folder} does not describe a {name}: {error}") from error
    tensors = _read_tensors(folder / WEIGHTS_FILE)
    expected = prior.state_dict()
    wrong = sorted(set(tensors) ^ set(expected))
    require(not wrong, f"tensors of {folder}", f"exactly {sorted(expected)}", f"a difference in {wrong}")
    for key, tensor in tensors.items():
        want = (tuple(expected[key].shape), expected[key].dtype)
        got = (tuple(tensor.shape), tensor.dtype)
        require(want == got, f"tensor {key!r} of {folder}", f"{want}", got)
    prior.load_state_dict(tensors, assign=True)
    try:
        for key, tensor in tensors.items():
            prior.check_tensor(key, tensor)
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS_FILE} is damaged: {error}") from error
    return prior.eval()


def holds_prior(folder: Path) -> bool:
    """Whether a folder is what `save_prior` wrote, for a class that is known."""
    path = folder / CONFIG_FILE
    try:
        return path.is_file() and find_class(read_json(path)["_class_name"]) is not None
    except (KeyError, TypeError, ValueError):
        return False


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no prior at {folder}: there is no {CONFIG_FILE}; `otprior fit` makes one")
    config: dict[str, Any] = read_json(path, "_class_name")
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fit the prior again or copy the whole folder")
    tensors, header = read_tensors(path)
    if DIGEST not in header:
        text = "%s has no digest, so damage may go unseen; save_pretrained writes one. Is it what you fitted?"
        logger.warning(text, path)
    return tensors
