"""What `otprior app` does: the same seeds under the full sampler and each start, as `otprior fit` and `sample` do it.

Nothing is computed here: a kind of prior is fitted by `fit_prior`, images are sampled by the job that `otprior sample`
finds for a settings file, copies are found by `otprior.metrics`, and the prior error is the audit's. So the commands
that the page shows make the same images.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.cli.app import is_kind
from otprior.cli.fit_prior import FitRequest, fit_prior, read_fitted_images
from otprior.cli.inputs import (
    BUNDLED,
    NETWORKS,
    check_data,
    check_model,
    check_prior,
    find_model,
    is_stock_model,
    load_data,
    load_prior,
)
from otprior.cli.progress import ProgressListener, progress_bar, progress_told_to
from otprior.cli.sample_jobs import Job, SampleRequest, find_job, report
from otprior.data import ImageSet, bundled
from otprior.data.images import to_pixels, to_uint8
from otprior.data.samples import SampleWriter, diverged
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error.audit import AuditRequest, default_timesteps, run_audit
from otprior.experiments.own_sampler import white_noise
from otprior.experiments.starts import read_starts
from otprior.metrics.copying import Atoms, copy_mask
from otprior.priors import find_prior
from otprior.report.audit.record import Audit
from otprior.sampling import StartSpec
from otprior.sampling.folders import own_scheduler
from otprior.sampling.settings import write_settings
from otprior.utils.files import write_json
from otprior.utils.validation import require

# So many images are fitted to at first, which takes seconds.
FEW_IMAGES = 2000
FULL_STEPS, FULL_SAMPLER = 100, "full-sampler"
MOST_SEEDS = 24
# Kinds whose errors every audit has.
AUDITED = ("none", "identity", "gaussian")
# Draws of p_t that the data's own flow carries, for the upper bounds of the prior error.
DRAWS = 16


@dataclass(frozen=True)
class Choice:
    """What is chosen on the page.

    Attributes:
        model: A diffusers folder, a name on the hub, or "bundled".
        starts: Kinds of priors, "none", or folders of priors.
        data: Training images, or "" if none are named.
        limit: How many of them priors are fitted to; None for all.
        timestep: t*.
        steps: K.
        noise: Of starts that have the option.
        correlation: ρ, for coupled noise of starts that have the option.
        seeds: As `otprior sample` takes them.
        full_steps: Steps of the full sampler.
        labels, prompt, guidance: As `otprior sample` takes them; "" and None for nothing.
    """

    model: str
    starts: tuple[str, ...]
    data: str
    limit: int | None
    timestep: float
    steps: int
    noise: str = "coupled"
    correlation: float = 1.0
    seeds: str = "0-3"
    full_steps: int = FULL_STEPS
    labels: str = ""
    prompt: str = ""
    guidance: float | None = None

    @classmethod
    def first(cls, bench: Workbench, model: str, starts: tuple[str, ...], data: str | None) -> Choice:
        """What the page begins with: for the bundled model, the settings that were chosen for it."""
        steps, rho, chosen = 5, 1.0, bundled.settings() if model == BUNDLED else {}
        timestep = bench.usual_timestep(model)
        if chosen:
            row = StartSpec.from_json(chosen["rows"]["coupled_5"])
            timestep, steps, rho = float(row.start_timestep), row.steps, row.correlation
        known = data or (BUNDLED if model in NETWORKS else "")
        return cls(model, starts, known, FEW_IMAGES, timestep, steps, correlation=rho)

    def check(self) -> None:
        """Looks at the paths and numbers, before any work.

        Raises:
            FileNotFoundError: If nothing is at a path.
            ValueError: If a number is out of range, or kinds of priors are to be fitted to nothing.
        """
        check_model(self.model)
        for name in self.starts:
            if not is_kind(name):
                check_prior(name)
            elif name != "none":
                rule = f"given: a {name} prior is fitted to them"
                require(bool(self.data), "training images", rule, "nothing")
        if self.data:
            check_data(self.data, "training images")
        require(
            len(self.request("none").numbers()) <= MOST_SEEDS,
            "seeds",
            f"at most {MOST_SEEDS} here",
            self.seeds,
        )

    def request(self, prior: str, **changed: Any) -> SampleRequest:
        """What `otprior sample` would be given."""
        # (A pipeline with prompts is heard from once a batch, and its images are large.)
        nothing = SampleRequest(
            self.model, prior, self.seeds, None, None, None, None, None, None, [self.prompt] if self.prompt else None,
            None, self.labels or None, self.guidance, None, None, None, None, None, 1 if self.prompt else 64, False,
            "float32",
        )  # fmt: skip
        return replace(nothing, **changed)

    def spec(self, kind: str, own: Any) -> StartSpec:
        """The start from a kind of prior, with those of the options that it has, for a network of this scheduler."""
        declared = find_prior(kind).Options.declared()
        given = {"noise": self.noise, "correlation": self.correlation if self.noise == "coupled" else 1.0}
        options = "".join(f":{name}={value}" for name, value in given.items() if name in declared)
        (start,) = read_starts(f"{kind}:t={self.timestep!r}{options}@{self.steps}", own)
        return start


@dataclass(frozen=True, eq=False)
class Nearest:
    """The training images nearest to samples: pixels, numbers among the data, distances, and which are copied."""

    images: Tensor
    index: list[int]
    distances: list[float]
    copied: list[bool]


@dataclass(frozen=True, eq=False)
class Result:
    """The images of one start.

    Attributes:
        label: What the page calls it.
        seeds: One an image.
        images: Shape (n, C, H, W), as 8-bit files hold them, in [-1, 1].
        nfe: Network evaluations an image.
        seconds: Time an image.
        nearest: Their nearest training images, if some are known.
        folder: As `otprior sample` writes it.
        settings: The settings file, if the start is made from a prior.
        commands: What makes the same images.
        warning: What is wrong with the images, or "".
    """

    label: str
    seeds: list[int]
    images: Tensor
    nfe: int
    seconds: float
    nearest: Nearest | None
    folder: Path
    settings: Path | None
    commands: tuple[str, ...]
    warning: str = ""


class Workbench:
    """Samples starts, and keeps what was fitted and read.

    Arguments:
        folder: For what is written.
        device: Where to compute.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self._fitted: dict[tuple[Any, ...], Path] = {}
        self._training: dict[tuple[Any, ...], tuple[ImageSet, Atoms]] = {}
        self._full: tuple[Any, Result] | None = None
        self._runs = 0

    def scheduler(self, model: str) -> Any:
        """The scheduler of a model."""
        check_model(model)
        return own_scheduler(find_model(model))

    def schedule(self, model: str) -> NoiseSchedule:
        """The forward process of a model."""
        return NoiseSchedule.from_scheduler(self.scheduler(model))

    def usual_timestep(self, model: str) -> float:
        """t* where starts are usually made for a model."""
        return float(find_prior("semidiscrete").usual_timestep(self.schedule(model)))

    def run(self, choice: Choice, listen: ProgressListener) -> Iterator[Result]:
        """Each start, then the full sampler, on the same seeds.

        Arguments:
            choice: What was chosen.
            listen: Told of the progress; what it raises ends the work.

        Raises:
            FileNotFoundError, ValueError: If something that was chosen is missing or wrong.
        """
        choice.check()
        own = self.scheduler(choice.model)
        # (What is wrong with one is said before any work.)
        specs = {name: _spec(choice, name, own) for name in choice.starts if name != "none"}
        self._runs += 1
        folder = self.folder / "runs" / str(self._runs)
        folder.mkdir(parents=True)
        shutil.rmtree(folder.with_name(str(self._runs - 2)), ignore_errors=True)
        for place, name in enumerate(choice.starts):
            with progress_told_to(listen):
                if name == "none":
                    label = f"N(0, I) at T, {choice.steps} steps"
                    result = self._white(choice, own, choice.steps, label, folder / "none")
                else:
                    result = self._start(choice, specs[name], name, folder, place)
            yield result
        # (It takes longest.)
        with progress_told_to(listen):
            full = self._full_sampler(choice, own, folder)
        yield full

    def _full_sampler(self, choice: Choice, scheduler: Any, folder: Path) -> Result:
        """The full sampler's images, which only some of the choices change."""
        steps = choice.full_steps
        key = replace(choice, starts=(), limit=None, timestep=0.0, steps=0, noise="", correlation=1.0)
        if self._full is not None and self._full[0] == key:
            kept = self._full[1]
            shutil.copytree(kept.folder, folder / kept.folder.name)
            return replace(kept, folder=folder / kept.folder.name)
        label = f"full sampler: N(0, I) at T, {steps} steps"
        own = self._white(choice, scheduler, steps, label, folder / FULL_SAMPLER)
        shutil.copytree(own.folder, self.folder / own.folder.name, dirs_exist_ok=True)
        self._full = key, replace(own, folder=self.folder / own.folder.name)
        return own

    def _white(self, choice: Choice, own: Any, steps: int, label: str, out: Path) -> Result:
        given: dict[str, Any] = {"steps": steps}
        # (A pipeline that is called as its own class keeps its scheduler and spacing.)
        if not is_stock_model(choice.model):
            start = white_noise(own, steps)
            given |= {"scheduler": start.scheduler, "spacing": start.spacing}
        options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        return self._sample(choice, choice.request("none", **given), label, out, ["none", *options])

    def _start(self, choice: Choice, start: StartSpec, name: str, folder: Path, place: int) -> Result:
        fitted, words = self._fit(choice, name) if is_kind(name) else (Path(name), [])
        out = folder / f"{place + 1}-{start.prior}"
        settings = folder / f"settings-{out.name}.json"
        write_settings(settings, {start.prior: start}, "nothing: by hand", "otprior app")
        prior = name if not is_kind(name) else f"prior-{out.name}"
        shown = [prior, "--settings", settings.name]
        made = (shlex.join([*words, "--out", prior]),) if words else ()
        result = self._sample(
            choice, choice.request(str(fitted), settings=settings), f"{start.label} steps", out, shown
        )
        return replace(result, settings=settings, commands=(*made, *result.commands))

    def _fit(self, choice: Choice, name: str) -> tuple[Path, list[str]]:
        """The folder of a prior of this kind, fitted unless it was before; and the words of `otprior fit`."""
        kind, given = find_prior(name), {}
        if choice.noise == "whitened" and "noise" in kind.Options.declared():
            given["noise"] = "whitened"
        key = (choice.model, choice.data, choice.limit, name, *given)
        if key not in self._fitted:
            out = self.folder / "priors" / str(len(self._fitted))
            shutil.rmtree(out, ignore_errors=True)  # (of a fit that was stopped)
            out.mkdir(parents=True)
            fit_prior(self._fit_request(choice, name, given, out), out, None, str(self.device))
            self._fitted[key] = out
        words = ["otprior", "fit", choice.model, choice.data, "--prior", name]
        words += [] if choice.limit is None else ["--limit", str(choice.limit)]
        return self._fitted[key], words + [f"--{name}={value}" for name, value in given.items()]

    def _fit_request(self, choice: Choice, name: str, given: dict[str, Any], out: Path) -> FitRequest:
        return FitRequest(
            choice.model, choice.data, out, name, given, None, None, None, False, False, choice.limit,
            "auto", None, 0, True, {"adapt": True},
        )  # fmt: skip

    def _sample(
        self, choice: Choice, request: SampleRequest, label: str, out: Path, words: list[str]
    ) -> Result:
        """Samples the images of a start into `out`, and finds the nearest training images."""
        request.check()
        out.mkdir()
        job = find_job(request, self.device, drawn=True)
        batches, nfe, seconds = self._batches(job, label, out)
        write_json(out / "report.json", report(job, request.recorded(job.steps), nfe, seconds))
        pixels = to_pixels(to_uint8(batches))
        command = ["otprior", "sample", choice.model, "--prior", *words, "--seeds", choice.seeds]
        for option, value in (("--prompt", choice.prompt), ("--class-labels", choice.labels)):
            command += [option, value] if value else []
        command += [] if choice.guidance is None else ["--guidance-scale", f"{choice.guidance:g}"]
        wrong = diverged(batches)
        return Result(
            label, job.seeds, pixels, nfe, seconds / len(job.seeds), self._nearest(choice, pixels), out, None,
            (shlex.join([*command, "--out", out.name]),),
            "" if wrong is None else f"{wrong}: the sampler seems to have diverged",
        )  # fmt: skip

    def _batches(self, job: Job, label: str, out: Path) -> tuple[Tensor, int, float]:
        """All images of a job, written into `out`; network evaluations an image, and seconds of sampling."""
        require(job.rate is None, "model", "one of images: sounds cannot be shown here", "one of sounds")
        writer, images, nfe, seconds, total = (
            SampleWriter(out, job.seeds, True, False),
            [],
            0,
            0.0,
            len(job.seeds),
        )
        with progress_bar(f"sampling, {label}") as bar:
            for batch in job.begin(lambda done: bar.update(done, total, f"{int(done)} of {total} images")):
                rule = "one of images: films cannot be shown here"
                require(batch.images.ndim == 4, "model", rule, "one of films")
                writer.add(batch.images, batch.sources)
                images.append(batch.images)
                nfe, seconds = batch.nfe, seconds + batch.seconds
        writer.finish(job.labels)
        return torch.cat(images), nfe, seconds

    def _nearest(self, choice: Choice, images: Tensor) -> Nearest | None:
        if not choice.data:
            return None
        channels, height, width = images.shape[1:]
        key = (choice.data, (channels, height, width))
        if key not in self._training:
            with progress_bar("reading the training images"):
                found = load_data(choice.data, key[1])
                self._training = {key: (found, Atoms.build(found.images))}
        data, atoms = self._training[key]
        distances, index = atoms.nearest(images, 2)
        nearest = index[:, 0]
        copied = copy_mask(distances).tolist()
        return Nearest(data.images[nearest], nearest.tolist(), distances[:, 0].tolist(), copied)

    def error(self, choice: Choice, listen: ProgressListener) -> Audit:
        """The error of N(0, I), of a gaussian and of each chosen prior at about ten t*, for the data fitted to.

        Raises:
            FileNotFoundError, ValueError: If something that was chosen is missing or wrong.
        """
        choice.check()
        require(bool(choice.data), "training images", "given: the error is that for their law", "nothing")
        with progress_told_to(listen), progress_bar("reading the images") as bar:
            own = self.scheduler(choice.model)
            asked = self._fit_request(choice, "gaussian", {}, self.folder)
            scheduler, images = read_fitted_images(asked, self.device)
            priors = {}
            for name in (name for name in choice.starts if name not in AUDITED):
                prior = load_prior(self._fit(choice, name)[0] if is_kind(name) else name)
                start = choice.spec(prior.kind, own)
                prior = prior.derive(prior, prior.timestep, dict(start.options))
                priors[name] = prior
            request = AuditRequest(
                scheduler=scheduler,
                name=choice.model,
                data=images,
                priors=priors,
                timesteps=tuple(default_timesteps(NoiseSchedule.from_scheduler(own))),
                draws=DRAWS,
            )
            return run_audit(request, lambda stage, done, total: bar.update(done, total or None, "", stage))


def _spec(choice: Choice, name: str, own: Any) -> StartSpec:
    """The start from a kind of prior, or from a prior's folder."""
    return choice.spec(name if is_kind(name) else load_prior(name).kind, own)
