"""What is checked about a pipeline folder before and after diffusers loads it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers import ModelMixin
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from torch import nn

from otprior.data import bundled
from otprior.diffusion.known_schedules import CONFIG_FILE, read_scheduler
from otprior.utils.configs import check_config
from otprior.utils.files import folder_sha256, read_json, require_regular, write_json
from otprior.utils.hub import PRIOR_FILES, is_hub_name, not_found
from otprior.utils.validation import check_finite, invalid, require

# What pipelines call the component that decodes latents.
AUTOENCODERS = ("vae", "vqvae")


def check_components(path: str, index: Mapping[str, Any], given: Collection[str]) -> None:
    """Requires a network and a scheduler, in a pipeline's index or given beside it.

    Raises:
        ValueError: If one is missing, of which it names those that there are; if diffusers would run code; or if a
            config has values of another kind than its class takes.
    """
    check_no_code(Path(path), index)
    check_configs(Path(path), index, given)
    there = [
        name for name, value in index.items() if isinstance(value, list | tuple) and value[0] is not None
    ]
    rule = "a pipeline with components unet and scheduler"
    for name in ("unet", "scheduler"):
        require(name in there or name in given, f"model {path}", rule, f"one with {', '.join(there)}")


def read_index(folder: Path) -> dict[str, Any]:
    """The `model_index.json` of a pipeline folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no JSON object.
    """
    file = folder / "model_index.json"
    index = read_json(file)
    require(isinstance(index, dict), str(file), "a JSON object", type(index).__name__)
    return dict(index)


def leave_out_of_index(folder: Path, name: str) -> None:
    """Takes a component out of a saved pipeline's index: it lies beside the others, and diffusers need not know it.

    (diffusers refuses a repository of the hub whose index names a component of a library that it does not know.)
    """
    index = read_index(folder)
    if name in index:
        del index[name]
        write_json(folder / "model_index.json", index)


def check_saveable(**parts: nn.Module | None) -> None:
    """Requires networks that diffusers saves: others it leaves out, and loads nothing in their place.

    Raises:
        ValueError: Naming the component.
    """
    for name, part in parts.items():
        saved = part is None or isinstance(getattr(part, "_orig_mod", part), ModelMixin)
        hint = "Save its state and the prior, and build the pipeline around them again."
        require(saved, name, "a ModelMixin of diffusers, to be saved", type(part).__name__, hint)


def check_no_code(folder: Path, index: Mapping[str, Any]) -> None:
    """Requires a folder of which diffusers runs no code: it would, if a component's library is a file of Python there.

    Raises:
        ValueError: Naming the file.
    """
    named = index.get("_class_name")
    require(
        isinstance(named, str | None),
        f"_class_name of {folder}",
        "a pipeline's name",
        named,
        "No code is run.",
    )
    for name, value in index.items():
        if isinstance(value, list | tuple) and value and isinstance(value[0], str):
            file = folder / name / f"{value[0].removesuffix('.py')}.py"
            require(not file.exists(), f"model {folder}", "without code of its own, which is not run", file)


def check_configs(pipeline: Path, index: Mapping[str, Any], given: Collection[str] = ()) -> None:
    """Requires configs of network, scheduler and autoencoder with values of the kinds that their classes take.

    Raises:
        ValueError: Naming the key and the file.
    """
    for name in ("unet", "scheduler", *AUTOENCODERS):
        value = index.get(name)
        named = value[-1] if isinstance(value, list | tuple) and value else None
        kind = getattr(diffusers, named, None) if isinstance(named, str) else None
        file = component_folder(pipeline, name) / (CONFIG_FILE if name == "scheduler" else "config.json")
        if name not in given and isinstance(kind, type) and file.is_file():
            config = read_json(file)
            require(isinstance(config, dict), str(file), "a JSON object", type(config).__name__)
            check_config(kind, config, str(file))


@contextlib.contextmanager
def explained_by_folder(pipeline: str) -> Iterator[None]:
    """Turns what diffusers raises of configs that are wrong otherwise, of a dozen kinds, into a `ValueError`."""
    try:
        yield
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the configs in {pipeline} describe no pipeline: {reason}") from error


def download_pipeline(name: str, variant: str | None = None, parts: Collection[str] = (), **hub: Any) -> Path:
    """Where the pipeline "owner/name" of the Hugging Face hub was downloaded to; no weights but safetensors.

    Arguments:
        name: The repository.
        variant: Which of several files of weights, such as "fp16".
        parts: Patterns of files that are enough; by default all that the pipeline needs, and a prior beside it.
        hub: Those of `HUB_OPTIONS`.

    Raises:
        FileNotFoundError: If it cannot be reached, or is no pipeline.
    """
    from otprior.sampling.pipeline import OTPriorPipeline

    own = {key: value for key, value in hub.items() if key != "proxies"}
    try:
        if parts:
            return Path(snapshot_download(name, allow_patterns=list(parts), **own))
        wanted = {} if variant is None else {"variant": variant}
        # (Called on this class, it takes pipelines of any, ours too.)
        OTPriorPipeline.download(name, use_safetensors=True, **wanted, **hub)
        # (The same snapshot; the prior is no component.)
        return Path(
            snapshot_download(
                name, allow_patterns=["model_index.json", *(f"prior/{each}" for each in PRIOR_FILES)], **own
            )
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise not_found("model", name, error) from error


def find_pipeline(name: str | Path, variant: str | None = None, parts: Collection[str] = ()) -> Path:
    """The folder of a pipeline: the path, that of a bundled network, or where "owner/name" was downloaded to."""
    if str(name) in bundled.NETWORKS:
        return bundled.NETWORKS[str(name)]()
    return download_pipeline(str(name), variant, parts) if is_hub_name(name) else Path(name)


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


def check_weights(pipeline: Path, index: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Requires sound files of the network, and of an autoencoder that is not given instead; see `check_readable`."""
    variant = given.get("variant")
    check_readable(component_folder(pipeline, "unet"), variant)
    for name in AUTOENCODERS:
        if name in index and name not in given and (pipeline / name).is_dir():
            check_readable(pipeline / name, variant)


