"""Any stock pipeline's folder: what fitting asks of it, and sampling it seed by seed through `attach`.

`OTPriorPipeline` needs a network and a scheduler, and no prompt. A pipeline with other components (text encoders, a
transformer) is loaded as its own class, and called as its users call it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from diffusers.utils import is_cosmos_guardrail_available
from torch import Tensor, nn

from otprior.data.latents import image_shape
from otprior.priors import Prior
from otprior.sampling.attach import attach, check_pipeline
from otprior.sampling.contact import counted_rows, find_network
from otprior.sampling.folders import (
    AUTOENCODERS,
    check_complete,
    check_configs,
    check_no_code,
    check_readable,
    own_scheduler,
    read_index,
)
from otprior.sampling.inputs import seeds_to_generators
from otprior.sampling.plan import SampledBatch
from otprior.sampling.schedulers.names import few_step_scheduler, named_scheduler, with_spacing
from otprior.sampling.schedulers.start_at import last_source
from otprior.utils.files import read_json
from otprior.utils.random import stream_generator
from otprior.utils.validation import require

# The components of an `OTPriorPipeline`.
_OWN = {"unet", "scheduler", "prior", "vae", "vqvae"}
_NETWORKS = ("transformer", "unet")

# The files that `stock_latents` reads.
STOCK_PARTS = (
    "model_index.json",
    "scheduler/*.json",
    *(f"{name}/config.json" for name in _NETWORKS),
    *(f"{name}/*.{end}" for name in (*AUTOENCODERS, "movq") for end in ("json", "safetensors")),
)


def is_stock(folder: Path) -> bool:
    """Whether a folder's pipeline is to be called as its own class: it has components that ours does not know."""
    index = read_index(folder)
    components = {name for name, value in index.items() if isinstance(value, list | tuple)}
    # (To ask for the class itself would import it.)
    return index.get("_class_name") in dir(diffusers) and not components <= _OWN


def call_default(folder: Path, argument: str) -> Any:
    """The default of an argument of calls of a folder's stock pipeline; Ellipsis if they do not take it."""
    asked = _asked(getattr(diffusers, read_index(folder)["_class_name"]))
    return asked[argument].default if argument in asked else Ellipsis


class LatentSpace(NamedTuple):
    """What fitting a prior asks of a model.

    Attributes:
        scheduler: Its own.
        autoencoder: What makes latents of images, or None.
        shape: (C, H, W) of a latent; None if neither the configs nor what was given tell it.
        classes: Number of classes that the network is told, or None.
    """

    scheduler: Any
    autoencoder: Any
    shape: tuple[int, int, int] | None
    classes: int | None


def stock_latents(
    folder: Path, height: int | None = None, width: int | None = None, variant: str | None = None
) -> LatentSpace:
    """The latent space of a stock pipeline's folder; neither network nor text encoders are loaded.

    Arguments:
        folder: The pipeline's.
        height, width: Of the images that will be asked for; by default the network's own.
        variant: Which of several files of weights, such as "fp16".

    Raises:
        ValueError: If the folder is damaged, or its autoencoder has no latents of such a size.
    """
    index = read_index(folder)
    check_no_code(folder, index)
    check_configs(folder, index)
    name = next((each for each in _NETWORKS if (folder / each / "config.json").is_file()), None)
    config = {} if name is None else read_json(folder / name / "config.json")
    coder = _load_autoencoder(folder, index, variant)
    shape = None
    if coder is None or any(p.ndim >= 4 for p in coder.parameters()):
        shape = _latent_shape(config, coder, {"height": height, "width": width})
    # (Networks that are told prompts may have such a number in their config, too.)
    told = is_stock(folder) and call_default(folder, "class_labels") is not Ellipsis
    classes = config.get("num_embeds_ada_norm") if told else None
    return LatentSpace(own_scheduler(folder), coder, shape, classes)


