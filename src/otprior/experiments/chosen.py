"""The demo, and settings that were chosen on the validation images.

Those of the bundled network are in `settings.json`: `scripts/choose_settings.py` chose them and says how. Those of the
network that is good by class are in `settings-by-class.json`, with the commands that chose them.
"""

from __future__ import annotations

from dataclasses import replace

from otprior.data import bundled
from otprior.experiments.comparison import BUNDLED, Comparison
from otprior.sampling.start_spec import StartSpec

SHORT_NAMES = {
    "DPMSolverMultistepScheduler": "DPM++2M",
    "UniPCMultistepScheduler": "UniPC",
    "DEISMultistepScheduler": "DEIS",
}


def chosen_starts(network: str = BUNDLED) -> dict[str, StartSpec]:
    """The chosen starts of a bundled network by name: "coupled_5", "none_10", …; "whitened_5" of the one by class."""
    return {name: StartSpec.from_json(values) for name, values in bundled.settings(network)["rows"].items()}


def demo(quick: bool = False, samples: int | None = None) -> Comparison:
    """The main job on the bundled network that is good by class: the chosen starts in 5 and 3 evaluations, and rivals.

    Rows have four sets of `samples` images, as intervals over sets are far narrower than those over blocks of one set.
    `quick` is a rehearsal of one small set on a tenth of the atoms: its figures mean nothing.
    """
    network = "bundled-by-class"
    rows = chosen_starts(network)
    best = rows["whitened_5"]
    # Rivals differ from the one in 5 in what they begin with, and in nothing else.
    rivals = {
        "mixture": best.with_prior("mixture"),
        "gaussian": best.with_prior("gaussian"),
        "coupled": best.with_options(noise="coupled"),
        "frozen (DPM-OT's map)": best.with_options(noise="frozen"),
    }
    end = best.label.split(", ", 1)[1]
    others = [replace(start, label=f"{name}, {end}") for name, start in rivals.items()]
    white = [rows[name] for name in ("none_5", "none_10", "none_20")]
    starts = (best, rows["mixture_3"], *others, *white)
    if quick:
        return Comparison("demo --quick", starts, samples or 50, model=network, atoms=1000, tol=0.2, block=50)
    return Comparison("demo", starts, samples or 250, seed_sets=4, model=network)


def short_name(scheduler: str) -> str:
    """A scheduler class's name as people say it."""
    return SHORT_NAMES.get(scheduler, scheduler.removesuffix("Scheduler").removesuffix("Multistep"))
