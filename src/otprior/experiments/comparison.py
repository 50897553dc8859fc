"""What a comparison is: its starts, how many seeds, and what the samples are measured against."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otprior.experiments.sampling import Block, Samples, seed_blocks
from otprior.experiments.study import Part
from otprior.report import ReportRow
from otprior.sampling.start_spec import StartSpec, differing
from otprior.utils.hub import is_hub_name
from otprior.utils.validation import check_choice, check_integer, require

# Seeds on which a start's image is compared with the stored full flow's from the same seed.
AGREEMENT_SEEDS = 200
# A model or a feature extractor of this name is the one that comes with the package.
BUNDLED = "bundled"
# Of a start, in all sets of seeds: their blocks alone would fill memory.
MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Comparison:
    """What to compare, on how much.

    Images are named: "atoms" (the bundled training images), one of `bundled.SPLITS`, or a path.

    Attributes:
        name: A label for reports and folders.
        starts: The starts to compare.
        samples: Images of a start in one set of seeds.
        seed_sets: Sets of consecutive seeds; with two or more, intervals are over the sets.
        first_seed: The first seed of the first set.
        split: Images that quality is measured against.
        real_split: Real images that give the floor and the copying to be expected of new images.
        atoms: How many of the atoms to take, all by default: the first of the bundled ones, which are in no order, and
            a sample by `ImageSet.sample` of other images, which may be sorted by class.
        tol: χ² that the semi-discrete solve has to reach.
        precision: "float32", or "bfloat16" for autocast of the network.
        block: Images in one piece of work.
        flow: The full sampler, sampled on the same seeds, for seed agreement. By default seed agreement is measured
            with the stored images of the bundled network, if the first seed is 0.
        atoms_from: Images that priors are fitted to.
        copies_of: Images that could have been copied; by default the atoms. If named, no source rate is known.
        model: A diffusers folder, "owner/name" of the Hugging Face hub, "bundled" or "bundled-by-class".
        null_class_label: That network's label for no class; by default the one that its folder names.
        extractor: Folder of the feature extractor, or "bundled".
        value_range: Range of the pixels of images at a path; see `data.to_pixels`.
        mixture: Probability that two classes of a mixed image reach; 0 to measure no mixture.
        pictures: What is done to pictures at a path, by the arguments of `open_images`, as (name, value) pairs. By
            default larger ones are brought to the network's size.
        prompts: What images shall show, for a pipeline with prompts: seed s gets number s modulo their number.
        negative_prompt: What they shall not show, of such a pipeline.
        device: Where the network runs.
        variant: Which of several files of the model's weights, such as "fp16".

    Raises:
        ValueError: If a number is out of range, there is no start, or `value_range` is None.

    Examples:
        >>> starts = (StartSpec("none", 999, steps=20), StartSpec("mixture", 400, steps=5))
        >>> files = {"model": "path/to/ddpm", "atoms_from": "train.npz", "split": "test.npz"}
        >>> comparison = Comparison("mine", starts, samples=500, **files)
        >>> len(comparison.starts)
        2
    """

    name: str
    starts: tuple[StartSpec, ...]
    samples: int
    seed_sets: int = 1
    first_seed: int = 0
    split: str = "reference"
    real_split: str = "held_out"
    atoms: int | None = None
    tol: float = 0.05
    precision: str = "float32"
    block: int = 125
    flow: StartSpec | None = None
    atoms_from: str = "atoms"
    copies_of: str | None = None
    model: str = BUNDLED
    null_class_label: int | None = None
    extractor: str = BUNDLED
    value_range: Any = "auto"
    mixture: float = 0.0
    pictures: tuple[tuple[str, Any], ...] = (("adapt", True),)
    prompts: tuple[str, ...] = ()
    negative_prompt: str | None = None
    device: str = "cpu"
    variant: str | None = None

    def __post_init__(self) -> None:
        check_integer("samples", self.samples, 12, MOST_SAMPLES)
        check_integer("seed_sets", self.seed_sets, 1, MOST_SAMPLES // self.samples)
        require(0 < self.tol < math.inf, "tol", "a positive number", self.tol)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        require(len(self.starts) > 0, "starts", "at least one", 0)
        rule = "a range of pixels: samples are measured as 8-bit images, which latents are not"
        require(self.value_range is not None, "value_range", rule, None)

    @property
    def sampled_starts(self) -> tuple[StartSpec, ...]:
        """The starts, and the full sampler if there is one that is not among them."""
        known = {start.key for start in self.starts}
        return self.starts if self.flow is None or self.flow.key in known else (*self.starts, self.flow)

    def first_of(self, seed_set: int) -> int:
        """The first seed of a set."""
        return self.first_seed + seed_set * self.samples

    def blocks(self, start: StartSpec, folder: Path, seed_set: int) -> list[Block]:
        """A start's blocks of a set of seeds, below the folder of images."""
        return seed_blocks(
            start, folder, self.first_of(seed_set), self.first_of(seed_set + 1), self.block, digits=9
        )

    def settings(self) -> dict[str, Any]:
        """All fields but the starts, as JSON; fields that were added later only where they are not at their default."""
        later = (
            "flow",
            "atoms_from",
            "copies_of",
            "model",
            "null_class_label",
            "extractor",
            "value_range",
            "mixture",
            "pictures",
            "prompts",
            "negative_prompt",
            "device",
            "variant",
        )
        facts = differing(self, later)
        # Names of files, not where they lie: work folders may be moved, reports are shared.
        for name in {"split", "real_split", "atoms_from", "copies_of", "model", "extractor"} & set(facts):
            facts[name] = facts[name] if is_hub_name(facts[name]) else Path(facts[name]).name
        facts = {name: value for name, value in facts.items() if name not in ("starts", "flow")}
        return json.loads(json.dumps(facts))  # (a pair would come back from a file as a list)


@dataclass(frozen=True)
class ComparisonResult(Part):
    """A report, the images that go with it, and the figures of each start and set of seeds.

    Attributes:
        sets: Figures by the start's key, one dict a set of seeds.
        comparison: What was run.
        work: Where its pieces are.
    """

    sets: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    comparison: Comparison | None = field(default=None, repr=False)
    work: Path | None = field(default=None, repr=False)

    @property
    def asked(self) -> Comparison:
        """What was run; a report that was joined from several comparisons has none."""
        assert self.comparison is not None
        return self.comparison

    def row(self, start: StartSpec) -> ReportRow:
        """The report's row of a start."""
        return self.report.rows[[each.key for each in self.asked.starts].index(start.key)]

    def samples(self, start: StartSpec, seed_set: int = 0) -> Samples:
        """The samples of a start's set of seeds, read from the work folder."""
        assert self.work is not None
        return Samples.read(self.asked.blocks(start, self.work / "images", seed_set))
