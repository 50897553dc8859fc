"""Feature extractors of every kind: what `--extractor` takes.

| name | what it is | its code |
|---|---|---|
| a folder of `otprior.metrics.features.save_extractor` | a small classifier | ours |
| a Hugging Face folder of a vision model, with its `preprocessor_config.json` | DINOv2, CLIP, ViT, … | transformers' |
| "owner/name" of the hub | the same, downloaded | transformers' |
| a TorchScript file: `.pt`, `.pth`, `.ts`, `.jit` | any function | its own |
| `package.module:factory` | what the factory returns: any function | its own |
| `inception` | the network of the usual FID, by torch-fidelity where that is installed | torch-fidelity's |

Functions take images (N, C, H, W), float32 in [-1, 1], and return features (N, D); further axes are flattened. Vision
models get grey images as three equal channels, resized and normalised as their `preprocessor_config.json` says, on
tensors (antialiased), which differs from resizing 8-bit pictures by less than a grey level or two.

The name says which file it was, by the beginning of its SHA-256: figures of different extractors do not compare.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from otprior.metrics.features import FeatureExtractor, load_classifier
from otprior.utils.files import folder_sha256, read_json, require_regular, sha256
from otprior.utils.hub import is_hub_name, local_folder
from otprior.utils.validation import invalid, require

INCEPTION = "inception"
SCRIPTS = (".pt", ".pth", ".ts", ".jit", ".torchscript")
KINDS = (
    "a folder of a classifier or of a Hugging Face vision model (such as DINOv2), a TorchScript file, "
    f"package.module:factory, or {INCEPTION!r}"
)
# Pillow's numbers in preprocessor_config.json; what tensors have no equal of is resized bicubically.
RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}


class OtherExtractor(nn.Module):
    """A function of images that gives features.

    Arguments:
        name: Printed with every figure made with these features.
        function: From images (N, C, H, W) in [-1, 1] to features (N, D), or (N, D, 1, 1).
    """

    dim: int | None = None

    def __init__(self, name: str, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, D)."""
        try:
            features = self.function(images)
        except RuntimeError as error:
            # (Of TorchScript's messages the last line says what is wrong.)
            reason = str(error).strip().splitlines()[-1]
            shape = tuple(images.shape)
            raise invalid("images", f"such as the extractor {self.name} takes", shape, reason) from error
        rule = f"a floating tensor ({len(images)}, D), one row an image"
        right = isinstance(features, Tensor) and features.is_floating_point() and features.ndim >= 2
        require(right and len(features) == len(images), f"features of {self.name}", rule, _form(features))
        self.dim = features[0].numel()
        rows: Tensor = features.flatten(1)
        return rows


Extractor = FeatureExtractor | OtherExtractor


def load_extractor(name: str | Path) -> Extractor:
    """Loads the extractor that a name stands for (see the head of this module), in evaluation mode.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If it is damaged, or no extractor.

    Examples:
        >>> load_extractor(bundled.ROOT / "classifier").name
        'fashion-mnist-cnn-128'
    """
    name = str(name)
    path = Path(name)
    if not path.exists():
        if name == INCEPTION:
            return _inception()
        if _is_import_path(name):
            return _imported(name)
        if not is_hub_name(name):
            hint = " (In Python the bundled one is otprior.bundled.extractor().)" if name == "bundled" else ""
            raise FileNotFoundError(
                f"--extractor {name}: there is no such file or folder; name {KINDS}{hint}"
            )
        path = local_folder(name, files=("*.json", "*.safetensors"))
    if path.is_dir():
        config = path / "config.json"
        if not config.is_file():
            raise FileNotFoundError(f"feature extractor {name}: there is no file config.json")
        known = read_json(config)
        vision = isinstance(known, dict) and "model_type" in known
        return _vision(path) if vision else load_classifier(path)
    require_regular(path, "--extractor")
    require(path.suffix.lower() in SCRIPTS, "--extractor", KINDS, name)
    return _script(path)


def extractor_sha256(name: str) -> str:
    """A digest of an extractor's files; of its name where it has none of its own."""
    path = Path(name)
    if path.is_dir():
        return folder_sha256(path, "*")
    return sha256(path) if path.is_file() else name