def _latent_shape(config: dict[str, Any], coder: Any, asked: dict[str, int | None]) -> Any:
    factor = 1 if coder is None else image_shape(coder, 1, 1)[1]
    own: Any = {} if coder is None else coder.config
    channels = own.get("latent_channels") or own.get("z_dim") or config.get("in_channels")
    known = config.get("sample_size")
    sizes: list[Any] = list(known) if isinstance(known, list) else [known, known]
    for place, (name, size) in enumerate(asked.items()):
        if size is not None:
            require(size % factor == 0, f"--{name}", f"a multiple of {factor}", size)
            sizes[place] = size // factor
    return None if channels is None or None in sizes else (int(channels), int(sizes[0]), int(sizes[1]))


def _load_autoencoder(folder: Path, index: dict[str, Any], variant: str | None) -> Any:
    name = next((each for each in (*AUTOENCODERS, "movq") if (index.get(each) or [None])[0]), None)
    if name is None:
        return None
    kind = getattr(diffusers, str(index[name][1]), None)
    rule = "of a class of diffusers"
    require(isinstance(kind, type) and issubclass(kind, nn.Module), name, rule, index[name])
    check_readable(folder / name, variant)
    has_variant = variant is not None and any((folder / name).glob(f"*.{variant}*.safetensors"))
    given = {"variant": variant} if has_variant else {}
    coder = kind.from_pretrained(folder / name, use_safetensors=True, local_files_only=True, **given)  # type: ignore[union-attr]
    check_complete(folder / name, coder, variant)
    return coder.eval()


def check_stock(folder: Path) -> None:
    """Requires a pipeline that starts from white noise, and makes images of prompts or classes alone.

    Raises:
        ValueError: If it noises an image, asks for one, or needs a package that is not installed.
    """
    cls = getattr(diffusers, read_index(folder)["_class_name"])
    check_pipeline(cls)
    name = cls.__name__
    asks = "ImageToVideo" in name or "VideoToWorld" in name
    hint = "Call it in Python, with its image."
    require(not asks, "model", "a pipeline of prompts or classes alone", name, hint)
    ready = not name.startswith("Cosmos") or is_cosmos_guardrail_available()
    got, hint = f"{name} without cosmos_guardrail", "pip install cosmos_guardrail"
    require(ready, "model", "a pipeline whose packages are installed", got, hint)


def load_stock(
    folder: Path,
    scheduler: str | None = None,
    spacing: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """The pipeline of a folder, as its own class; from safetensors, and without running code that lies in the folder.

    Arguments:
        folder: The pipeline's.
        scheduler, spacing: In place of its own; see `schedulers.names`.
        variant: Which of several files of weights, such as "fp16".
        dtype: Of all components.

    Raises:
        ValueError: If it cannot start from a prior, or is damaged.
    """
    index = read_index(folder)
    check_no_code(folder, index)
    check_configs(folder, index)
    check_stock(folder)
    given = {} if variant is None else {"variant": variant}
    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=dtype, **given
    )
    network = find_network(pipe)
    for name, part in pipe.components.items():
        if part is network and (folder / name).is_dir():
            check_complete(folder / name, part, variant)
    pipe.scheduler = few_step_scheduler(pipe.scheduler)
    if scheduler is not None:
        pipe.scheduler = named_scheduler(scheduler, pipe.scheduler)
    if spacing is not None:
        pipe.scheduler = with_spacing(pipe.scheduler, spacing)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass(frozen=True)
