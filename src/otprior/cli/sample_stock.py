"""What `otprior sample` does with a pipeline that is called as its own class, such as one with prompts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otprior.cli.inputs import explained, find_model, load_prior
from otprior.cli.sample_jobs import (
    DEFAULT_STEPS,
    Job,
    SampleRequest,
    chosen_start,
    network_dtype,
    own_grid,
    stock_spacing,
    with_options,
)
from otprior.utils.validation import require

if TYPE_CHECKING:
    import torch

    from otprior.priors import Prior
    from otprior.sampling import StartSpec
    from otprior.sampling.plan import SampledBatch
    from otprior.sampling.stock import StockPlan


def find_stock_job(request: SampleRequest, numbers: list[int], device: torch.device) -> Job:
    """The job of a stock pipeline, through `attach`; checked."""
    from otprior.sampling.stock import load_stock, sample_stock, sampling_rate

    rule = "left out with a pipeline of this class, which is called as it is"
    require(request.null_label is None, "--null-label", rule, request.null_label)
    folder, chosen = find_model(request.model, request.variant), chosen_start(request)
    spacing, scheduler = request.spacing, request.scheduler
    if chosen is not None:
        spacing, scheduler = spacing or chosen.spacing, scheduler or chosen.scheduler
    prior = _find_prior(request, folder, chosen)
    _silence_transformers()
    with explained(request.model):
        dtype = network_dtype(request.dtype)
        pipe = load_stock(folder, scheduler, stock_spacing(spacing), request.variant, dtype)
    pipe.to(device)
    plan = _plan(request, numbers, pipe, prior, chosen, spacing)
    plan.check(pipe, prior)

    def begin(listen: Callable[[float], None]) -> Iterator[SampledBatch]:
        done = 0
        for batch in sample_stock(pipe, prior, plan):
            done += len(batch.images)
            listen(done)
            yield batch

    facts = pipe.scheduler, plan.steps, plan.guidance_scale, spacing
    labels = None if plan.labels is None else list(plan.labels)
    return Job(list(plan.seeds), labels, begin, prior, *facts, request.as_float, sampling_rate(pipe))


def _find_prior(request: SampleRequest, folder: Path, chosen: StartSpec | None) -> Prior | None:
    """The prior, at the timestep and with the options that are asked for; None for white noise at T."""
    if request.prior == "none":
        rule = "left out without a prior"
        require(request.timestep is None, "--timestep", rule, f"{request.timestep or 0:g}")
        return None
    beside = folder / "prior"
    if request.prior is None:
        hint = "`otprior fit` makes one; none starts from white noise at T"
        there = (beside / "config.json").is_file()
        require(there, "--prior", "given: there is none in the model's folder", "nothing", hint)
    prior = load_prior(beside if request.prior is None else request.prior)
    timestep = request.timestep
    if chosen is not None:
        prior = with_options(prior, chosen)
        timestep = float(chosen.start_timestep) if timestep is None else timestep
    return prior if timestep is None else prior.at(timestep)


def _plan(
    request: SampleRequest,
    numbers: list[int],
    pipe: Any,
    prior: Prior | None,
    chosen: StartSpec | None,
    spacing: str | None,
) -> StockPlan:
    """What is sampled; codes stand for all seeds, but for given ones, and guidance for that of the settings."""
    from otprior.sampling.schedulers.start import find_origin
    from otprior.sampling.stock import StockPlan

    steps = request.steps or (DEFAULT_STEPS if chosen is None else chosen.steps)
    fitted = () if chosen is None else chosen.grid
    guidance = request.guidance_scale
    if guidance is None and chosen is not None:
        guidance = chosen.guidance
    plan = StockPlan(
        numbers,
        steps,
        request.batch_size,
        negative_prompt=request.negative_prompt,
        guidance_scale=guidance,
        height=request.height,
        width=request.width,
        frames=request.frames,
        raw=request.as_float,
        timesteps=own_grid(spacing, find_origin(pipe.scheduler, prior), steps, fitted),
    )
    if request.codes is not None:
        plan = _with_codes(plan, request)
    cycle = request.prompt or None
    prompts = None if cycle is None else [cycle[seed % len(cycle)] for seed in plan.seeds]
    return replace(plan, prompts=prompts, labels=request.labels(list(plan.seeds)))


def _with_codes(plan: StockPlan, request: SampleRequest) -> StockPlan:
    """A plan that starts from codes."""
    from otprior.diffusion.codes import Codes

    z = Codes.load(Path(str(request.codes))).seed_noise()
    numbers = list(range(len(z))) if request.seeds is None else list(plan.seeds)
    require(numbers[-1] < len(z), "seeds", f"numbers of the {len(z):,} codes, from 0 on", numbers[-1])
    return replace(plan, seeds=numbers, latents=z[numbers])


def _silence_transformers() -> None:
    """Keeps the library of text encoders, where it is installed, from speaking of what is no concern here."""
    if importlib.util.find_spec("transformers") is not None:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
