"""Stock pipelines with a prior attached: equal to loops written by hand from the same start, family by family."""

from __future__ import annotations

import copy
import functools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import STEPS, build, families, normal
from torch import Tensor

from otprior import attach, detach
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import GaussianPrior

FAMILIES = families()
CASES = [
    pytest.param(name, place, guided, id=f"{name}-{type(scheduler).__name__}-{'guided' * guided}")
    for name, family in FAMILIES.items()
    for place, scheduler in enumerate(family.schedulers())
    for guided in (False, True)
    if not guided or family.guided[0]
]
MIDDLE = {"vp": 500, "flow": 700.0, "ve": math.log(2.0) / 4}
# A float32 loop of three steps; of the largest entry.
TOLERANCE = 2e-5


@functools.cache
def fitted(name: str, place: int = 0) -> GaussianPrior:
    family = FAMILIES[name]
    schedule = NoiseSchedule.from_scheduler(family.schedulers()[place])
    data = 0.4 + 0.5 * normal(40, *family.shape, seed=11)
    return GaussianPrior.fit(data, schedule, MIDDLE[schedule.kind], value_range=None)


class Run:
    """One call of a pipeline: what its network was told, and the latents that it ended with."""

    def __init__(self, name: str, pipe: Any, guided: bool = False, **more: Any) -> None:
        family = FAMILIES[name]
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.latents = torch.empty(0)
        stock = pipe.scheduler.step

        @functools.wraps(stock)
        def step(*args: Any, **kwargs: Any) -> Any:
            out = stock(*args, **kwargs)
            self.latents = out[0] if isinstance(out, tuple) else out.prev_sample
            return out

        def see(_: Any, args: Any, kwargs: Any) -> None:
            self.calls.append((args, kwargs))

        pipe.scheduler.step = step
        self.network = getattr(pipe, "transformer", None) or pipe.unet
        hook = self.network.register_forward_pre_hook(see, with_kwargs=True)
        asked = family.guided[0] if guided else {}
        try:
            self.out = pipe(**{**family.call, **family.raw, **asked, family.steps: STEPS, **more})
        finally:
            hook.remove()
            del pipe.scheduler.step
        self.latents = self.latents[: family.batch]


@torch.no_grad()
def answers(run: Run, step: int, x: Tensor, told: float) -> list[Tensor]:
    """What the network says at a step to latents of our own, under the conditions that the pipeline gave it."""
    count = len(run.calls) // STEPS
    found = []
    for args, kwargs in run.calls[step * count : (step + 1) * count]:
        name = next((each for each in ("sample", "hidden_states") if each in kwargs), None)
        seen = args[0] if name is None else kwargs[name]
        rows = x.repeat(len(seen) // len(x), *(1,) * (x.ndim - 1)).to(seen.dtype)
        time = torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[1])
        assert float(time.reshape(-1)[0]) == pytest.approx(told, rel=1e-5)
        args = args if name is not None else (rows, *args[1:])
        out = run.network(*args, **(kwargs if name is None else {**kwargs, name: rows}))
        out = out[0] if isinstance(out, tuple) else out.sample
        found.append(out[:, : x.shape[1]] if out.shape[1] == 2 * x.shape[1] else out)
    return found


def by_hand(name: str, scheduler: Any, prior: Any, run: Run, z: Tensor, guided: bool) -> Tensor:
    """The latents after three steps of first order from T(z), written out."""
    family = FAMILIES[name]
    x = family.pack(prior(z))

    def answer(step: int, x: Tensor, told: float) -> Tensor:
        found = answers(run, step, x, told)
        if not guided:
            return found[0].float()
        assert family.combine is not None
        return family.combine(found, family.guided[1], family.batch)

    schedule = NoiseSchedule.from_scheduler(scheduler)
    if schedule.kind == "vp":
        told = [round((500 + 1) * (STEPS - k) / STEPS) - 1 for k in range(STEPS)]
        kept = [float(scheduler.alphas_cumprod[t]) for t in told] + [1.0]
        for k, t in enumerate(told):
            now, then = kept[k], kept[k + 1]
            noise = answer(k, x, family.told(t))
            clean = (x - math.sqrt(1 - now) * noise) / math.sqrt(now)
            x = math.sqrt(then) * clean + math.sqrt(1 - then) * noise
    elif schedule.kind == "flow":
        sigmas = [*flow_grid(name, scheduler), 0.0]
        for k in range(STEPS):
            x = x + (sigmas[k + 1] - sigmas[k]) * answer(k, x, family.told(1000 * sigmas[k]))
    else:
        ends = [2.0 ** (1 / 7), 0.002 ** (1 / 7)]
        sigmas = [(ends[0] + k / (STEPS - 1) * (ends[1] - ends[0])) ** 7 for k in range(STEPS)] + [0.0]
        for k in range(STEPS):
            s = sigmas[k]
            out = answer(k, x / math.sqrt(s**2 + 0.25), math.log(s) / 4)
            clean = 0.25 / (s**2 + 0.25) * x + s * 0.5 / math.sqrt(s**2 + 0.25) * out
            x = clean + sigmas[k + 1] / s * (x - clean)
    return x