class StockPlan:
    """What is sampled from a stock pipeline.

    Attributes:
        seeds: One for each image.
        steps: Steps of the sampler.
        batch_size: Images at a time.
        prompts: One for each image, or None.
        negative_prompt: What images shall not show, or None.
        labels: Class labels of network or prior, one for each image, or None.
        guidance_scale: None for the pipeline's own.
        height, width: Of the images; None for the pipeline's own, or, of films, for those of the prior.
        frames: Of films, likewise.
        raw: Latents in place of images.
        latents: Seed noise (N, ...) in the pipeline's own form, in place of the noise of the seeds; or None.
        timesteps: A grid of own timesteps from t*; or None.
    """

    seeds: Sequence[int]
    steps: int
    batch_size: int
    prompts: Sequence[str] | None = None
    negative_prompt: str | None = None
    labels: Sequence[int] | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    raw: bool = False
    latents: Tensor | None = None
    timesteps: Sequence[float] | None = None

    def check(self, pipe: Any, prior: Prior | None) -> None:
        """Requires what the pipeline must be told, and no more than it or the prior can be told.

        Raises:
            ValueError: Naming what is missing, or needless.
        """
        asked, kind = _asked(pipe), type(pipe).__name__
        needed = "prompt" in asked and "class_labels" not in asked
        require(not needed or self.prompts is not None, "--prompt", f"given for a {kind}", None)
        classes = getattr(prior, "num_classes", None)
        if classes is not None or "class_labels" in asked:
            whose = "the prior was fitted by class" if classes is not None else f"a {kind} is told classes"
            require(self.labels is not None, "--class-labels", f"given: {whose}", None)
        elif self.labels is not None:
            rule = "left out: neither network nor prior knows classes"
            require(False, "--class-labels", rule, list(self.labels)[:3])
        if classes is not None and self.labels is not None:
            rule = f"below {classes}, the number of the prior's classes"
            require(max(self.labels) < classes, "--class-labels", rule, max(self.labels))
        for option, name, value in (
            ("--prompt", "prompt", self.prompts),
            ("--negative-prompt", "negative_prompt", self.negative_prompt),
            ("--guidance-scale", "guidance_scale", self.guidance_scale),
            ("--height", "height", self.height),
            ("--width", "width", self.width),
            ("--frames", "num_frames", self.frames),
            ("--float", "output_type", self.raw or None),
            ("--codes", "latents", self.latents),
        ):
            rule = f"left out: a {kind} does not take it"
            require(value is None or name in asked, option, rule, value if name != "latents" else "given")
        if self.latents is not None and prior is not None:
            got = tuple(self.latents.shape[1:])
            require(got == tuple(prior.shape), "--codes", f"of the prior's shape {tuple(prior.shape)}", got)
            packed = hasattr(pipe, "_pack_latents")
            require(not packed, "--codes", f"left out: a {kind} packs its latents", "given")
        if "class_labels" in asked and self.labels is not None:
            self._check_classes(pipe, max(self.labels))
        rule = "a stock one without a prior"
        require(self.timesteps is None or prior is not None, "--spacing", rule, "a grid from t*")

    def _check_classes(self, pipe: Any, largest: int) -> None:
        """Requires labels and guidance that the pipeline's network has entries for."""
        count = find_network(pipe).config.get("num_embeds_ada_norm")  # type: ignore[union-attr,operator]
        if count is None:
            return
        require(largest <= count, "--class-labels", f"at most {count}, which is no class", largest)
        default, scale = _asked(pipe)["guidance_scale"].default, self.guidance_scale
        scale = default if scale is None else scale
        rule = f"at most 1: the pipeline guides by label 1000, and the network has {count} classes"
        require(scale <= 1 or count >= 1000, "--guidance-scale", rule, f"{scale:g}")


def _asked(pipe: Any) -> Any:
    """The arguments of a pipeline's calls, or of a class's."""
    return inspect.signature((pipe if isinstance(pipe, type) else type(pipe)).__call__).parameters


