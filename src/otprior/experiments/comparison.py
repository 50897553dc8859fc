"""What a study is: its rows, how many seeds, and what they are measured against."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otprior.experiments.sampling import Block, Samples
from otprior.report import ReportImages
from otprior.sampling.start_spec import StartSpec, differing
from otprior.utils.validation import check_choice, check_integer, require

# Seeds on which a start's image is compared with the stored full flow's from the same seed.
AGREEMENT_SEEDS = 200
# As many images as are bundled.
USUAL_ATOMS = 10_000


@dataclass(frozen=True)
class Comparison:
    """What to compare, on how much.

    Images are named: "atoms" (the bundled training images), one of `bundled.SPLITS`, or a path.

    Attributes:
        name: For people.
        rows: The starts.
        samples: Images of a row in one set of seeds.
        seed_sets: Sets of consecutive seeds; with two or more, intervals are over the sets.
        first_seed: The first seed of the first set.
        split: Images that quality is measured against.
        real_split: Real images that give the floor and the copying to be expected of new images.
        atoms: How many of the atoms, 0 for all: the first of the bundled ones, which are in no order, and of one's own
            so many drawn by `ImageSet.sample` (a folder goes by class).
        tol: χ² that the semi-discrete solve has to reach.
        precision: "float32", or "bfloat16" for autocast of the network.
        block: Images in one piece of work.
        flow: The full sampler, sampled on the same seeds, for seed agreement; by default what is stored of the
            bundled network's, for studies whose first seed is 0.
        atoms_from: Images that priors are fitted to.
        copies_of: Images that could have been copied; by default the atoms. If named, no source rate is known.
        model: A diffusers folder; the bundled network if empty.
        null_class_label: Of that network; the bundled one's is known.
        extractor: Folder of the feature extractor; the bundled one if empty.
        value_range: Of images at a path; see `data.to_pixels`.
        mixture: Probability that two classes of a mixed image reach (see `metrics.modes`); 0 to measure no mixture.
    """

    name: str
    rows: tuple[StartSpec, ...]
    samples: int
    seed_sets: int = 1
    first_seed: int = 0
    split: str = "reference"
    real_split: str = "held_out"
    atoms: int = USUAL_ATOMS
    tol: float = 0.05
    precision: str = "float32"
    block: int = 125
    flow: StartSpec | None = None
    atoms_from: str = "atoms"
    copies_of: str = ""
    model: str = ""
    null_class_label: int | None = None
    extractor: str = ""
    value_range: Any = "auto"
    mixture: float = 0.0

    def __post_init__(self) -> None:
        check_integer("samples", self.samples, 12)
        check_integer("seed_sets", self.seed_sets, 1)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        require(len(self.rows) > 0, "rows", "at least one", 0)
        rule = "a range of pixels: samples are measured as 8-bit images, which latents are not"
        require(self.value_range is not None, "value_range", rule, None)

    @property
    def sampled_rows(self) -> tuple[StartSpec, ...]:
        """The rows, and the full flow where there is one and it is not a row itself."""
        known = {row.key for row in self.rows}
        return self.rows if self.flow is None or self.flow.key in known else (*self.rows, self.flow)

    def first_of(self, seed_set: int) -> int:
        """The first seed of a set."""
        return self.first_seed + seed_set * self.samples

    def blocks(self, row: StartSpec, folder: Path, seed_set: int) -> list[Block]:
        """A row's blocks of a set of seeds, below the folder of images."""
        first, end = self.first_of(seed_set), self.first_of(seed_set + 1)

        def block(seed: int) -> Block:
            # (A cut-off block is another one than the whole one that a longer study has in its place.)
            size = min(self.block, end - seed)
            name = f"{seed:09d}.npz" if size == self.block else f"{seed:09d}-{size}.npz"
            return Block(row, seed, size, folder / row.key / name)

        return [block(seed) for seed in range(first, end, self.block)]

    def settings(self) -> dict[str, Any]:
        """All but the rows, as JSON; fields that the first studies did not have only where they say something."""
        later = (
            "flow",
            "atoms_from",
            "copies_of",
            "model",
            "null_class_label",
            "extractor",
            "value_range",
            "mixture",
        )
        facts = differing(self, later)
        # Names of files, not where they lie: work folders may be moved, reports are shared.
        for name in {"split", "real_split", "atoms_from", "copies_of", "model", "extractor"} & set(facts):
            facts[name] = Path(facts[name]).name
        facts = {name: value for name, value in facts.items() if name not in ("rows", "flow")}
        return json.loads(json.dumps(facts))  # (a pair would come back from a file as a list)


@dataclass(frozen=True)
class StageProgress:
    """How far a study is: the stage, what is done of what, in the unit named."""

    stage: str
    done: float
    total: float
    note: str = ""


Listener = Callable[[StageProgress], None]


@dataclass(frozen=True)
class ComparisonResult:
    """A report, the images that go with it, and the figures of each row and set of seeds.

    Attributes:
        report: In the form of `report.schema.json`.
        images: Of each row.
        sets: Figures by row key, one dict a set of seeds.
        study: What was run.
        work: Where its pieces are.
    """

    report: dict[str, Any]
    images: list[ReportImages]
    sets: dict[str, list[dict[str, Any]]] = field(repr=False)
    study: Comparison | None = field(default=None, repr=False)
    work: Path | None = field(default=None, repr=False)

    def row(self, spec: StartSpec) -> dict[str, Any]:
        """The report's row of a spec."""
        assert self.study is not None
        keys = [row.key for row in self.study.rows]
        return self.report["rows"][keys.index(spec.key)]

    def samples(self, spec: StartSpec, seed_set: int = 0) -> Samples:
        """The samples of a row's set of seeds, read from the work folder."""
        assert self.study is not None
        assert self.work is not None
        return Samples.read(self.study.blocks(spec, self.work / "images", seed_set))
