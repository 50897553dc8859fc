"""What priors share.

A prior at t* is a map T with T(z), z ~ N(0, I), meant to be distributed like the diffusion model's latents
x_t* = α x_0 + σ ε. It works row by row: a start depends on its own seed noise (and label) and on nothing else. It
holds float32 tensors whatever precision the network runs in, knows its noise schedule, and so can be moved to another
timestep without being fitted again.

On disk a prior is `config.json` and `model.safetensors`; loading reads those two and executes nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from otprior.data.images import MOST_CLASSES, check_labels
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors.card import model_card
from otprior.priors.files import CONFIG_FILE, holds_prior, load_prior, save_prior
from otprior.priors.kind import PriorKind
from otprior.priors.registry import register
from otprior.transport.moments import Spectrum
from otprior.utils.hub import local_folder, upload
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import check_finite, check_integer, check_tensor, plain_numbers, require

# Options that a report's rows have fields for.
REPORTED = ("noise", "smoothing", "correlation")


class Prior(PriorKind, ModelMixin, ConfigMixin):
    """A map from seed noise to start latents at a timestep.

    Subclasses register their arguments with `register_to_config`, allot their buffers from those alone (with `set_up`
    first), and implement `fit` and `_start`; also `_source`, if a start is built on an atom. What they say of
    themselves is in `PriorKind`.

    Attributes:
        schedule: The forward process.
        timestep: t*, in the scheduler's own units.
        alpha: Signal scale α at t*.
        sigma: Noise scale σ at t*.
        shape: Of a latent: (C, H, W) of an image, (C, L) of a sound, (C, F, H, W) of a film, or any other.
        num_classes: Number of class labels of a conditional prior, or None.
        needs_fresh: Whether calling it takes noise beyond the seed's own.
        facts: What is known of the images and the fit; {} if nothing is.

    Examples:
        >>> x = prior(z)  # any prior: seed noise in, start latents at t* out
        >>> x.shape, prior.at(400).timestep
        (torch.Size([2, 1, 28, 28]), 400)
    """

    config_name = CONFIG_FILE  # type: ignore[assignment]
    needs_fresh: bool = False
    facts: Mapping[str, Any] = {}
    _anchor: Tensor

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        """Registers the class, unless it is `abstract`: a base of priors and none itself."""
        super().__init_subclass__(**kwargs)
        cls.kind = cls.__dict__.get("kind", cls.__name__)
        cls.made_from = cls.__dict__.get("made_from", cls.kind)
        # What is made or fitted depends neither on the process-wide state of torch nor on whose a number is.
        if "__init__" in cls.__dict__:
            cls.__init__ = plain_numbers(plain_torch()(cls.__init__))  # type: ignore[method-assign]
        if isinstance(cls.__dict__.get("fit"), classmethod):
            fit = plain_numbers(plain_torch()(cls.__dict__["fit"].__func__))
            cls.fit = classmethod(fit)  # type: ignore[assignment]
        if not abstract:
            register(cls, cls.__module__)
        if cls.__module__.startswith("otprior.") and cls.__name__ in import_module("otprior").__all__:
            cls.__module__ = "otprior"  # where users import it from, and pickles find it

    def set_up(
        self, shape: list[int], schedule: dict[str, Any], timestep: float, num_classes: int | None = None
    ) -> None:
        """Sets the attributes that all priors have; the first call in `__init__` after `super().__init__()`.

        Arguments:
            shape: Shape of a latent, such as (C, H, W).
            schedule: `NoiseSchedule.to_dict()`.
            timestep: t*.
            num_classes: Number of class labels, or None.

        Raises:
            ValueError: If one of them is out of range.
        """
        whole = all(isinstance(size, int) and size > 0 for size in shape)
        require(len(shape) >= 1 and whole, "shape", "of at least one axis, all positive", shape)
        self.shape = tuple(shape)
        self.schedule = NoiseSchedule.from_dict(schedule)
        self.schedule.check_timestep(timestep)
        self.timestep = timestep
        self.alpha = self.schedule.alpha(float(timestep))
        self.sigma = self.schedule.sigma(float(timestep))
        if num_classes is not None:
            check_integer("num_classes", num_classes, 1, MOST_CLASSES)
        self.num_classes = num_classes
        # A prior without tensors of its own still has a device and a dtype, which pipelines ask for. (It is not saved,
        # so a prior that is built from another's tensors takes it over.)
        self.register_buffer("_anchor", torch.zeros(0), persistent=False)

    @property
    def dim(self) -> int:
        """Number of entries d of a latent."""
        return math.prod(self.shape)

    def report_facts(self) -> dict[str, Any]:
        """A report row's account of where sampling starts: its kind, t*, the options of the start."""
        named = [name for name in self.Options.of_start() if name in REPORTED]
        options = {name: self.config[name] for name in named if name in self.config}
        where = {"prior": self.kind, "start_timestep": self.timestep}
        return where | options | {"family": self.describe(options)}

    def transport_facts(self) -> dict[str, Any] | None:
        """How well the transport behind the prior was solved, as "ot" of a report; None if none was."""
        return None

    @property
    def holds_images(self) -> bool:
        """Whether the prior's folder holds images that it was fitted to."""
        return self._card() is not None

    def summary(self) -> list[tuple[str, str]]:
        """Pairs (name, text) that `otprior fit` prints about this kind of prior."""
        return []

    # Calling -----------------------------------------------------------------------------------------------

    def forward(self, z: Tensor, labels: Tensor | None = None, fresh: Tensor | None = None) -> Tensor:
        """Start latents T(z), each row a function of that row of the arguments.

        Arguments:
            z: Seed noise from N(0, I), shape (B, *shape), such as (B, C, H, W).
            labels: Class labels, int64 (B,); required by a conditional prior, refused by another.
            fresh: Further noise from N(0, I), shaped as z; required where `needs_fresh`, refused elsewhere.

        Returns:
            Latents at t* in the prior's scale (α, σ), float32, shaped as z.

        Raises:
            ValueError: On a wrong shape, missing or superfluous labels or fresh noise, or NaN.
        """
        labels, fresh = self._check_call(z, labels), self._check_fresh(z, fresh)
        with plain_torch():
            return self._start(z.float().flatten(1), labels, fresh).reshape(z.shape)

    def start_and_source(
        self, z: Tensor, labels: Tensor | None = None, fresh: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What `forward` and `source` return, for little more than the cost of one of them.

        Arguments:
            z, labels, fresh: As for `forward`.

        Returns:
            Start latents, (B, *shape), and the index of the atom behind each, int64 (B,), or None.

        Raises:
            ValueError: As for `forward`.
        """
        labels, fresh = self._check_call(z, labels), self._check_fresh(z, fresh)
        with plain_torch():
            start, source = self._start_and_source(z.float().flatten(1), labels, fresh)
        return start.reshape(z.shape), source

    def source(self, z: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """Index, among the images fitted on, of the atom behind each start, int64 (B,); None if there is none.

        Arguments:
            z: Seed noise, shape (B, *shape).
            labels: Class labels, (B,), if the prior is conditional.

        Raises:
            ValueError: If the shape is another, values are not finite, or labels are missing, needless or unknown.
        """
        labels = self._check_call(z, labels)
        with plain_torch():
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
        return self._with(timestep=timestep)

    def with_options(self, **options: Any) -> Self:
        """The same map with other options of the start; shares tensors, and nothing is fitted again.

        Raises:
            ValueError: If an option is none of the start's, or has a value that is not allowed.
        """
        known = self.Options.of_start()
        unknown = sorted(set(options) - set(known))
        require(not unknown, "options", " or ".join(known) or "left out", unknown)
        return self._with(**options)

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
        check_tensor("z", z)
        right = z.ndim >= 1 and tuple(z.shape[1:]) == self.shape
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
        require(self.needs_fresh, "fresh", "None: this prior takes only z", type(fresh).__name__)
        check_tensor("fresh", fresh)
        require(fresh.shape == z.shape, "fresh", f"shaped as z, {tuple(z.shape)}", tuple(fresh.shape))
        check_finite("fresh", fresh)
        return fresh.float().flatten(1)

    # What is neither negative nor NaN, and which class each row of a buffer called `classes` is of.
    _POSITIVE = ("variances", "residuals", "scales")

    def check_tensor(self, name: str, tensor: Tensor) -> None:
        """Requires a buffer that a prior of this kind can have; loading calls it for each.

        Raises:
            ValueError: If it is not finite, or out of range.
        """
        check_finite(name, tensor)
        if name == "classes":
            check_labels(tensor, len(tensor), self.num_classes or 1, name)
        if name in self._POSITIVE:
            require(bool((tensor >= 0).all()), name, ">= 0", float(tensor.min()) if tensor.numel() else None)

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
        require(self.loadable, "prior", "of a class that can be loaded again", type(self).__name__)
        require(not push_to_hub, "push_to_hub", "False here", push_to_hub, "Call prior.push_to_hub(...).")
        overwrite = holds_prior(Path(save_directory)) if overwrite is None else overwrite
        card = self._card()
        save_prior(
            save_directory, overwrite, type(self).__name__, self._own_config(), self.state_dict(), card
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        data_license: str | None = None,
        evaluation: str | Path | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload prior",
    ) -> str:
        """Publishes the prior's folder on the Hugging Face hub, with a model card; returns its address.

        Arguments:
            repo_id: "owner/name".
            data_license: The licence under which the training images that the prior holds may be shared;
                required if it holds any.
            evaluation: The folder of `otprior evaluate` with the figures that the model card shows.
            private, token, commit_message: As in `huggingface_hub`.

        Raises:
            ValueError: If the prior holds training images and no licence is named.
        """
        self.check_publishable(data_license)
        return upload(
            self.save_pretrained,
            repo_id,
            card=model_card(self, repo_id, data_license, evaluation),
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
        require(not self.holds_images or bool(data_license), "data_license", rule, data_license)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, subfolder: str | None = None, **options: Any
    ) -> Self:
        """Loads a prior's folder, of whichever class its config names.

        Arguments:
            pretrained_model_name_or_path: A folder, or a name "owner/name" of the Hugging Face hub that is no path.
            subfolder: A folder below it; from the hub nothing else is downloaded.
            **options: "revision", "token", "cache_dir" and the like, for the hub. (What else diffusers hands over when
                it loads a pipeline has no effect on a prior.)

        Raises:
            FileNotFoundError: If there is no such folder or repository, or a file is missing from it.
            ValueError: If the config or the tensors are damaged, of another format version, or do not belong
                together.
        """
        return load_prior(local_folder(pretrained_model_name_or_path, subfolder, **options), cls)
