"""Models, data and priors that a command is given: paths are checked first, then what is there is loaded.

`check_*` look at paths alone and import nothing heavy; `load_*` read what is there.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otprior.utils.validation import invalid, require

if TYPE_CHECKING:
    import torch

    from otprior.data import ImageSet, ImageStream
    from otprior.priors import Prior
    from otprior.sampling import OTPriorPipeline

# Stands for the model and the images that come with the package.
BUNDLED = "bundled"
# The two bundled networks.
NETWORKS = (BUNDLED, "bundled-by-class")
MOST_OF_A_REASON = 200  # letters


def require_path(what: str, path: str | Path, advice: str = "") -> None:
    """Refuses a path at which there is nothing.

    Raises:
        FileNotFoundError: Naming it, with `advice`.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{what} {path}: there is no such file or folder" + (f"; {advice}" if advice else "")
        )


def check_model(name: str) -> None:
    """Refuses a model that is neither a diffusers folder nor bundled, nor named as the hub names them."""
    if is_named(name):
        return
    advice = f"name a diffusers folder, {' or '.join(NETWORKS)}, or 'owner/name' of the Hugging Face hub"
    require_path("model", name, advice)
    if not (Path(name) / "model_index.json").is_file():
        raise FileNotFoundError(f"model {name}: there is no model_index.json in it; {advice}")


def check_model_or_schedule(name: str) -> None:
    """Refuses what is no model, no scheduler and no well-known schedule, by looking at names and paths alone."""
    from otprior.diffusion.known_schedules import CONFIG_FILE, known_names

    path = Path(name)
    if name in known_names() or is_named(name):
        return
    if not path.exists():
        known = ", ".join(known_names())
        raise FileNotFoundError(
            f"model {name}: there is no such file or folder; name a diffusers folder, a {CONFIG_FILE}, or one of "
            f"{', '.join(NETWORKS)}, {known}"
        )
    if path.is_dir() and not ((path / "model_index.json").is_file() or (path / CONFIG_FILE).is_file()):
        raise FileNotFoundError(
            f"model {name}: there is neither a model_index.json nor a {CONFIG_FILE} in it"
        )


def is_named(model: str) -> bool:
    """Whether a model has a name, bundled or on the hub, rather than a path."""
    return model in NETWORKS or on_hub(model)


def on_hub(name: str) -> bool:
    """Whether a name is "owner/name" and no path that exists."""
    from otprior.utils.hub import is_hub_name

    return is_hub_name(name)


@functools.cache
def find_model(name: str, variant: str | None = None, parts: tuple[str, ...] = ()) -> Path:
    """The folder of a model, downloaded first if the hub has it.

    Arguments:
        name: A diffusers folder, "owner/name" of the hub, or one of `NETWORKS`.
        variant: Which of several files of weights, such as "fp16".
        parts: Patterns of files that are enough; all by default.

    Raises:
        FileNotFoundError: If it cannot be reached.
    """
    from otprior.sampling.folders import find_pipeline

    return find_pipeline(name, variant, parts)


def is_stock_model(name: str) -> bool:
    """Whether a model is a pipeline to be called as its own class, with prompts for instance."""
    from otprior.sampling.stock import is_stock

    folder = find_model(name, parts=("model_index.json",))
    with explained(name):
        return is_stock(folder)


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns whatever diffusers raises of a model's folder, which depends on what is wrong with it, into one line."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"model {name} cannot be loaded: {reason}") from error


def names_schedule(name: str) -> bool:
    """Whether a name stands for a schedule without a network: a well-known one, a config file, or a folder with one."""
    from otprior.diffusion.known_schedules import CONFIG_FILE, known_names

    path = Path(name)
    in_folder = (path / CONFIG_FILE).is_file() and not (path / "model_index.json").is_file()
    return name in known_names() or path.is_file() or in_folder


def load_schedule(name: str) -> Any:
    """The scheduler that such a name stands for."""
    from otprior.diffusion.known_schedules import known_names, known_schedule, read_scheduler

    return known_schedule(name).scheduler if name in known_names() else read_scheduler(Path(name))


def check_data(name: str | Path, what: str = "data") -> None:
    """Refuses data that are neither at a path nor "bundled"."""
    if str(name) != BUNDLED:
        files = "a .zip, .tar, .parquet, .npz, .npy or .safetensors file"
        require_path(what, name, f"name a folder of images, {files}, or '{BUNDLED}'")


def check_extractor(name: str) -> None:
    """Refuses a name that can stand for no feature extractor."""
    named = name == "inception" or re.fullmatch(r"[\w.]+:\w+|[\w-][\w.-]*/[\w.-]+", name)
    if not named:
        kinds = (
            "a classifier's folder, a Hugging Face vision folder, a TorchScript file, package.module:factory"
        )
        require_path("--extractor", name, f"name {kinds}, or inception")