def check_readable(folder: Path, variant: str | None = None) -> None:
    """Requires sound safetensors files, of a variant where there are such.

    Raises:
        FileNotFoundError: If there is none: pickled weights are not loaded.
        ValueError: If one is damaged, or all are of a variant that was not asked for.
    """
    if not _tensor_names(folder, variant):
        others = [path.name for path in sorted(folder.glob("*.safetensors"))]
        if others:
            rule = f"named: {folder} has weights of a variant alone"
            raise invalid("variant", rule, variant, f"There is {others[0]}")
        hint = "Have diffusers read them once, and save_pretrained(...) writes .safetensors."
        raise FileNotFoundError(
            f"{folder} holds no .safetensors file; pickled weights are not loaded. {hint}"
        )


def check_complete(folder: Path, network: nn.Module, variant: str | None = None) -> None:
    """Requires that the files which diffusers read hold every tensor of the network, of finite numbers.

    diffusers leaves what the constructor put there in the place of a missing one, and only warns. NaN among weights is
    what a diverged training leaves; it would be found out where images are made, after other work.

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
    for name, tensor in network.state_dict().items():
        check_finite(f"{name} of {folder}", tensor)


def check_parts(
    pipeline: Path, index: Mapping[str, Any], unet: nn.Module, vae: nn.Module | None, variant: str | None
) -> None:
    """`check_complete` of a loaded pipeline's network, and of its autoencoder if it has one."""
    check_complete(component_folder(pipeline, "unet"), unet, variant)
    for name in AUTOENCODERS:
        if (pipeline / name).is_dir() and name in index and vae is not None:
            check_complete(pipeline / name, vae, variant)


def load_vqvae(pipeline: str, index: Mapping[str, Any]) -> Any:
    """The autoencoder of a pipeline that calls it `vqvae`: under that name diffusers would not hand it over."""
    with explained_by_folder(pipeline):
        kind = getattr(diffusers, index["vqvae"][1])
        return kind.from_pretrained(pipeline, subfolder="vqvae", use_safetensors=True)


def _weights(folder: Path, variant: str | None) -> list[Path]:
    """The files of weights of a variant, in parts or whole; a name without a variant has no dot in it."""
    stem = r"[^.]+" if variant is None else rf"[^.]+\.{re.escape(variant)}(-\d+-of-\d+)?"
    return [path for path in sorted(folder.glob("*.safetensors")) if re.fullmatch(stem, path.stem)]


def _tensor_names(folder: Path, variant: str | None = None) -> set[str]:
    names: set[str] = set()
    for path in _weights(folder, variant) or _weights(folder, None):
        require_regular(path, "weights")
        try:
            with safe_open(path, framework="pt") as file:
                names.update(file.keys())
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or truncated: {error}") from error
    return names