def sample_stock(pipe: Any, prior: Prior | None, plan: StockPlan) -> Iterator[SampledBatch]:
    """Samples the images of a plan in the order of its seeds, each from a generator of its own.

    Arguments:
        pipe: A stock pipeline; the prior is attached to it.
        prior: Where to start; None for the pipeline's own start.
        plan: What to sample; checked.

    Raises:
        ValueError: If the pipeline returns neither images nor films or sounds.
    """
    size = _size(pipe, prior, plan)
    begun: list[int] | None = None

    def chosen(_: dict[str, Any]) -> list[int] | None:
        return begun

    told = plan.labels is not None and "class_labels" not in _asked(pipe)
    if prior is not None:
        attach(pipe, prior, condition=chosen if told else None, timesteps=plan.timesteps)
    for begin in range(0, len(plan.seeds), plan.batch_size):
        part = slice(begin, begin + plan.batch_size)
        count = len(plan.seeds[part])
        begun = None if plan.labels is None else list(plan.labels[part])
        started = time.perf_counter()
        network: Any = find_network(pipe)
        with counted_rows(network) as rows:
            out = pipe(**size, **_arguments(pipe, plan, part, network.dtype))
        images = _read(out, plan.raw)
        source = None if prior is None else last_source(pipe.scheduler)
        source = None if source is None else source[:count].cpu()
        yield SampledBatch(images, source, sum(rows) // count, time.perf_counter() - started)


def _arguments(pipe: Any, plan: StockPlan, part: slice, dtype: torch.dtype) -> dict[str, Any]:
    """What a batch's call is given."""
    asked, seeds = _asked(pipe), list(plan.seeds[part])
    prompts = None if plan.prompts is None else list(plan.prompts[part])
    negative = None if plan.negative_prompt is None else [plan.negative_prompt] * len(seeds)
    steps = "num_inference_steps" if "num_inference_steps" in asked else "steps"
    given: dict[str, Any] = {
        steps: plan.steps,
        # (Code k may be the very noise of seed k.)
        "generator": seeds_to_generators(seeds)
        if plan.latents is None
        else [stream_generator(seed, "beside codes") for seed in seeds],
        "latents": None if plan.latents is None else plan.latents[part].to(dtype),
        "prompt": prompts,
        "negative_prompt": negative,
        "guidance_scale": plan.guidance_scale,
        "batch_size": len(seeds) if "batch_size" in asked else None,
    }
    if "class_labels" in asked and plan.labels is not None:
        given["class_labels"] = list(plan.labels[part])
    if "output_type" in asked:
        given["output_type"] = "latent" if plan.raw else "np"
    return {name: value for name, value in given.items() if value is not None} | {"return_dict": False}


def _size(pipe: Any, prior: Prior | None, plan: StockPlan) -> dict[str, int]:
    """What calls are told of the size: what was asked for, or what the prior's latents (C, H, W), (C, F, H, W) tell."""
    given: dict[str, int | None] = {"height": plan.height, "width": plan.width, "num_frames": plan.frames}
    if prior is not None and len(prior.shape) in (3, 4):
        *frames, height, width = prior.shape[1:]
        time, space = (
            next((int(getattr(pipe, name)) for name in names if getattr(pipe, name, None)), None)
            for names in (
                ("vae_scale_factor_temporal", "vae_temporal_compression_ratio"),
                ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor"),
            )
        )
        own = {} if space is None else {"height": height * space, "width": width * space}
        if frames and time is not None:
            own["num_frames"] = (frames[0] - 1) * time + 1
        given |= {name: size for name, size in own.items() if given[name] is None and name in _asked(pipe)}
    return {name: value for name, value in given.items() if value is not None}


def sampling_rate(pipe: Any) -> int | None:
    """Entries a second of the sounds that a pipeline makes; None if it makes none."""
    config = getattr(getattr(pipe, "vae", None), "config", {})
    known = config.get("sampling_rate")
    if known is None and hasattr(pipe, "mel"):
        known = pipe.mel.get_sample_rate()
    return None if known is None else int(known)


def _read(out: Any, raw: bool) -> Tensor:
    """What a call returned: images (B, C, H, W) or films (B, F, C, H, W) in [-1, 1]; sounds (B, C, L); or latents."""
    found = out[0]
    if raw:
        require(isinstance(found, Tensor), "--float", "left out: this pipeline returns no latents", "given")
        return found.float().cpu()
    if len(out) > 1 and isinstance(out[1], tuple):
        # (Pictures of sounds, their rate, and the sounds.)
        found = np.stack([np.atleast_2d(sound) for sound in out[1][1]])
    values = np.asarray(found) if isinstance(found, list | np.ndarray) else None
    if values is not None and values.dtype == np.uint8:
        # (Of Pillow.)
        values = (values[..., None] if values.ndim == 3 else values) / 255
    if values is not None and values.ndim == 3:
        return torch.from_numpy(values).float()
    is_image = values is not None and values.ndim in (4, 5) and values.shape[-1] in (1, 3)
    got = getattr(values, "shape", type(found).__name__)
    require(is_image, "model", "a pipeline of images, films or sounds; call others in Python", got)
    assert values is not None
    return torch.from_numpy(values).movedim(-1, -3).float() * 2 - 1