def check_prior(path: str | Path) -> None:
    """Refuses a path that is no prior's folder, nor a name as the hub has them."""
    advice = "`otprior fit` makes one, and 'none' starts at T"
    if on_hub(str(path)):
        return
    require_path("prior", path, advice)
    if not (Path(path) / "config.json").is_file():
        raise FileNotFoundError(f"prior {path}: there is no config.json in it; {advice}")


def set_up_torch(threads: int | None, device: str) -> torch.device:
    """Sets the number of threads, silences diffusers below errors, and tries the device."""
    import torch
    from diffusers.utils import logging

    if threads is not None:
        torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # (Cells are told apart in double precision, which Apple's GPUs do not have.)
        torch.zeros(1, device=device, dtype=torch.float64).item()
    except Exception as error:
        # (What torch raises for a device depends on the device, and may fill a page.)
        reason = (str(error).splitlines() or [type(error).__name__])[0][:MOST_OF_A_REASON]
        raise invalid("--device", "one that this machine has", device, reason) from error
    return torch.device(device)


def load_model(
    name: str,
    scheduler: str | None = None,
    spacing: str | None = None,
    null_label: int | None = None,
    variant: str | None = None,
) -> OTPriorPipeline:
    """The model, with the prior that its folder holds, if it holds one.

    Arguments:
        name: A diffusers folder, "owner/name" of the hub, or one of `NETWORKS`.
        scheduler: Sample with another one, on the same betas; see `cli.schedulers`.
        spacing: A stock spacing for it.
        null_label: The label that stands for "no class"; by default what the folder says.
        variant: Which of several files of weights, such as "fp16".

    Raises:
        FileNotFoundError: If it is on the hub, and cannot be reached.
        ValueError: If the folder is damaged, or its parts do not belong together.
    """
    from otprior.data import bundled
    from otprior.sampling import OTPriorPipeline
    from otprior.sampling.schedulers.names import named_scheduler, with_spacing

    if name == BUNDLED and null_label is None:
        null_label = bundled.null_class_label()
    given: dict[str, Any] = {} if null_label is None else {"null_class_label": null_label}
    given |= {} if variant is None else {"variant": variant}
    rule = "without prompts; fit, sample, audit, compare and tune take models with prompts, too"
    require(not is_stock_model(name), "model", rule, name)
    folder = find_model(name, variant)
    pipe: Any  # what it inherits from diffusers is hidden from type checkers
    with explained(name):
        pipe = OTPriorPipeline.from_pretrained(folder, **given)
    if scheduler is not None:
        pipe.scheduler = named_scheduler(scheduler, pipe.scheduler)
    if spacing is not None:
        pipe.scheduler = with_spacing(pipe.scheduler, spacing)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_data(
    name: str | Path, shape: tuple[int, int, int] | None, value_range: Any = "auto", **options: Any
) -> ImageSet:
    """Images, of the model's size; or their latents. Arguments as for `open_data`."""
    found = open_data(name, shape, value_range, **options)
    return found.read() if hasattr(found, "read") else found


def open_data(
    name: str | Path,
    shape: tuple[int, int, int] | None,
    value_range: Any = "auto",
    license: str | None = None,
    bundled_split: str = "atoms",
    pictures: Mapping[str, Any] | None = None,
    autoencoder: Any = None,
) -> ImageSet | ImageStream:
    """The same, not read yet unless bundled.

    Arguments:
        name: A folder or file, or "bundled".
        shape: (C, H, W) that they must have, if that is known.
        value_range: See `otprior.data.images.to_pixels`.
        license: Recorded with them.
        bundled_split: What "bundled" stands for: "atoms", "validation", "held_out" or "reference".
        pictures: What is done to pictures (`parse_pictures`); by default larger ones are brought to the size.
        autoencoder: Encodes pixels to latents of `shape`; what `value_range` None takes as it is are latents already.
    """
    from otprior.data import bundled, encode_images, open_images
    from otprior.data.latents import image_shape

    if str(name) == BUNDLED:
        images = bundled.atoms() if bundled_split == "atoms" else bundled.split(bundled_split)
        got = tuple(images.images.shape[1:])
        require(shape is None or got == shape, f"bundled {bundled_split}", f"of shape {shape}", got)
        return images
    encoded = autoencoder is not None and value_range is not None
    of_images = image_shape(autoencoder, *shape[1:]) if encoded and shape is not None else shape
    options: dict[str, Any] = {"adapt": True} if pictures is None else dict(pictures)
    if of_images is not None:
        options |= {"size": of_images[1:], "channels": of_images[0]}
    stream = open_images(name, value_range=value_range, license=license, **options)
    return encode_images(autoencoder, stream) if encoded else stream


def load_prior(path: str | Path) -> Prior:
    """The prior in a folder, of any class."""
    from otprior.priors import Prior

    return Prior.from_pretrained(path)
