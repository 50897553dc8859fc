"""The demo, with settings that were chosen on the validation images.

The settings are in `settings.json` of the bundled network; `scripts/choose_settings.py` chose them and says how.
"""

from __future__ import annotations

from dataclasses import replace

from otprior.data import bundled
from otprior.experiments.comparison import Comparison
from otprior.sampling.start_spec import StartSpec

SHORT_NAMES = {
    "DPMSolverMultistepScheduler": "DPM++2M",
    "UniPCMultistepScheduler": "UniPC",
    "DEISMultistepScheduler": "DEIS",
}


def chosen_starts() -> dict[str, StartSpec]:
    """The chosen starts by name: "coupled_5", "coupled_3", "none_5_dpm", …, "none_10", "none_20"."""
    return {name: StartSpec.from_json(values) for name, values in bundled.settings()["rows"].items()}


def demo(quick: bool = False, samples: int | None = None) -> Comparison:
    """The main job on bundled data: the coupled start in 3 and 5 evaluations, and its rivals.

    `quick` is a rehearsal on a tenth of everything (but for `samples`, if they are given): its figures mean nothing.
    """
    rows = chosen_starts()
    coupled = rows["coupled_5"]
    # The rivals differ from the coupled start in what they begin with, and in nothing else.
    same = coupled.with_prior(coupled.prior)
    start = f"t* = {coupled.start_timestep}"
    # (A mixture is at its best at its own t*, that of `MixturePrior.fit`.)
    others = [
        replace(same, prior="mixture", start_timestep=400, label="mixture, t* = 400"),
        replace(same, prior="gaussian", label=f"gaussian, {start}"),
        replace(same, prior="identity", label=f"identity, {start}"),
        replace(same.with_options(noise="frozen"), label=f"frozen (DPM-OT's map), {start}"),
        replace(same, prior="random_atom", label=f"random image + fresh noise, {start}"),
    ]
    white = [rows[name] for name in ("none_5_dpm", "none_5_unipc", "none_5_deis", "none_10", "none_20")]
    study = Comparison(
        "demo", (rows["coupled_3"], coupled, *others, *white), samples or (50 if quick else 500)
    )
    if quick:
        study = replace(study, name="demo --quick", atoms=1000, tol=0.2, block=50)
    return study


def short_name(scheduler: str) -> str:
    """A scheduler class's name as people say it."""
    return SHORT_NAMES.get(scheduler, scheduler.removesuffix("Scheduler").removesuffix("Multistep"))
