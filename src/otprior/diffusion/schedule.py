r"""Noise schedules: the signal and noise scales of a forward process.

A forward process takes a clean image x_0 to x_t = α_t x_0 + σ_t ε, ε ~ N(0, I). Three families occur:

- VP (variance preserving): α² + σ² = 1, given by a table of ᾱ_t = α_t² at the integer timesteps 0..T−1;
- VE (variance exploding): α = 1;
- flow matching: α = 1 − σ, σ = t/T.

Any other is given by a table of (α_t, σ_t).

The one quantity that schedules share is the log signal-to-noise ratio log_snr = log(α²/σ²). It falls
strictly as noise grows, so it names a moment of the process whatever units its timesteps are in.

References:
    Kingma, Salimans, Poole & Ho, "Variational diffusion models" (2021), https://arxiv.org/abs/2107.00630
    Karras, Aittala, Aila & Laine, "Elucidating the design space of diffusion-based generative models"
    (2022), https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from otprior.utils.validation import check_choice, check_integer, check_number, invalid, require

Number = TypeVar("Number", float, Tensor)

# Schedulers of VE networks after Karras et al.: the network takes c_noise = log(σ)/4.
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_FLOW = tuple(
    f"Flow{name}Scheduler"
    for name in ("MatchEulerDiscrete", "MatchHeunDiscrete", "MatchLCM", "MapEulerDiscrete")
)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    r"""The forward process x_t = α_t x_0 + σ_t ε, in float64.

    A table of log_snr at increasing timesteps is kept and interpolated: exact at the table's timesteps,
    linear in t between them, hence strictly decreasing and invertible. (Towards an entry of exactly zero
    SNR, where log_snr is −inf, the ratio α/σ is what is linear.) A flow-matching schedule is in closed form. One that
    was given by its scales is linear in them.

    Build one with `from_scheduler`, or with `vp`, `ve`, `edm`, `flow`, `from_scales`.

    Arguments:
        kind: "vp", "ve", "flow" or "scales".
        times: Timesteps of the table, shape (n,), increasing, in the units of the network.
        log_snrs: log(α²/σ²) at those, shape (n,), strictly decreasing; the last may be −inf.
        discrete: Whether the network was trained at the integers of the table only.
        scales: α and σ at those timesteps, shape (2, n), of kind "scales"; else None.

    Raises:
        ValueError: If the table has fewer than two timesteps, or does not decrease.

    Examples:
        >>> schedule = NoiseSchedule.from_scheduler(scheduler)
        >>> round(schedule.alpha(500), 3), schedule.timestep(schedule.log_snr(500))
        (0.279, 500.0)
    """

    kind: str
    times: Tensor
    log_snrs: Tensor
    discrete: bool
    scales: Tensor | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("vp", "ve", "flow", "scales"))
        require(len(self.times) >= 2, "schedule", "at least two timesteps long", len(self.times))
        falls = bool((self.log_snrs[1:] < self.log_snrs[:-1]).all())
        require(
            falls, "schedule", "strictly less signal at every later timestep", "a step that adds no noise"
        )

    @classmethod
    def vp(cls, alphas_cumprod: Tensor | Sequence[float]) -> NoiseSchedule:
        """A variance-preserving process with α_t² = `alphas_cumprod`[t] at t = 0..T−1, shape (T,).

        Raises:
            ValueError: If an entry is not in [0, 1), or they do not decrease.
        """
        table = torch.as_tensor(alphas_cumprod, device="cpu").detach().to("cpu", torch.float64)
        inside = bool(((table >= 0) & (table < 1)).all())
        require(inside, "alphas_cumprod", "in [0, 1)", f"[{float(table.min())}, {float(table.max())}]")
        times = torch.arange(len(table), dtype=torch.float64, device="cpu")
        return cls("vp", times, table.log() - torch.log1p(-table), discrete=True)

    @classmethod
    def ve(cls, sigmas: Tensor | Sequence[float]) -> NoiseSchedule:
        """A variance-exploding process with σ_t = `sigmas`[t] at t = 0..T−1, increasing, shape (T,).

        Raises:
            ValueError: If an entry is not positive, or they do not increase.
        """
        table = torch.as_tensor(sigmas, device="cpu").detach().to("cpu", torch.float64)
        require(bool((table > 0).all()), "sigmas", "positive", float(table.min()))
        return cls(
            "ve", torch.arange(len(table), dtype=torch.float64, device="cpu"), -2 * table.log(), discrete=True
        )

    @classmethod
    def edm(cls, sigma_min: float, sigma_max: float) -> NoiseSchedule:
        """A variance-exploding process whose timestep is Karras' c_noise, t = log(σ)/4: any real one.

        Source: Karras et al., 2022, https://arxiv.org/abs/2206.00364, table 1

        Raises:
            ValueError: Unless 0 < sigma_min < sigma_max.
        """
        require(0 < sigma_min < sigma_max, "sigma_min, sigma_max", "0 < min < max", (sigma_min, sigma_max))
        times = torch.tensor([sigma_min, sigma_max], dtype=torch.float64, device="cpu").log() / 4
        return cls("ve", times, -8 * times, discrete=False)

    @classmethod
    def flow(cls, num_train_timesteps: int) -> NoiseSchedule:
        """Flow matching: σ = t/T and α = 1 − t/T for real t in [0, T], T = `num_train_timesteps`.

        Source: Lipman et al., 2022, https://arxiv.org/abs/2210.02747

        Raises:
            ValueError: If the number is no integer of at least 1.
        """
        check_integer("num_train_timesteps", num_train_timesteps, 1)
        times = torch.tensor([0.0, num_train_timesteps], dtype=torch.float64, device="cpu")
        return cls(
            "flow",
            times,
            torch.tensor([math.inf, -math.inf], dtype=torch.float64, device="cpu"),
            discrete=False,
        )

    @classmethod
    def from_scales(
        cls,
        alpha: Tensor | Sequence[float],
        sigma: Tensor | Sequence[float],
        times: Tensor | Sequence[float] | None = None,
    ) -> NoiseSchedule:
        """Any process x_t = α_t x_0 + σ_t ε, by its scales at increasing times; linear in α and σ between them.

        Arguments:
            alpha: Signal scales α >= 0, shape (n,).
            sigma: Noise scales σ >= 0, shape (n,).
            times: What the network is told at those, shape (n,): any real time between is then one, too. By default
                0..n−1, the integers alone.

        Raises:
            ValueError: If lengths differ, times do not increase, a scale is negative, or σ/α does not increase.

        Examples:
            >>> t = torch.linspace(0, 1, 2)  # the rectified flow on [0, 1]
            >>> NoiseSchedule.from_scales(1 - t, t, times=t).log_snr(0.5)
            0.0
        """
        discrete = times is None
        when = range(len(alpha)) if times is None else times
        a, s, t = (torch.as_tensor(x, dtype=torch.float64).detach().cpu() for x in (alpha, sigma, when))
        sizes = (tuple(a.shape), tuple(s.shape), tuple(t.shape))
        require(a.ndim == 1 and len(set(sizes)) == 1, "alpha, sigma, times", "of one shape (n,)", sizes)
        require(bool((t[1:] > t[:-1]).all()), "times", "increasing", t.tolist()[:5])
        some = (a >= 0) & (s >= 0) & (a + s > 0) & a.isfinite() & s.isfinite()
        require(
            bool(some.all()), "alpha, sigma", "nonnegative, finite and not both zero", (a[~some], s[~some])
        )
        return cls("scales", t, 2 * (a.log() - s.log()), discrete, torch.stack([a, s]))

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> NoiseSchedule:
        """The forward process that a diffusers scheduler's network was trained on.

        It describes the *network*: Euler, Heun, LMS and KDPM2 run a VP network on x/α, but the process is the VP one
        of their betas, the same as under DDIM (sampling accounts for the samplers' scale). Exceptions are EDM
        schedulers, and Euler with continuous timesteps and v-prediction, whose networks take log(σ)/4: VE. A
        flow-matching network takes t = T σ, so its `shift` moves grids of timesteps but not the relation of t to σ.
        Where the config of a flow scheduler has a `sigma_max` above 1, as Cosmos 2 writes it, the process is EDM's.
        Betas may be of any shape. Rescaled to zero terminal SNR, the last timestep has α = 0 also where the scheduler
        puts 2⁻¹² there to keep its own divisions finite (with linear betas that is *more* signal than one timestep
        earlier).

        Arguments:
            scheduler: An instance of a diffusers scheduler.

        Raises:
            ValueError: If the scheduler describes none of the three families.
        """
        name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
        if name in _EDM or (name in _FLOW and (config.get("sigma_max") or 1.0) > 1):
            return cls.edm(config["sigma_min"], config["sigma_max"])
        if name in _FLOW or config.get("use_flow_sigmas"):
            inverted = bool(config.get("invert_sigmas"))
            require(not inverted, "scheduler", "one with invert_sigmas=False", f"{name} with True")
            return cls.flow(config["num_train_timesteps"])
        if name == "DDPMWuerstchenScheduler":
            times = torch.linspace(0, 1, 1001, dtype=torch.float64)
            kept = scheduler._alpha_cumprod(times, times.device)
            # (It is cut off at both ends.)
            inner = (kept < 0.9999) & (kept > 0.0001)
            return cls.from_scales(kept[inner].sqrt(), (1 - kept[inner]).sqrt(), times[inner])
        table = getattr(scheduler, "alphas_cumprod", None)
        if not isinstance(table, Tensor):
            raise invalid(
                "scheduler",
                "a VP, EDM or flow-matching scheduler of diffusers",
                name,
                "Describe its process with NoiseSchedule.vp, .ve, .edm, .flow or .from_scales.",
            )
        continuous = config.get("timestep_type") == "continuous"
        if continuous and config.get("prediction_type") == "v_prediction":
            ratios = ((1 - table.double()) / table.double()).sqrt()
            low, high = config.get("sigma_min"), config.get("sigma_max")
            return cls.edm(
                float(ratios[0]) if low is None else low, float(ratios[-1]) if high is None else high
            )
        if config.get("rescale_betas_zero_snr"):
            table = torch.cat([table[:-1], torch.zeros_like(table[-1:])])
        return cls.vp(table)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> NoiseSchedule:
        """Reads what `to_dict` wrote.

        Raises:
            ValueError: If it names no kind of schedule.
        """
        makers: dict[str, Callable[..., NoiseSchedule]] = {
            "vp": cls.vp,
            "ve": cls.ve,
            "edm": cls.edm,
            "flow": cls.flow,
            "scales": cls.from_scales,
        }
        facts = dict(facts)
        kind = facts.pop("kind", None)
        check_choice("schedule kind", kind, tuple(makers))
        return makers[kind](**facts)

    def to_dict(self) -> dict[str, Any]:
        """The arguments that rebuild this schedule, as JSON values."""
        if self.kind == "flow":
            return {"kind": "flow", "num_train_timesteps": self.num_train_timesteps}
        if self.kind == "vp":
            return {"kind": "vp", "alphas_cumprod": torch.sigmoid(self.log_snrs).tolist()}
        if self.scales is not None:
            alpha, sigma = self.scales.tolist()
            times = {} if self.discrete else {"times": self.times.tolist()}
            return {"kind": "scales", "alpha": alpha, "sigma": sigma, **times}
        sigmas = torch.exp(-self.log_snrs / 2).tolist()
        if self.discrete:
            return {"kind": "ve", "sigmas": sigmas}
        return {"kind": "edm", "sigma_min": sigmas[0], "sigma_max": sigmas[1]}

    @property
    def timestep_range(self) -> tuple[float, float]:
        """The cleanest and the noisiest timestep."""
        return float(self.times[0]), float(self.times[-1])

    @property
    def num_train_timesteps(self) -> int | None:
        """T of a discrete schedule (timesteps 0..T−1) or of a flow ([0, T]); None for EDM."""
        if self.discrete:
            return len(self.times)
        return int(self.times[-1]) if self.kind == "flow" else None

    def alpha(self, t: Number) -> Number:
        """Signal scale α_t at timestep `t` (a number, or a tensor of any shape)."""
        return _apply(self._alpha, t)

    def sigma(self, t: Number) -> Number:
        """Noise scale σ_t at timestep `t` (a number, or a tensor of any shape)."""
        return _apply(self._sigma, t)

    def log_snr(self, t: Number) -> Number:
        """log(α_t²/σ_t²) at timestep `t`; −inf where the signal is exactly zero."""
        return _apply(self._log_snr, t)

    def prior_scale(self, t: Number) -> Number:
        """s_t = √(α_t² + σ_t²), the scale of the usual white-noise start (1 for VP)."""
        return _apply(lambda x: torch.hypot(self._alpha(x), self._sigma(x)), t)

    def timestep(self, log_snr: Number) -> Number:
        """The timestep of a log-SNR: the inverse of `log_snr`, a real number in general.

        Raises:
            ValueError: If the process never has that log-SNR.
        """
        return _apply(self._timestep, log_snr)

    def check_timestep(self, t: float, name: str = "timestep") -> None:
        """Requires one timestep that the network knows: in range, and an integer if it is discrete.

        Raises:
            ValueError: If it is not.
        """
        t = check_number(name, t)
        self._check(torch.tensor([t], dtype=torch.float64, device="cpu"), name)
        require(not self.discrete or t.is_integer(), name, "an integer (this schedule is discrete)", t)

    def _check(self, t: Tensor, name: str = "timestep") -> None:
        low, high = self.timestep_range
        outside = t[~((t >= low) & (t <= high))]
        if outside.numel():
            raise invalid(
                name, f"in [{low:g}, {high:g}], the schedule's range", float(outside.reshape(-1)[0])
            )

    def _alpha(self, t: Tensor) -> Tensor:
        if self.kind == "flow":
            self._check(t)
            return 1 - t / self.times[-1]
        if self.scales is not None:
            return self._scale(self.scales[0], t)
        level = self._log_snr(t)
        return torch.ones_like(t) if self.kind == "ve" else torch.sigmoid(level).sqrt()

    def _sigma(self, t: Tensor) -> Tensor:
        if self.kind == "flow":
            self._check(t)
            return t / self.times[-1]
        if self.scales is not None:
            return self._scale(self.scales[1], t)
        level = self._log_snr(t)
        return torch.exp(-level / 2) if self.kind == "ve" else torch.sigmoid(-level).sqrt()

    def _log_snr(self, t: Tensor) -> Tensor:
        self._check(t)
        if self.kind == "flow":
            return 2 * (torch.log(self.times[-1] - t) - torch.log(t))
        if self.scales is not None:
            return 2 * (self._alpha(t).log() - self._sigma(t).log())
        i, weight = self._place(t)
        left, right = self.log_snrs[i], self.log_snrs[i + 1]
        # The end points are picked, not computed: 0 · inf is not a number.
        inner = torch.where(right.isinf(), left + 2 * torch.log1p(-weight), left + weight * (right - left))
        return torch.where(weight == 0, left, torch.where(weight == 1, right, inner))

    def _place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The interval of the table that t lies in, and how far along it."""
        i = (torch.searchsorted(self.times, t, right=True) - 1).clamp(0, len(self.times) - 2)
        return i, (t - self.times[i]) / (self.times[i + 1] - self.times[i])

    def _scale(self, table: Tensor, t: Tensor) -> Tensor:
        self._check(t)
        i, weight = self._place(t)
        return torch.lerp(table[i], table[i + 1], weight)

    def _timestep(self, level: Tensor) -> Tensor:
        noisiest, cleanest = float(self.log_snrs[-1]), float(self.log_snrs[0])
        # A level that came from another schedule's rounding may miss an end of the range by an ulp.
        slack = 1e-9
        outside = level[~((level >= noisiest - slack) & (level <= cleanest + slack))]
        if outside.numel():
            got = float(outside.reshape(-1)[0])
            raise invalid("log_snr", f"in [{noisiest:g}, {cleanest:g}], the schedule's range", got)
        level = level.clamp(noisiest, cleanest)
        if self.kind == "flow":
            return self.times[-1] * torch.sigmoid(-level / 2)
        i = (torch.searchsorted(-self.log_snrs, -level, right=True) - 1).clamp(0, len(self.times) - 2)
        if self.scales is not None:
            # α cos = σ sin at the angle of this level, which is finite at both ends.
            sine, cosine = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
            before, after = (self.scales[0][j] * cosine - self.scales[1][j] * sine for j in (i, i + 1))
            return torch.lerp(self.times[i], self.times[i + 1], before / (before - after))
        left, right = self.log_snrs[i], self.log_snrs[i + 1]
        inner = torch.where(right.isinf(), -torch.expm1((level - left) / 2), (left - level) / (left - right))
        weight = torch.where(level == left, 0.0, torch.where(level == right, 1.0, inner))
        return self.times[i] + weight * (self.times[i + 1] - self.times[i])


def _apply(function: Callable[[Tensor], Tensor], value: Number) -> Number:
    """Runs a function of float64 CPU tensors on a number (returns a float) or a tensor (its device)."""
    if isinstance(value, Tensor):
        return function(value.detach().to("cpu", torch.float64)).to(value.device)
    number = check_number("a timestep or log-SNR", value)
    return float(function(torch.tensor(number, dtype=torch.float64, device="cpu")))
