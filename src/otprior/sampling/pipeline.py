r"""A diffusers pipeline that starts at t* from a prior.

Each image has a seed noise z ~ N(0, I). A prior takes it to latents T(z), meant for α x_0 + σ ε at its timestep; the
sampler's timestep of the same log-SNR is where the scheduler is started, and the latents are brought to its scale.
Without a prior, sampling starts at T from s_T z, s_t = √(α_t² + σ_t²) (1 for VP): the usual start.
An image depends on its own generator (or seed noise, or label) alone, not on what else is in the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from otprior.data.latents import decode
from otprior.priors import Prior
from otprior.priors.card import model_card
from otprior.priors.files import CONFIG_FILE
from otprior.sampling.contact import counted_rows, denoise
from otprior.sampling.folders import (
    AUTOENCODERS,
    check_components,
    check_parts,
    check_saveable,
    check_weights,
    download_pipeline,
    explained_by_folder,
    is_local,
    leave_out_of_index,
    load_vqvae,
    own_scheduler,
)
from otprior.sampling.inputs import (
    Generators,
    Labels,
    check_arguments,
    check_generators,
    draw,
    latent_shape,
    num_classes,
    read_labels,
    seed_noise,
    takes_labels,
    tensors,
    warn_of_layout,
)
from otprior.sampling.schedulers.names import few_step_scheduler
from otprior.sampling.schedulers.start_at import start_at, starts_at, stock_scheduler
from otprior.sampling.schedulers.switch import check_network
from otprior.utils.hub import HUB_OPTIONS, upload
from otprior.utils.torch_state import plain_defaults
from otprior.utils.validation import (
    check_choice,
    check_finite,
    check_integer,
    plain_number,
    plain_numbers,
    require,
)

# (pipeline, step, timestep, {"latents": x}) -> {"latents": x} or None
StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]


@dataclass
class OTPriorPipelineOutput(BaseOutput):
    """What a call returns.

    Arguments:
        images: A list of B PIL images, an array (B, H, W, C) in [0, 1] ("np"), a tensor (B, C, H, W) in [0, 1]
            ("pt"), or the tensor that the sampler ended with ("latent").
        nfe: Network evaluations an image, as counted at the network.
        sources: Index of the atom behind each image's start, int64 (B,); None if there is none.
    """

    images: Any
    nfe: int
    sources: Tensor | None = None


class OTPriorPipeline(DiffusionPipeline):
    """Samples a pixel- or latent-space model from a prior at t*, in few network evaluations.

    Arguments:
        unet: A denoiser with the call of diffusers' `UNet2DModel`.
        scheduler: A scheduler that can start at t* (`otprior.sampling.schedulers.supported_schedulers`).
        prior: Where to start; None starts from white noise at T.
        null_class_label: The label for "no class" of a network with classes; unconditional calls and guidance use it.
        vae: The autoencoder (diffusers' AutoencoderKL, VQModel or the like) of a network of latents: images are decoded
            by it, unless latents are asked for. Latents are those times `scaling_factor` of its config.

    Raises:
        ValueError: If the network needs more than latents, timestep and labels, the prior's latents are
            not the network's, or the null label is none of its classes.

    Examples:
        >>> images = pipe(batch_size=2, num_inference_steps=2).images
    """

    unet: nn.Module
    scheduler: Any
    prior: Any
    vae: Any
    # What the base class brings, for type checkers, which do not see through diffusers' lazy modules.
    config: Any
    _execution_device: torch.device
    register_modules: Callable[..., None]
    register_to_config: Callable[..., None]
    progress_bar: Callable[..., Any]
    maybe_free_model_hooks: Callable[[], None]

    model_cpu_offload_seq = "prior->unet->vae"
    _optional_components = ["prior", "vae"]  # noqa: RUF012 (diffusers' own convention)
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    def __init__(
        self,
        unet: nn.Module,
        scheduler: SchedulerMixin,
        prior: Prior | None = None,
        null_class_label: int | None = None,
        vae: Any = None,
    ) -> None:
        super().__init__()
        require(isinstance(unet, nn.Module), "unet", "a torch module", type(unet).__name__)
        check_arguments(unet)
        null_class_label = plain_number(null_class_label)  # files hold no other
        if null_class_label is not None:
            require(
                takes_labels(unet), "null_class_label", "None for a network without classes", null_class_label
            )
            count = num_classes(unet)
            check_integer("null_class_label", null_class_label, 0, None if count is None else count - 1)
        _check_kind("scheduler", scheduler)
        _check_kind("prior", prior)
        self.register_modules(unet=unet, scheduler=scheduler, prior=prior, vae=vae)
        self.register_to_config(null_class_label=null_class_label)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    def __setattr__(self, name: str, value: Any) -> None:
        _check_kind(name, value)
        if name == "prior" and value is not None:
            shape, got = latent_shape(self.unet), tuple(value.shape)
            require(shape in (None, got), "prior", f"for the network's latents, of shape {shape}", got)
        if name == "scheduler" and self.__dict__.get(name) is not None:
            check_network(value, self.scheduler)
        super().__setattr__(name, value)
        if name == "prior" and value is not None:
            # Assigned to a pipeline that was made without one, it would not be saved. `Prior` loads any kind.
            self.register_to_config(prior=("otprior", "Prior"))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((tensor.device for tensor in tensors(self.unet)), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The network's floating-point type. (Priors compute in float32 whatever it is.)"""
        floats = (tensor.dtype for tensor in tensors(self.unet) if tensor.is_floating_point())
        return next(floats, torch.float32)

    @classmethod
    def from_pipe(
        cls,
        pipeline: Any,
        prior: Prior | None = None,
        scheduler: Any = None,
        null_class_label: int | None = None,
    ) -> Self:
        """Takes over the network of another pipeline (the same object, in the user's dtype) and its scheduler.

        Arguments:
            pipeline: With components `unet` and `scheduler` (a ValueError otherwise), and perhaps `vae` or `vqvae`.
            prior: Where to start.
            scheduler: By default the pipeline's own; but ancestral DDPM, which needs hundreds of steps, is
                replaced by `DPMSolverMultistepScheduler` on the same betas.
            null_class_label: The label that stands for "no class"; by default the pipeline's, if it has one.
        """
        parts = pipeline.components
        for name in ("unet", "scheduler"):
            require(parts.get(name) is not None, "pipeline", f"one with a component {name!r}", sorted(parts))
        own = stock_scheduler(parts["scheduler"])
        if null_class_label is None:
            null_class_label = pipeline.config.get("null_class_label")
        if scheduler is None:
            scheduler = few_step_scheduler(own)
        check_network(scheduler, own)
        vae = next((parts[name] for name in AUTOENCODERS if parts.get(name) is not None), None)
        return cls(parts["unet"], scheduler, prior, null_class_label, vae)

    @classmethod
    @plain_defaults()
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Loads a pipeline folder of this class, or any with `unet` and `scheduler` as `from_pipe` would take it.

        Weights are read from safetensors only. A path that exists is loaded without network access; only a
        name of the form "owner/name" that is no path is asked of the Hugging Face hub.

        Arguments:
            pretrained_model_name_or_path: The folder.
            **kwargs: As diffusers takes them; components to use instead (`prior=`, `scheduler=`), and
                `null_class_label=`.

        Raises:
            FileNotFoundError: If the path does not exist or is no pipeline folder.
            ValueError: If there is no `unet`, a config or tensors are damaged or do not belong together, or
                `scheduler=` is for networks of another process than the folder's.
        """
        path = str(pretrained_model_name_or_path)
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        if not is_local(path):
            path = str(download_pipeline(path, kwargs.get("variant"), **hub))
        kwargs["local_files_only"], check = True, "unet" not in kwargs
        index = cls.load_config(path)
        check_components(path, index, given=kwargs)
        if "prior" not in kwargs and "prior" not in index and (Path(path) / "prior" / CONFIG_FILE).is_file():
            kwargs["prior"] = Prior.from_pretrained(path, subfolder="prior")
        if check:
            check_weights(Path(path), index, given=kwargs)
        kwargs.setdefault("use_safetensors", True)
        if "vqvae" in index and "vae" not in kwargs:
            kwargs["vae"] = load_vqvae(path, index)
        own = (index.get("scheduler") or [None])[-1]
        if check and "scheduler" in kwargs and hasattr(diffusers, str(own)):
            check_network(kwargs["scheduler"], own_scheduler(Path(path)))
        with explained_by_folder(path):
            pipe = super().from_pretrained(path, **kwargs)
        if check:
            check_parts(Path(path), index, pipe.unet, pipe.vae, kwargs.get("variant"))
        if "scheduler" not in kwargs and index.get("_class_name") != cls.__name__:
            pipe.scheduler = few_step_scheduler(pipe.scheduler)
        return pipe

    def save_pretrained(
        self, save_directory: str | Path, *args: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Writes the pipeline's folder as diffusers does: component by component, and the prior beside them.

        Arguments:
            save_directory: The folder.
            *args: As diffusers takes them.
            push_to_hub: Refused: publishing has a method of its own, which asks under what licence.
            **kwargs: As diffusers takes them.

        Raises:
            ValueError: If the network is of a class that diffusers would leave out.
        """
        require(not push_to_hub, "push_to_hub", "False here", push_to_hub, "Call pipe.push_to_hub(...).")
        check_saveable(unet=self.unet, vae=self.vae)
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        leave_out_of_index(Path(save_directory), "prior")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        data_license: str | None = None,
        evaluation: str | Path | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload pipeline",
    ) -> str:
        """Publishes the pipeline's folder on the Hugging Face hub; returns its address.

        Arguments:
            repo_id: "owner/name".
            data_license: The licence under which the training images that the prior holds may be shared; required if
                it holds any.
            evaluation: The folder of `otprior evaluate` with the figures that the model card shows.
            private, token, commit_message: As in `huggingface_hub`.

        Raises:
            ValueError: If the prior holds training images and no licence is named.
        """
        card = None
        if self.prior is not None:
            self.prior.check_publishable(data_license)
            card = model_card(self.prior, repo_id, data_license, evaluation, with_pipeline=True)
        return upload(
            self.save_pretrained,
            repo_id,
            card=card,
            private=private,
            token=token,
            commit_message=commit_message,
        )

    @torch.no_grad()
    @plain_defaults()
    @plain_numbers
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: int | Sequence[int] | Tensor | None = None,
        num_inference_steps: int = 5,
        timesteps: Sequence[float] | None = None,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> OTPriorPipelineOutput | tuple[Any]:
        """Samples `batch_size` images.

        Arguments:
            batch_size: Number of images B.
            class_labels: One label, or B of them; None for unconditional images.
            num_inference_steps: K, at the spacing of the scheduler's config, begun at t*.
            timesteps: A grid of own timesteps from t*, instead; see `otprior.timestep_grid`.
            guidance_scale: w of classifier-free guidance, ε_null + w (ε_label − ε_null); 1 is none. With w ≠ 1
                a step costs two network evaluations, and the sampler does not target p_t*(x | c).
            generator: A CPU generator for each image (`seeds_to_generators`), or one that all draw from in turn:
                the seed noise first, then the noise of a "fresh" prior, then that of a stochastic scheduler.
            latents: The seed noise z ~ N(0, I) itself, shape (B, C, H, W), never scaled by `init_noise_sigma`.
                Generators then draw only what follows z; they must not be those that drew z.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: Whether to return an `OTPriorPipelineOutput` rather than (images,).
            callback_on_step_end: A `StepCallback`, called after each step; may return {"latents": x} to go on from.
            callback_on_step_end_tensor_inputs: What of it the callback is given: "latents", or nothing.

        Raises:
            ValueError: On any of these out of range or not fitting the others; or if what comes out is not finite.
        """
        check_integer("batch_size", batch_size, 1)
        check_choice("output_type", output_type, ("pil", "np", "pt", "latent"))
        for name in callback_on_step_end_tensor_inputs:
            check_choice("callback_on_step_end_tensor_inputs", name, tuple(self._callback_tensor_inputs))
        generators = check_generators(generator, batch_size)
        null = self.config.null_class_label
        labels = read_labels(class_labels, batch_size, guidance_scale, self.unet, self.prior, null)
        if class_labels is not None and self.__dict__.get("_warned_of") is not self.prior:
            self._warned_of = self.prior  # once, and not for each batch
            warn_of_layout(self.prior, "Fit a prior by class.")
        scheduler = start_at(self.scheduler, self.prior, check=False)
        scheduler.set_timesteps(num_inference_steps, self._execution_device, timesteps)
        shape = latent_shape(self.unet) if self.prior is None else tuple(self.prior.shape)
        z = seed_noise(latents, generators, batch_size, shape)
        fresh = draw(z.shape, generators) if getattr(self.prior, "needs_fresh", False) else None
        x, sources = scheduler.start_and_source(z, labels.prior, fresh)
        x = x.to(self._execution_device, self.dtype)
        after_step = (callback_on_step_end, bool(callback_on_step_end_tensor_inputs))
        with counted_rows(self.unet) as rows:
            x = self._run(x, scheduler, labels, guidance_scale, generators, *after_step)
        self.maybe_free_model_hooks()
        if output_type != "latent":
            x = self.image_processor.postprocess(self.decode(x), output_type=output_type)
        return OTPriorPipelineOutput(x, sum(rows) // batch_size, sources) if return_dict else (x,)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images, about in [-1, 1], of latents (B, C, H, W), by the autoencoder; without one these are images."""
        if self.vae is None:
            return latents
        check_finite("decoded images", images := decode(self.vae, latents))
        return images

    def _run(
        self,
        x: Tensor,
        scheduler: Any,
        labels: Labels,
        guidance_scale: float,
        generators: Generators,
        callback: StepCallback | None,
        callback_takes_latents: bool,
    ) -> Tensor:
        """The latents that the sampler ends with, from those that it starts with."""
        takes = "generator" in inspect.signature(scheduler.step).parameters
        noise = {"generator": generators} if takes else {}
        with self.progress_bar(total=scheduler.nfe) as bar:
            for i, t in enumerate(scheduler.timesteps[: scheduler.nfe]):
                out = denoise(self.unet, scheduler.scale_model_input(x, t), t, labels, guidance_scale)
                # Under autocast the network answers in half precision, and schedulers return what it answers in.
                x = scheduler.step(out.to(x.dtype), t, x, **noise).prev_sample
                if callback is not None:
                    values = {"latents": x} if callback_takes_latents else {}
                    x = (callback(self, i, t, values) or {}).get("latents", x)
                bar.update()
        return x


def _check_kind(name: str, value: Any) -> None:
    """Requires a prior or scheduler to be one; other components are checked elsewhere."""
    came = type(value).__name__
    require(name != "prior" or isinstance(value, Prior | None), name, "a Prior, or None", came)
    if name == "scheduler":
        require(hasattr(value, "set_timesteps"), name, "one of diffusers", came)
        require(not starts_at(value), name, "a stock one", came, "Assign pipe.prior = prior.")