def _is_import_path(name: str) -> bool:
    module, colon, factory = name.partition(":")
    return bool(colon) and factory.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _imported(name: str) -> OtherExtractor:
    module, _, factory = name.partition(":")
    try:
        make = getattr(import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise invalid(
            "--extractor", "package.module:factory that can be imported", name, str(error)
        ) from error
    function = make()
    require(callable(function), f"what {name}() returns", "a function of images", type(function).__name__)
    return OtherExtractor(name, function).eval()


def _script(path: Path) -> OtherExtractor:
    try:
        module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:
        # (What is raised for a file that is none depends on what it is.)
        raise ValueError(f"--extractor {path} is damaged or no TorchScript file") from error
    return OtherExtractor(f"{path.stem} {sha256(path)[:8]}", module.eval())


def _inception() -> OtherExtractor:
    try:
        found = import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError as error:
        hint = "pip install torch-fidelity brings it"
        raise invalid(
            "--extractor", f"another where torch-fidelity is missing ({error})", INCEPTION, hint
        ) from error
    network = found.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])

    class Inception(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            pixels = ((_in_colour(images) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            features: Tensor = self.network(pixels)[0]
            return features

    return OtherExtractor("inception-v3-compat of torch-fidelity", Inception().eval())


def _vision(folder: Path) -> OtherExtractor:
    """A vision model of transformers: the pooled output, or the class token where there is no trained pooling."""
    try:
        from transformers import AutoModel
    except ImportError as error:
        hint = 'pip install "otprior[vision]" brings it'
        raise invalid("--extractor", "another where transformers is missing", folder, hint) from error
    settings = folder / "preprocessor_config.json"
    if not settings.is_file():
        raise FileNotFoundError(f"feature extractor {folder}: there is no file {settings.name}")
    try:
        model, loaded = AutoModel.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        # (transformers raises a dozen kinds.)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"feature extractor {folder} cannot be loaded: {reason}") from error
    missing = {str(key) for key in loaded["missing_keys"]}
    # (Pooling that was not trained is filled with random numbers.)
    untrained = {key for key in missing if "pooler" in key}
    lost = sorted(missing - untrained)
    require(not lost, f"tensors of {folder}", "all of the model", f"{len(lost)} missing, such as {lost[:2]}")
    prepare = _Preprocessing(read_json(settings))
    digest = folder_sha256(folder, "config.json", "preprocessor_config.json", "*.safetensors")
    vision = _VisionModel(model.eval().requires_grad_(False), prepare, pooled=not untrained)
    return OtherExtractor(f"{folder.resolve().name} {digest[:8]}", vision)


class _VisionModel(nn.Module):
    def __init__(self, model: Any, prepare: Callable[[Tensor], Tensor], pooled: bool) -> None:
        super().__init__()
        self.model, self._prepare, self._pooled = model, prepare, pooled

    def forward(self, images: Tensor) -> Tensor:
        pixels = self._prepare(_in_colour(images))
        if hasattr(self.model, "get_image_features"):
            found = self.model.get_image_features(pixel_values=pixels)
        else:
            found = self.model(pixel_values=pixels)
        if isinstance(found, Tensor):
            return found
        pooled = getattr(found, "pooler_output", None) if self._pooled else None
        features: Tensor = found.last_hidden_state[:, 0] if pooled is None else pooled
        return features


class _Preprocessing:
    """Resizes, crops and normalises images in [-1, 1] as a `preprocessor_config.json` says.

    Arguments:
        config: Its content.
    """

    def __init__(self, config: Any) -> None:
        get = config.get if isinstance(config, dict) else {}.get
        self._size = _sides(get("size")) if get("do_resize", True) else None
        self._crop = _sides(get("crop_size")) if get("do_center_crop") else None
        self._mode = RESAMPLING.get(get("resample", 3), "bicubic")
        self._mean: Any = get("image_mean") if get("do_normalize", True) else [0.0] * 3
        self._std: Any = get("image_std") if get("do_normalize", True) else [1.0] * 3
        known = all(isinstance(each, list) and len(each) == 3 for each in (self._mean, self._std))
        require(known, "preprocessor_config.json", "one with image_mean and image_std", config)

    def __call__(self, images: Tensor) -> Tensor:
        images = (images + 1) / 2
        if self._size is not None:
            height, width = images.shape[2:]
            size = self._size
            if isinstance(size, int):
                scale = size / min(height, width)
                size = (round(height * scale), round(width * scale))
            if (height, width) != size:
                smooth = self._mode != "nearest"
                images = functional.interpolate(images, size, mode=self._mode, antialias=smooth).clamp(0, 1)
        if self._crop is not None:
            height, width = (self._crop,) * 2 if isinstance(self._crop, int) else self._crop
            top, left = ((have - want) // 2 for have, want in zip(images.shape[2:], (height, width)))
            images = images[:, :, top : top + height, left : left + width]
        mean, std = (images.new_tensor(each).reshape(1, 3, 1, 1) for each in (self._mean, self._std))
        return (images - mean) / std


def _sides(size: Any) -> int | tuple[int, int] | None:
    """The shorter side, or (height, width)."""
    if isinstance(size, dict):
        return (
            int(size["shortest_edge"])
            if "shortest_edge" in size
            else (int(size["height"]), int(size["width"]))
        )
    return None if size is None else int(size)


def _in_colour(images: Tensor) -> Tensor:
    require(
        images.shape[1] in (1, 3), "images", "grey or RGB for this extractor", f"{images.shape[1]} channels"
    )
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _form(features: Any) -> str:
    return (
        f"{tuple(features.shape)}, {features.dtype}"
        if isinstance(features, Tensor)
        else type(features).__name__
    )
