"""A user's own model and images, as `otprior tune` and `otprior compare` take them, and the comparison of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.inputs import (
    BUNDLED,
    check_data,
    check_extractor,
    check_model,
    find_model,
    is_stock_model,
    load_model,
)
from otprior.utils.validation import require

if TYPE_CHECKING:
    from otprior.experiments.comparison import Comparison
    from otprior.sampling.start_spec import StartSpec

Limit = Annotated[
    int | None, typer.Option("--limit", min=2, help="Fit to so many of the images, drawn by seed 0.")
]
Tolerance = Annotated[
    float, typer.Option("--tol", help="χ² that the solve of a transport has to reach, as for fit.")
]
NetworkPrecision = Annotated[
    str,
    typer.Option(
        "--precision",
        "--dtype",
        metavar="float32|bfloat16",
        help="Precision of the network. bfloat16 is faster on a CPU that multiplies it in tiles (AMX).",
    ),
]
Conditional = Annotated[
    bool,
    typer.Option(
        "--conditional",
        "--labels",
        help="By class: seeds ask for the classes in turn, as often as DATA has them, and priors are fitted by class.",
    ),
]


@dataclass(frozen=True)
class UserInputs:
    """What is compared or tuned, by the names of the options.

    Attributes:
        model: A diffusers folder, "owner/name" of the hub, "bundled" or "bundled-by-class".
        data: Images to fit to, or "bundled".
        extractor: Name of the feature extractor; None for the bundled one.
        null_label: The network's label for no class.
        value_range: Range of floating-point pixels.
        limit: How many of the images to fit to; None for all.
        tol: χ² that a transport has to reach.
        precision: Precision of the network.
        pictures: What is done to pictures; see `parse_pictures`.
        prompts: What images shall show, for a pipeline with prompts: seed s gets number s modulo their number.
        negative_prompt: What they shall not show, of such a pipeline.
        guidance_scale: Of such a pipeline, by default its own; or of a network with classes, by default none.
        device: Where the network runs.
        variant: Which of several files of the model's weights.
        conditional: Whether seeds get the classes in turn, from priors by class.
    """

    model: str
    data: str
    extractor: str | None = None
    null_label: int | None = None
    value_range: Any = "auto"
    limit: int | None = None
    tol: float = 0.05
    precision: str = "float32"
    pictures: Mapping[str, Any] = field(default_factory=lambda: {"adapt": True})
    prompts: tuple[str, ...] = ()
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    device: str = "cpu"
    variant: str | None = None
    conditional: bool = False

    def check(self, **images: str | None) -> None:
        """Looks at the paths, and loads model and extractor, since work that takes minutes comes before it samples.

        Arguments:
            images: Further paths by their options, needed unless the data are bundled.

        Raises:
            FileNotFoundError: If nothing is at a path.
            ValueError: If a user's images would be judged by the bundled ones, or one of these is damaged.
        """
        check_model(self.model)
        check_data(self.data)
        rule = f"given unless the data are {BUNDLED}: real images that are no atoms"
        for name, path in images.items():
            option = "--" + name.replace("_", "-")
            if path is not None:
                check_data(path, option)
            require(self.data == BUNDLED or path is not None, option, rule, "nothing")
        if self.extractor is not None:
            check_extractor(self.extractor)
        rule = f"left out for the model '{BUNDLED}', whose label is known"
        require(self.model != BUNDLED or self.null_label is None, "--null-label", rule, self.null_label)
        rule = f"left out for the model '{BUNDLED}', of which there is one"
        require(self.model != BUNDLED or self.variant is None, "--variant", rule, self.variant)
        prompted = self._asks("prompt")
        require(not prompted or bool(self.prompts), "--prompt", "given for a model with prompts", None)
        rule = "left out: the model is told prompts, not classes"
        require(not prompted or not self.conditional, "--conditional", rule, "given")
        needless: dict[str, Any] = {
            "--prompt": None if prompted else self.prompts or None,
            "--negative-prompt": None if self._asks("negative_prompt") else self.negative_prompt,
        }
        if is_stock_model(self.model):
            from otprior.sampling.stock import check_stock

            check_stock(find_model(self.model, self.variant))
            needless["--null-label"] = self.null_label
        else:
            self._check_classes()
        for option, value in needless.items():
            require(value is None, option, "left out: the model's network takes none", value)
        if self.extractor not in (None, BUNDLED):
            from otprior.metrics import load_extractor

            load_extractor(str(self.extractor))

    def _check_classes(self) -> None:
        """Loads a network that takes at most labels, and requires that it is told how to take them."""
        from otprior.sampling.inputs import takes_labels

        pipe: Any = load_model(self.model, null_label=self.null_label, variant=self.variant)
        null, takes, scale = pipe.config.null_class_label, takes_labels(pipe.unet), self.guidance_scale
        if self.conditional:
            rule = "given for guidance: the network's label for no class"
            require(self.guidance == 1 or null is not None or not takes, "--null-label", rule, None)
            return
        rule = "left out: the model's network takes none" if not takes else "left out without --conditional"
        require(scale is None, "--guidance-scale", rule, scale)
        rule = "given, or --null-label: the model's network takes class labels"
        require(not takes or null is not None, "--conditional", rule, None)

    @property
    def guidance(self) -> float:
        """The scale of guidance that starts are sampled with."""
        if self.guidance_scale is not None:
            return self.guidance_scale
        if not self._asks("guidance_scale"):
            return 1.0
        from otprior.sampling.stock import call_default

        return float(call_default(find_model(self.model, self.variant), "guidance_scale"))

    def _asks(self, argument: str) -> bool:
        """Whether the model is a stock pipeline whose calls take this argument."""
        from otprior.sampling.stock import call_default

        if not is_stock_model(self.model):
            return False
        return call_default(find_model(self.model, self.variant), argument) is not Ellipsis

    def comparison(
        self,
        name: str,
        starts: tuple[StartSpec, ...],
        samples: int,
        split: str,
        real_split: str,
        seed_sets: int = 1,
    ) -> Comparison:
        """The comparison of starts on these inputs.

        Arguments:
            name: What reports call it.
            starts: The starts.
            samples: Images of each in a set of seeds.
            split: Images that quality is measured against: a path, or one of the bundled sets.
            real_split: Real images that give the floor, likewise.
            seed_sets: Sets of seeds.
        """
        from otprior.experiments.comparison import Comparison

        return Comparison(
            name,
            tuple(replace(start, guidance=self.guidance, conditional=self.conditional) for start in starts),
            samples,
            seed_sets,
            split=split,
            real_split=real_split,
            atoms=self.limit,
            atoms_from="atoms" if self.data == BUNDLED else self.data,
            tol=self.tol,
            precision=self.precision,
            model=self.model,
            null_class_label=self.null_label,
            extractor=BUNDLED if self.extractor is None else self.extractor,
            value_range=self.value_range,
            pictures=tuple(
                sorted((name, value) for name, value in self.pictures.items() if value is not None)
            ),
            prompts=self.prompts,
            negative_prompt=self.negative_prompt,
            device=self.device,
            variant=self.variant,
        )


def split_name(path: str | None, bundled: str) -> str:
    """How a comparison names images at a path; the bundled set of that name where it is None or "bundled"."""
    return bundled if path in (None, BUNDLED) else str(path)
