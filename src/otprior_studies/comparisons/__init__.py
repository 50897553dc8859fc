"""The bundled studies, one file each; `docs/studies.md` says what they answer.

`chosen` holds the demo and the headline on settings that were chosen before; the others choose on validation images
first and measure on the reference images then. `preset` says what a study of several stages is made of, `subject` of
which network and images, `spacings` and `matching` are stages that several share. `anew` is the headline on another
subject than the bundled one.
"""

from otprior.experiments.chosen import (
    SHORT_NAMES,
    demo,
    headline,
    settings_rows,
    short_name,
)
from otprior_studies.comparisons import (
    baselines,
    better_priors,
    conditional,
    frontier,
)
from otprior_studies.comparisons.stages import (
    Preset,
    Scale,
    Stages,
    run_headline,
)
from otprior_studies.comparisons.subject import Subject

__all__ = [
    "PRESETS",
    "SHORT_NAMES",
    "Preset",
    "Scale",
    "Stages",
    "Subject",
    "demo",
    "headline",
    "settings_rows",
    "short_name",
]

# What `otprior compare --preset` offers.
PRESETS = {
    "headline": Preset(run_headline, samples=4000, seed_sets=5, precision="float32"),
    "baselines": Preset(baselines.run),
    "conditional": Preset(conditional.run),
    "better-priors": Preset(better_priors.run),
    "frontier": Preset(frontier.run),
}