def flow_grid(name: str, scheduler: Any) -> list[float]:
    """σ of three steps that before the shift are equal, from 0.7."""
    e = float(getattr(scheduler, "shift", scheduler.config.get("flow_shift", 1.0)))
    if scheduler.config.get("use_dynamic_shifting"):
        tokens = math.prod(FAMILIES[name].shape[1:]) // (1 if name == "LTX" else 4)
        e = math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))
    top = 0.7 / (e - (e - 1) * 0.7)
    us = [top * (STEPS - k) / STEPS for k in range(STEPS)]
    return [e * u / (1 + (e - 1) * u) for u in us]


def seed_noise(name: str, seed: int = 7) -> tuple[dict[str, Any], Tensor]:
    """Arguments that give a pipeline its seed, and the z that they mean."""
    family = FAMILIES[name]
    z = normal(family.batch, *family.shape, seed=seed)
    if family.seed is None:
        return {"generator": torch.Generator().manual_seed(seed)}, z
    return {family.seed: family.pack(z).clone()}, z


def apart(ours: Tensor, expected: Tensor) -> float:
    return float((ours.float() - expected.float()).abs().max() / expected.float().abs().max())


# Every family ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "place", "guided"), CASES)
def test_a_loop_by_hand_from_the_same_start(name: str, place: int, guided: bool) -> None:
    scheduler = FAMILIES[name].schedulers()[place]
    prior = fitted(name, place)
    pipe = attach(build(name, scheduler), prior)
    seed, z = seed_noise(name)
    run = Run(name, pipe, guided, **seed)
    assert len(run.calls) in (STEPS, 2 * STEPS)
    expected = by_hand(name, scheduler, prior, run, z, guided)
    assert run.latents.shape == expected.shape
    assert apart(run.latents, expected) < TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_a_generator_is_the_seed(name: str) -> None:
    # Each image has a generator; where a pipeline can be given latents, too, they are the noise that it draws.
    family = FAMILIES[name]
    pipe = attach(build(name, family.schedulers()[0]), fitted(name))
    drawn = Run(name, pipe, generator=torch.Generator().manual_seed(7)).latents
    again = Run(name, pipe, generator=torch.Generator().manual_seed(7)).latents
    assert torch.equal(drawn, again)
    if family.seed is not None:
        seed, _ = seed_noise(name)
        if name == "CogVideoX":  # (It draws frame by frame.)
            seed["latents"] = normal(*seed["latents"].shape, seed=7)
        assert apart(Run(name, pipe, **seed).latents, drawn) < TOLERANCE


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.seed == "latents"])
def test_half_precision(name: str) -> None:
    family = FAMILIES[name]
    seed = {"latents": seed_noise(name)[0]["latents"].bfloat16()}
    whole = {"latents": seed["latents"].float()}
    exact = Run(name, attach(build(name, family.schedulers()[0]), fitted(name)), **whole).latents
    pipe = build(name, family.schedulers()[0])
    for part in ("unet", "transformer", "projection_model"):
        if getattr(pipe, part, None) is not None:
            setattr(pipe, part, copy.deepcopy(getattr(pipe, part)).to(torch.bfloat16))
    attach(pipe, fitted(name))
    halves = {
        key: value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in family.call.items()
    }
    run = Run(name, pipe, **{**halves, **seed})
    # bfloat16 has three digits; these networks are random, and the start is most of what is left.
    assert apart(run.latents, exact) < 0.1
    assert bool(run.latents.isfinite().all())


@pytest.mark.parametrize("name", FAMILIES)
def test_detached_it_is_as_before(name: str) -> None:
    scheduler = FAMILIES[name].schedulers()[0]
    pipe = build(name, scheduler)
    seed, _ = seed_noise(name)
    before, kind = Run(name, pipe, **seed).latents, type(pipe)
    attach(pipe, fitted(name))
    assert isinstance(pipe, kind)
    assert type(pipe).__name__ == kind.__name__
    seed, _ = seed_noise(name)
    between = Run(name, pipe, **seed).latents
    assert not torch.allclose(between, before, atol=1e-3)
    assert detach(pipe) is pipe
    assert (type(pipe), pipe.scheduler) == (kind, scheduler)
    seed, _ = seed_noise(name)
    assert torch.equal(Run(name, pipe, **seed).latents, before)
    assert "_otprior" not in vars(pipe)
    assert not (getattr(pipe, "transformer", None) or pipe.unet)._forward_pre_hooks


def test_the_documented_table_is_what_is_tried() -> None:
    page = (Path(__file__).parents[1] / "docs" / "support.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+)", page, re.MULTILINE)
    assert rows == ["pipeline", *FAMILIES, "FluxInpaint", "StableDiffusionImg2Img"]
