"""`otprior fit --from-model`: the model's own samples in the place of data, drawn resumably."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from otprior.cli.inputs import BUNDLED
from otprior.cli.processes import check_alone
from otprior.cli.progress import progress_bar
from otprior.cli.studies import default_workers, follow
from otprior.utils.files import mark_work
from otprior.utils.validation import require

if TYPE_CHECKING:
    from otprior.data.images import ImageSet


def draw_images(model: str, pipe: Any, count: int, steps: int, conditional: bool, work: Path) -> ImageSet:
    """Images of the model's full sampler, from the blocks in `work` and those still missing.

    Arguments:
        model: A diffusers folder, or "bundled".
        pipe: The loaded model.
        count: How many.
        steps: Evaluations of the sampler.
        conditional: Whether each gets a class in turn.
        work: Folder of the blocks, marked with what they were drawn from.
    """
    from otprior.data import bundled
    from otprior.experiments.model_images import draw_model_images
    from otprior.experiments.sampling import Models
    from otprior.sampling.folders import network_sha256
    from otprior.sampling.inputs import latent_shape, num_classes, real_classes

    check_alone("--from-model", "in one process, which starts others itself; then fit to what it drew")
    channels = (latent_shape(pipe.unet) or (None,))[0]
    require(channels in (None, 1, 3), "the network's images with --from-model", "grey or RGB", channels)
    folder = bundled.pipeline_path() if model == BUNDLED else Path(model)
    null, classes = pipe.config.null_class_label, num_classes(pipe.unet)
    real = real_classes(classes, null) if conditional else None
    rule = "left out for a network without class labels"
    require(not conditional or real is not None, "--conditional", rule, "given")
    mark = {"network": network_sha256(folder), "steps": steps, "null_class_label": null}
    mark_work(work / "drawn.json", mark, "of this network in so many steps")
    models = Models(folder, work, null, classes=real)
    with progress_bar("drawing the model's images") as bar:
        return draw_model_images(
            models,
            count,
            work,
            steps=steps,
            conditional=conditional,
            workers=default_workers(),
            listen=follow(bar),
        )
