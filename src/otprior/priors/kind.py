"""What a prior says of itself, so that commands, comparisons, searches, reports and audits need not know it.

That is its name, its options, how it is fitted and how a start of other options is derived from a fitted one, where a
search for t* begins, and what a report says of it. So a new prior is one file; CONTRIBUTING says how to write it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from otprior.data.images import ImageSet
from otprior.data.streams import ImageStream
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors.data import as_schedule
from otprior.priors.options import PriorOptions
from otprior.utils.validation import invalid, require

if TYPE_CHECKING:
    from otprior.priors.base import Prior


class PriorKind:
    """The class-level half of `Prior`; each default suits a prior without options.

    Attributes:
        kind: Its name in options, settings files and reports; by default the class's name.
        Options: What can be chosen about it; see `otprior.priors.options`.
        usual_log_snr: Where t* is unless it is given; on the linear betas of DDPM, timestep 500.
        searched_log_snr: Where a search looks for t*, from "half signal" to "little left of it".
        made_from: The kind of the fitted prior that `derive` makes this one from; by default its own. A prior that is
            made from another is not fitted.
        fit_is_free: Whether fitting takes no time worth a report.
        streams: Whether `fit` without labels reads images block by block, once: it can be given an `ImageStream`.
        records_source: Whether it records where the images are from, and their licence.
        loadable: Whether `from_pretrained` finds it.
    """

    kind: ClassVar[str]
    Options: ClassVar[type[PriorOptions]] = PriorOptions
    usual_log_snr: ClassVar[float] = -2.47
    searched_log_snr: ClassVar[tuple[float, ...]] = (-1.0, -1.5, -2.0, -2.5, -3.0, -3.5, -4.0)
    made_from: ClassVar[str]
    fit_is_free: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    records_source: ClassVar[bool] = False
    loadable: ClassVar[bool] = True

    @classmethod
    def fit(cls, *args: Any, **options: Any) -> Self:
        """Fits a prior to images; each class has its own, which takes (data, schedule, timestep) and its options.

        Raises:
            TypeError: If priors of this class are made from others.
        """
        raise TypeError(f"a {cls.__name__} is not fitted to images; it is made from a {cls.made_from} prior")

    @classmethod
    def fit_with(
        cls,
        images: ImageSet | ImageStream,
        schedule: Any,
        timestep: float,
        options: Mapping[str, Any],
        **context: Any,
    ) -> Self:
        """Calls `fit`, whatever options and other arguments it has.

        Arguments:
            images: To fit to; with labels for a conditional prior.
            schedule: A `NoiseSchedule` or a diffusers scheduler.
            timestep: t*.
            options: Values of `Options`.
            **context: "generator", "progress", "checkpoints", "processes": handed to a `fit` that takes them.

        Raises:
            ValueError: If an option is not declared or not allowed, or if images are labelled and the prior takes none.
        """
        taken = {name: value for name, value in context.items() if cls.fit_takes(name)}
        if images.labels is not None:
            require(cls.fit_takes("labels"), "labels", f"None for a {cls.kind} prior", "given")
            taken["labels"] = images.labels
        return cls.fit(images, schedule, timestep, **cls.Options.make(options).changed(), **taken)

    @classmethod
    def fit_takes(cls, name: str) -> bool:
        """Whether `fit` has an argument of this name."""
        return name in inspect.signature(cls.fit).parameters

    @classmethod
    def fit_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the options that decide what is fitted; the others can be changed afterwards."""
        declared = cls.Options.declared()
        return {
            name: value for name, value in options.items() if name in declared and not declared[name].of_start
        }

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

    @classmethod
    def read_start(cls, schedule: Any, timestep: float | None) -> tuple[NoiseSchedule, float]:
        """The schedule and the timestep that `fit` was given, checked; None stands for `usual_timestep`.

        Arguments:
            schedule: A `NoiseSchedule` or a diffusers scheduler.
            timestep: t*, or None.

        Raises:
            ValueError: If the schedule has no such timestep.
        """
        found = as_schedule(schedule)
        t = cls.usual_timestep(found) if timestep is None else timestep
        found.check_timestep(t)
        return found, t

    @classmethod
    def derive(cls, fitted: Prior, timestep: float, options: Mapping[str, Any]) -> Prior:
        """The prior of these options at t*, from the fitted one of the kind `made_from`; nothing is fitted again.

        Arguments:
            fitted: Shares its tensors with the result.
            timestep: t*.
            options: Values of `Options`; those that are not of the start belong to the fit and have no effect here.
        """
        chosen = cls.Options.make(options).values()
        return fitted.with_options(**{name: chosen[name] for name in cls.Options.of_start()}).at(timestep)

    # What a search tries -------------------------------------------------------------------------------------

    @classmethod
    def searched_options(cls) -> list[dict[str, Any]]:
        """Options that a search begins with, each at every t* of `searched_log_snr`."""
        return [{}]

    @classmethod
    def nearby_options(cls, options: Mapping[str, Any]) -> list[tuple[dict[str, Any], float]]:
        """Pairs (options, change of t*'s log-SNR) to try near a good start, each different from it in one respect."""
        return []

    # What a report says --------------------------------------------------------------------------------------

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> str:
        """What a report calls such a start: "semidiscrete fresh". `options` may be a report's row."""
        return cls.kind.replace("_", " ")

    @classmethod
    def reported_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options as a comparison's rows have them, by their names there (`REPORTED`)."""
        return {}
