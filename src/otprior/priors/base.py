"""What priors share.

A prior at t* is a map T with T(z), z ~ N(0, I), meant to be distributed like the diffusion model's latents
x_t* = α x_0 + σ ε. It works row by row: a start depends on its own seed noise (and label) and on nothing else. It
holds float32 tensors whatever precision the network runs in, knows its noise schedule, and so can be moved to another
timestep without being fitted again.

On disk a prior is `config.json` and `model.safetensors`; loading reads those two and executes nothing.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from otprior.data.images import ImageSet, check_images, check_labels
from otprior.diffusion.schedule import NoiseSchedule
from otprior.transport.moments import Spectrum
from otprior.utils.files import output_dir, read_json
from otprior.utils.hub import local_folder, upload
from otprior.utils.validation import (
    check_finite,
    check_integer,
    invalid,
    require,
)

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class Prior(ModelMixin, ConfigMixin):
    """A map from seed noise to start latents at a timestep.

    Subclasses register their arguments with `register_to_config`, allot their buffers from those alone, and
    implement `_start` (and `source`, if a start is built on an atom).

    Attributes:
        kind: What reports call such priors; by default the class's name.
        usual_log_snr: Where t* is unless it is given; on the linear betas of DDPM, timestep 500.
        schedule: The forward process.
        timestep: t*, in the scheduler's own units.
        alpha: Signal scale α at t*.
        sigma: Noise scale σ at t*.
        shape: (C, H, W) of a latent.
        num_classes: Number of class labels of a conditional prior, or None.
        needs_fresh: Whether calling it takes noise beyond the seed's own.
    """

    config_name = CONFIG_FILE  # type: ignore[assignment]
    kind: ClassVar[str]
    usual_log_snr: ClassVar[float] = -2.47
    needs_fresh: bool = False
    _anchor: Tensor
    _registry: ClassVar[dict[str, type[Prior]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = cls.__dict__.get("kind", cls.__name__)
        if cls.__module__.startswith("otprior."):
            cls.__module__ = "otprior"  # where users import it from, and pickles find it
        Prior._registry[cls.__name__] = cls

    @classmethod
    def usual_timestep(cls, schedule: NoiseSchedule) -> float:
        """t* where none is given: that of `usual_log_snr`, whatever the schedule's timesteps are.

        Raises:
            ValueError: If the process never has that log-SNR.
        """
        try:
            timestep = schedule.timestep(cls.usual_log_snr)
        except ValueError as error:
            raise invalid("timestep", "given for this schedule", None, str(error)) from error
        return round(timestep) if schedule.discrete else timestep

    def _init_common(
        self, shape: list[int], schedule: dict[str, Any], timestep: float, num_classes: int | None
    ) -> None:
        require(len(shape) == 3 and min(shape) > 0, "shape", "(C, H, W), positive", shape)
        self.shape = tuple(shape)
        self.schedule = NoiseSchedule.from_dict(schedule)
        self.schedule.check_timestep(timestep)
        self.timestep = timestep
        self.alpha = self.schedule.alpha(float(timestep))
        self.sigma = self.schedule.sigma(float(timestep))
        if num_classes is not None:
            check_integer("num_classes", num_classes, 1)
        self.num_classes = num_classes
        # A prior without tensors of its own still has a device and a dtype, which pipelines ask for. (It is not saved,
        # so whoever builds one prior from another's tensors hands it on.)
        self.register_buffer("_anchor", torch.zeros(0), persistent=False)

    @property
    def dim(self) -> int:
        """Number of entries d of a latent."""
        return math.prod(self.shape)

    def forward(self, z: Tensor, labels: Tensor | None = None, fresh: Tensor | None = None) -> Tensor:
        """Start latents T(z), each row a function of that row of the arguments.

        Arguments:
            z: Seed noise from N(0, I), shape (B, C, H, W).
            labels: Class labels, int64 (B,); required by a conditional prior, refused by another.
            fresh: Further noise from N(0, I), shaped as z; required where `needs_fresh`, refused elsewhere.

        Returns:
            Latents at t* in the prior's scale (α, σ), float32, shape (B, C, H, W).

        Raises:
            ValueError: On a wrong shape, missing or superfluous labels or fresh noise, or NaN.
        """
        labels, fresh = self._check_call(z, labels), self._check_fresh(z, fresh)
        with torch.autocast(z.device.type, enabled=False):
            return self._start(z.float().flatten(1), labels, fresh).reshape(z.shape)

    def start_and_source(
        self, z: Tensor, labels: Tensor | None = None, fresh: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What `forward` and `source` return, for little more than the cost of one of them."""
        labels, fresh = self._check_call(z, labels), self._check_fresh(z, fresh)
        with torch.autocast(z.device.type, enabled=False):
            start, source = self._start_and_source(z.float().flatten(1), labels, fresh)
        return start.reshape(z.shape), source

    def source(self, z: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """Index, among the images fitted on, of the atom behind each start, int64 (B,); None if there is none.

        Arguments:
            z: Seed noise, shape (B, C, H, W).
            labels: Class labels, (B,), if the prior is conditional.
        """
        labels = self._check_call(z, labels)
        with torch.autocast(z.device.type, enabled=False):
            return self._source(z.float().flatten(1), labels)

    def gaussian_law(self, label: int | None = None) -> Spectrum | None:
        """Mean and covariance of the starts, exactly and in float64, if they are Gaussian; None by default.

        The audit reads it for bounds in closed form; without it, it draws samples.

        Arguments:
            label: The class, for a conditional prior.
        """
        return None

    def at(self, timestep: float | Tensor) -> Self:
        """The same map at another timestep; shares its tensors with this one, and nothing is solved again."""
        # (A scheduler's timesteps are a tensor or NumPy's, which a config file could not hold.)
        return self._with(timestep=timestep.item() if hasattr(timestep, "item") else timestep)

    def _with(self, **options: Any) -> Self:
        """The same prior with other arguments; shares its tensors with this one."""
        other = type(self)(**{**self._own_config(), **options})
        other.load_state_dict(self.state_dict(), assign=True)
        other._anchor = self._anchor
        return other

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        """T(z) on flat rows (B, d)."""
        raise NotImplementedError

    def _start_and_source(
        self, z: Tensor, labels: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Both on flat rows; to be overridden where they share work."""
        return self._start(z, labels, fresh), self._source(z, labels)

    def _source(self, z: Tensor, labels: Tensor | None) -> Tensor | None:
        """The atom behind each start, on flat rows (B, d)."""
        return None

    def _check_call(self, z: Tensor, labels: Tensor | None) -> Tensor | None:
        right = z.ndim == 4 and tuple(z.shape[1:]) == self.shape
        require(right, "z", f"of shape (B, {', '.join(map(str, self.shape))})", tuple(z.shape))
        check_finite("z", z)
        if self.num_classes is None:
            require(labels is None, "labels", "None, since this prior was fitted without labels", labels)
            return None
        rule = f"given to a prior fitted on {self.num_classes} classes, one for each row"
        require(labels is not None, "labels", rule, None)
        return check_labels(labels, len(z), self.num_classes).to(z.device)

    def _check_fresh(self, z: Tensor, fresh: Tensor | None) -> Tensor | None:
        """The further noise on flat rows, if this prior takes any."""
        if fresh is None:
            require(not self.needs_fresh, "fresh", "given: this prior draws its noise anew", None)
            return None
        require(self.needs_fresh, "fresh", "None: this prior takes only z", tuple(fresh.shape))
        require(fresh.shape == z.shape, "fresh", f"shaped as z, {tuple(z.shape)}", tuple(fresh.shape))
        check_finite("fresh", fresh)
        return fresh.float().flatten(1)

    # Precision -------------------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves between devices as asked, but keeps every dtype: half precision would move cell boundaries."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor.new_empty(0)).device)

        return super()._apply(move, recurse)  # type: ignore[misc]

    # Files -----------------------------------------------------------------------------------------------

    def _own_config(self) -> dict[str, Any]:
        return copy.deepcopy({k: v for k, v in self.config.items() if not k.startswith("_")})

    def _card(self) -> str | None:
        """Text of a README that the saved folder needs, or None."""
        return None

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        overwrite: bool | None = None,
        push_to_hub: bool = False,
        **_: Any,
    ) -> None:
        """Writes the prior's folder: whole, or not at all.

        Arguments:
            save_directory: The folder.
            overwrite: Whether a folder that is not empty may be replaced; by default only that of a prior.
            push_to_hub: Refused: publishing has a method of its own, which asks under what licence.

        Raises:
            FileExistsError: If it is not empty and must not be replaced.
        """
        overwrite = _holds_prior(Path(save_directory)) if overwrite is None else overwrite
        require(not push_to_hub, "push_to_hub", "False here", push_to_hub, "Call prior.push_to_hub(...).")
        config = {"_class_name": type(self).__name__, "format_version": FORMAT_VERSION, **self._own_config()}
        with output_dir(save_directory, overwrite) as folder:
            text = json.dumps(config, indent=2, allow_nan=False) + "\n"
            (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
            tensors = {name: tensor.contiguous().cpu() for name, tensor in self.state_dict().items()}
            # (safetensors' own file writer would ignore the umask.)
            (folder / WEIGHTS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))
            card = self._card()
            if card is not None:
                (folder / "README.md").write_text(card, encoding="utf-8")
                logger.warning(
                    "%s holds training data; see its README.md before you share it.", save_directory
                )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        data_license: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload prior",
    ) -> str:
        """Publishes the prior's folder on the Hugging Face hub; returns its address.

        Arguments:
            repo_id: "owner/name".
            data_license: The licence under which the training images that the prior holds may be shared;
                required if it holds any.
            private, token, commit_message: As in `huggingface_hub`.

        Raises:
            ValueError: If the prior holds training images and no licence is named.
        """
        self.check_publishable(data_license)
        return upload(
            self.save_pretrained,
            repo_id,
            card="README.md",
            data_license=data_license,
            private=private,
            token=token,
            commit_message=commit_message,
        )

    def check_publishable(self, data_license: str | None) -> None:
        """Refuses to publish training images under no licence.

        Raises:
            ValueError: If the prior holds training images and no licence is named.
        """
        rule = "named, since this prior holds training images: publishing it publishes them"
        require(self._card() is None or bool(data_license), "data_license", rule, data_license)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, subfolder: str | None = None, **options: Any
    ) -> Self:
        """Loads a prior's folder, of whichever class its config names.

        Arguments:
            pretrained_model_name_or_path: A folder, or a name "owner/name" of the Hugging Face hub that is no path.
            subfolder: A folder below it.
            **options: "revision", "token", "cache_dir" and the like, for the hub. (What else diffusers hands over when
                it loads a pipeline has no effect on a prior.)

        Raises:
            FileNotFoundError: If there is no such folder or repository, or a file is missing from it.
            ValueError: If the config or the tensors are damaged, of another format version, or do not belong
                together.
        """
        folder = Path(local_folder(pretrained_model_name_or_path, **options), subfolder or "")
        config = _read_config(folder)
        name = config.pop("_class_name", None)
        version = config.pop("format_version", None)
        require(version == FORMAT_VERSION, f"format_version of {folder}", str(FORMAT_VERSION), version)
        require(name in cls._registry, f"_class_name of {folder}", f"one of {sorted(cls._registry)}", name)
        found = cls._registry[name]
        require(issubclass(found, cls), f"prior in {folder}", f"a {cls.__name__}", name)
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        try:
            prior = found(**config)
        except TypeError as error:
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
        return prior.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no prior at {folder}: there is no {CONFIG_FILE}; `otprior fit` makes one")
    config = read_json(path)
    require(isinstance(config, dict), str(path), "a JSON object", type(config).__name__)
    return config


def _holds_prior(folder: Path) -> bool:
    """Whether a folder is what `save_pretrained` wrote."""
    path = folder / CONFIG_FILE
    try:
        return path.is_file() and read_json(path)["_class_name"] in Prior._registry
    except (KeyError, TypeError, ValueError):
        return False


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fit the prior again or copy the whole folder")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or truncated: {error}") from error


def read_data(
    data: ImageSet | Tensor | Any, labels: Any, value_range: Any, num_classes: int | None
) -> tuple[ImageSet, int | None]:
    """Checks what `fit` was given: images as an `ImageSet` with labels or without, and the number of classes.

    Labels are an argument of their own: an `ImageSet` that happens to be labelled makes no prior conditional.
    """
    if isinstance(data, ImageSet):
        rule = 'left at "auto" beside an ImageSet, whose pixels are in [-1, 1] already'
        require(value_range in ("auto", None), "value_range", rule, value_range)
        images = data
    else:
        images = ImageSet(check_images(data, value_range=value_range))
    if labels is None:
        return ImageSet(images.images, None, images.name, images.source, images.license), None
    values = check_labels(labels, len(images), num_classes).cpu()
    count = num_classes if num_classes is not None else int(values.max()) + 1
    return ImageSet(images.images, values, images.name, images.source, images.license), count


def images_by_class(images: ImageSet, num_classes: int | None) -> Iterator[tuple[int, Tensor]]:
    """Pairs (class, its images as flat rows), of two or more each; all images as class 0 without labels.

    Raises:
        ValueError: Before the first pair, if any class has fewer than two images.
    """
    flat = images.images.flatten(1)
    sizes = [len(flat)] if images.labels is None else _sizes(images.labels, num_classes)
    for label, size in enumerate(sizes):
        require(size >= 2, "data", f"at least two images for class {label}", size)
    for label in range(len(sizes)):
        yield label, flat if images.labels is None else flat[(images.labels == label).to(flat.device)]


def _sizes(labels: Tensor, num_classes: int | None) -> list[int]:
    return torch.bincount(labels, minlength=num_classes or 0).tolist()


def rows_by_class(labels: Tensor | None) -> list[tuple[int, Tensor | slice]]:
    """Pairs (class, its rows) of a batch; all rows as class 0 without labels."""
    if labels is None:
        return [(0, slice(None))]
    return [(label, torch.nonzero(labels == label).reshape(-1)) for label in labels.unique().tolist()]


def as_schedule(schedule: Any) -> NoiseSchedule:
    """A `NoiseSchedule`, from one or from a diffusers scheduler."""
    return schedule if isinstance(schedule, NoiseSchedule) else NoiseSchedule.from_scheduler(schedule)
