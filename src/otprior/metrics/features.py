"""Features: the space in which generated and real images are compared.

A feature map φ sends an image (C, H, W) to φ(x) in R^D, and every feature metric (Fréchet distance, KID,
precision, coverage) is a distance between the laws of φ(x) for two sets of images. Here φ is the
penultimate layer of a small classifier, so a figure says how two sets differ *as that classifier sees
them*; its name is printed with each figure, because values under different maps do not compare.

The map is fixed: batch normalisation uses stored statistics, so φ acts on each image by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from otprior.utils.arrays import read_tensors, write_tensors
from otprior.utils.files import output_dir, read_json, write_json
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import check_finite, check_integer, require

FORMAT_VERSION = 1
# What to do about images of another kind.
OTHERS = (
    "Name another extractor by --extractor: a Hugging Face folder of a vision model (`hf download "
    "facebook/dinov2-small --local-dir dinov2-small`), a TorchScript file, package.module:factory, or inception"
)
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class FeatureExtractor(nn.Module):
    """A convolutional classifier whose penultimate activations are the features.

    Three stages of 3×3 convolution, batch normalisation and ReLU, the first two followed by 2×2 maximum
    pooling, then one dense layer with ReLU (the features) and a linear head (the logits).

    Arguments:
        name: Printed with every figure made with these features.
        image_shape: (C, H, W) of the images; H and W are multiples of 4.
        widths: Channels of the three stages.
        dim: Number of features D.
        classes: Number of classes, in the order of `class_names` where given.
        class_names: One name a class.
        info: Facts about the weights (training, test accuracy), saved with them.

    Raises:
        ValueError: If H or W is not a multiple of 4.

    Examples:
        >>> extractor = load_extractor(bundled.ROOT / "classifier")
        >>> extract_features(extractor, images.images[:3]).shape
        torch.Size([3, 128])
    """

    def __init__(
        self,
        name: str,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        widths: tuple[int, int, int] = (24, 48, 64),
        dim: int = 128,
        classes: int = 10,
        class_names: tuple[str, ...] | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        require(height % 4 == 0 and width % 4 == 0, "image_shape", "divisible by 4 in H and W", image_shape)
        self.name, self.dim, self.classes = name, dim, classes
        self.image_shape, self.widths = tuple(image_shape), tuple(widths)
        self.class_names = tuple(class_names) if class_names is not None else None
        self.info = dict(info or {})

        def stage(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        first, second, third = widths
        self.trunk = nn.Sequential(
            *stage(channels, first),
            nn.MaxPool2d(2),
            *stage(first, second),
            nn.MaxPool2d(2),
            *stage(second, third),
            nn.Flatten(),
        )
        self.dense = nn.Linear(third * (height // 4) * (width // 4), dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, D), not negative, of images (N, C, H, W) in [-1, 1]."""
        shape = tuple(images.shape)
        require(
            images.ndim == 4 and shape[1:] == self.image_shape,
            "images",
            f"of shape (N, {', '.join(map(str, self.image_shape))}) for the features {self.name!r}",
            shape,
            OTHERS,
        )
        return torch.relu(self.dense(self.trunk(images)))

    def logits(self, images: Tensor) -> Tensor:
        """Class scores (N, classes) of images (N, C, H, W) in [-1, 1]."""
        return self.head(self(images))

    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this module, without its weights."""
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "image_shape": list(self.image_shape),
            "widths": list(self.widths),
            "dim": self.dim,
            "classes": self.classes,
            "class_names": list(self.class_names) if self.class_names is not None else None,
            "info": self.info,
        }


@plain_torch()
def extract_features(extractor: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Computes features (N, D) in float32 on the CPU, batch by batch on the extractor's device.

    Arguments:
        extractor: A `FeatureExtractor`, or any module from images (N, C, H, W) to features (N, D). It is
            run in evaluation mode, so that a row depends on its image alone.
        images: (N, C, H, W), float, in [-1, 1].
        batch_size: Images at a time; results agree for all sizes up to rounding.

    Examples:
        >>> extract_features(load_extractor(bundled.ROOT / "classifier"), images.images[:5]).shape
        torch.Size([5, 128])
    """
    return torch.cat(list(_batches(extractor, extractor, images, batch_size)))


@plain_torch()
def class_logits(extractor: Any, images: Tensor, batch_size: int = 500) -> Tensor:
    """Computes class scores (N, classes) in float32 on the CPU, of images (N, C, H, W) in [-1, 1].

    Raises:
        ValueError: If the extractor is no classifier.
    """
    rule = "a classifier, such as scripts/train_classifier.py makes, for figures by class"
    require(
        hasattr(extractor, "logits"), "extractor", rule, getattr(extractor, "name", type(extractor).__name__)
    )
    return torch.cat(list(_batches(extractor, extractor.logits, images, batch_size)))


def classify(extractor: Any, images: Tensor, batch_size: int = 500) -> Tensor:
    """Predicts the most probable class (N,), int64 on the CPU, of images (N, C, H, W) in [-1, 1]."""
    return class_logits(extractor, images, batch_size).argmax(dim=1)


def _batches(module: nn.Module, function: Any, images: Tensor, batch_size: int) -> Iterator[Tensor]:
    check_integer("batch_size", batch_size, 1)
    require(len(images) > 0, "images", "at least one image", "none")
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for batch in images.split(batch_size):
                yield function(batch.to(device=device, dtype=torch.float32)).float().cpu()
    finally:
        module.train(was_training)


def save_extractor(extractor: FeatureExtractor, path: str | Path, dtype: torch.dtype, **options: Any) -> None:
    """Writes `config.json` and `model.safetensors`, with floating weights rounded to `dtype`.

    Arguments:
        extractor: To be saved.
        path: A new folder (`overwrite=True` in `options` replaces one).
        dtype: `torch.float16` halves the file; the weights are run in float32 whatever was stored.
    """
    state = {
        key: value.to(dtype).contiguous() if value.is_floating_point() else value.contiguous()
        for key, value in extractor.state_dict().items()
    }
    with output_dir(path, **options) as folder:
        write_tensors(folder / WEIGHTS_FILE, state, {})
        write_json(folder / CONFIG_FILE, extractor.config())


def load_classifier(path: str | Path) -> FeatureExtractor:
    """Loads the extractor saved in folder `path`, in evaluation mode, float32, with frozen weights.

    Raises:
        FileNotFoundError: If the folder or one of its two files is missing.
        ValueError: If a file is damaged, of another format version, or lacks a weight.
    """
    folder = Path(path)
    for file in (folder / CONFIG_FILE, folder / WEIGHTS_FILE):
        if not file.is_file():
            raise FileNotFoundError(f"feature extractor {folder}: there is no file {file.name}")
    config = read_json(folder / CONFIG_FILE, "format_version")
    version = config.pop("format_version")
    require(version == FORMAT_VERSION, f"format_version of {folder}", str(FORMAT_VERSION), version)
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    state, _ = read_tensors(folder / WEIGHTS_FILE)
    for name, tensor in state.items():
        check_finite(f"{name} of {folder / WEIGHTS_FILE}", tensor)
    try:
        extractor = FeatureExtractor(**options)
        extractor.load_state_dict(state)  # copies into float32, whatever precision was stored
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"feature extractor {folder} is damaged: {error}") from error
    return extractor.eval().requires_grad_(False)
