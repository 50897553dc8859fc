"""A prior's folder: what is written comes back, also in a fresh process; what is damaged is refused by name."""

from __future__ import annotations

import errno
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from otprior import Prior
from otprior.data.images import ImageSet
from otprior.priors import GaussianPrior, IdentityPrior, MixturePrior, RandomAtomPrior, SemiDiscretePrior
from otprior.utils import arrays
from otprior.utils.files import WRITTEN

SCHEDULER = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
SHAPE = (1, 3, 3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images() -> ImageSet:
    pixels = (normal(20, *SHAPE, seed=7) / 3).clamp(-1, 1)
    return ImageSet(pixels, source="a folder of photographs", license="CC-BY-4.0")


def labels() -> Tensor:
    return torch.arange(20) % 2


MAKERS: dict[str, Callable[[], Prior]] = {
    "identity": lambda: IdentityPrior.build(SHAPE, SCHEDULER, 400),
    "gaussian": lambda: GaussianPrior.fit(images(), SCHEDULER, 400, rank=4),
    "gaussian by class": lambda: GaussianPrior.fit(images(), SCHEDULER, 400, labels()),
    "mixture": lambda: MixturePrior.fit(images(), SCHEDULER, 400, components=3, rank=2),
    "mixture by class": lambda: MixturePrior.fit(images(), SCHEDULER, 400, labels(), components=2, rank=2),
    "semidiscrete": lambda: SemiDiscretePrior.fit(images(), SCHEDULER, 400),
    "frozen by class": lambda: SemiDiscretePrior.fit(images(), SCHEDULER, 400, labels(), noise="frozen"),
    "random atom": lambda: RandomAtomPrior.fit(images(), SCHEDULER, 400),
}


def start(prior: Prior) -> Tensor:
    z = normal(6, *SHAPE, seed=3)
    wanted = None if prior.num_classes is None else torch.tensor([0, 1, 1, 0, 0, 1])
    return prior(z, wanted, normal(6, *SHAPE, seed=4) if prior.needs_fresh else None)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "prior"
    MAKERS["semidiscrete"]().save_pretrained(folder)
    return folder


# Round trips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    prior = MAKERS[kind]()
    prior.save_pretrained(tmp_path / "prior")
    loaded = Prior.from_pretrained(tmp_path / "prior")
    assert type(loaded) is type(prior)
    assert torch.equal(start(loaded), start(prior))
    assert loaded.timestep == 400
    assert torch.equal(start(loaded.at(100)), start(prior.at(100)))
    assert type(prior).from_pretrained(tmp_path, subfolder="prior").config == loaded.config
    # A second generation is the same folder, byte for byte.
    loaded.save_pretrained(tmp_path / "again")
    for file in (tmp_path / "prior").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_a_fresh_process_finds_the_class_and_the_same_starts(tmp_path: Path) -> None:
    for kind, make in MAKERS.items():
        make().save_pretrained(tmp_path / kind)
        save_file({"start": start(make())}, tmp_path / f"{kind}.safetensors")
    program = (
        "import sys, torch; from pathlib import Path; from safetensors.torch import load_file\n"
        "from otprior import Prior\n"
        "normal = lambda seed: torch.randn(6, 1, 3, 3, generator=torch.Generator().manual_seed(seed))\n"
        "for folder in Path(sys.argv[1]).iterdir():\n"
        "    if not folder.is_dir(): continue\n"
        "    prior = Prior.from_pretrained(folder)\n"
        "    wanted = None if prior.num_classes is None else torch.tensor([0, 1, 1, 0, 0, 1])\n"
        "    start = prior(normal(3), wanted, normal(4) if prior.needs_fresh else None)\n"
        "    expected = load_file(f'{folder}.safetensors')['start']\n"
        "    print(folder.name, type(prior).__name__, float((start - expected).abs().max()) < 1e-6, sep=';')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    rows = sorted(line.split(";") for line in result.stdout.splitlines())
    assert rows == sorted([kind, type(make()).__name__, "True"] for kind, make in MAKERS.items())


def test_config_records_schedule_provenance_and_quality(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert config["_class_name"] == "SemiDiscretePrior"
    assert config["format_version"] == 1
    assert config["schedule"]["kind"] == "vp"
    assert config["facts"]["source"] == "a folder of photographs"
    assert config["facts"]["license"] == "CC-BY-4.0"
    assert config["facts"]["sha256"] == images().sha256
    assert config["facts"]["chi2_upper"] <= 0.05


# Rights ----------------------------------------------------------------------------------------------------


def test_saving_training_images_warns_and_says_so_in_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="otprior"):
        MAKERS["semidiscrete"]().save_pretrained(tmp_path / "prior")
    assert "holds training data" in caplog.text
    card = (tmp_path / "prior" / "README.md").read_text()
    assert "holds training images" in card
    assert "the 20 images" in card
    assert "a folder of photographs" in card
    assert "CC-BY-4.0" in card
    assert images().sha256 in card


def test_priors_without_images_do_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="otprior"):
        MAKERS["gaussian"]().save_pretrained(tmp_path / "prior")
    assert caplog.text == ""
    assert not (tmp_path / "prior" / "README.md").exists()


def test_publishing_images_asks_for_their_licence(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="data_license must be named, since this prior holds training images"
    ):
        MAKERS["semidiscrete"]().push_to_hub("someone/prior")
    with pytest.raises(ValueError, match="push_to_hub must be False here; got True"):
        MAKERS["gaussian"]().save_pretrained(tmp_path / "prior", push_to_hub=True)
    assert list(tmp_path.iterdir()) == []


# Damage ----------------------------------------------------------------------------------------------------


def test_missing_folder_and_files(saved: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no prior at .*nowhere: there is no config.json"):
        Prior.from_pretrained(saved / "nowhere")
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing; fit the prior again"):
        Prior.from_pretrained(saved)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_tensors(saved: Path, keep: int) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        Prior.from_pretrained(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config.json is damaged: "),
        ("", r"config.json is damaged: "),
        ("[1, 2]", r"config.json must be a JSON object"),
        ("{}", r"config.json must be a JSON object"),
    ],
)
def test_corrupt_config(saved: Path, text: str, message: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Prior.from_pretrained(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 2, "format_version of .* must be 1; got 2"),
        (
            "_class_name",
            "OtherPrior",
            "_class_name of .* must be the class of a prior that is installed.* gaussian.*; got OtherPrior",
        ),
        ("_class_name", "IdentityPrior", "does not describe a IdentityPrior"),
        ("noise", "loud", "noise must be one of"),
        ("timestep", 5000, "timestep must be in"),
        ("num_atoms", "many", "does not describe a SemiDiscretePrior"),
        ("num_atoms", -1, "does not describe a SemiDiscretePrior"),
        ("num_atoms", 19, r"tensor '\w+' of .* must be \(\(19,.*; got \(\(20,"),
        ("shape", [1, 0], "shape must be of at least one axis"),
        ("schedule", {"kind": "odd"}, "schedule kind must be one of"),
        ("surprise", 1, "does not describe a SemiDiscretePrior"),
    ],
)
def test_config_that_does_not_fit(saved: Path, key: str, value: object, message: str) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ValueError, match=message):
        Prior.from_pretrained(saved)


def test_missing_extra_and_wrong_tensors(saved: Path) -> None:
    path = saved / "model.safetensors"
    tensors = load_file(path)
    for changed, message in (
        ({k: v for k, v in tensors.items() if k != "potential"}, r"a difference in \['potential'\]"),
        ({**tensors, "extra": torch.zeros(1)}, r"a difference in \['extra'\]"),
        (
            {**tensors, "potential": tensors["potential"].float()},
            r"tensor 'potential' .* got .*torch.float32",
        ),
        ({**tensors, "scales": torch.ones(2)}, r"tensor 'scales' .* got \(\(2,\)"),
    ):
        save_file(changed, path)
        with pytest.raises(ValueError, match=message):
            Prior.from_pretrained(saved)


def test_a_prior_of_another_class(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"prior in .* must be a GaussianPrior; got SemiDiscretePrior"):
        GaussianPrior.from_pretrained(saved)


def test_a_pickle_beside_is_never_read(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing"):
        Prior.from_pretrained(saved)


# Writing ---------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != WRITTEN}


def test_overwriting_is_refused_when_asked(saved: Path) -> None:
    before = contents(saved)
    with pytest.raises(FileExistsError, match="is not empty; pass --overwrite or name another"):
        MAKERS["gaussian"]().save_pretrained(saved, overwrite=False)
    assert contents(saved) == before
    MAKERS["gaussian"]().save_pretrained(saved)
    assert set(contents(saved)) == {"config.json", "model.safetensors"}  # nothing of the old one is left


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_the_old_folder(
    saved: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(saved)
    prior = MAKERS["gaussian"]()

    class Failing(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(memoryview(data)[: len(data) // 2])
            raise error

    monkeypatch.setattr(arrays, "open", Failing, raising=False)
    with pytest.raises(type(error)):
        prior.save_pretrained(saved)
    with pytest.raises(type(error)):
        prior.save_pretrained(saved.parent / "new")
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["prior"]
    assert isinstance(Prior.from_pretrained(saved), SemiDiscretePrior)


def test_a_folder_that_is_no_priors_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.tex").write_text("years of work")
    prior = MAKERS["identity"]()
    with pytest.raises(FileExistsError, match="not empty"):
        prior.save_pretrained(tmp_path / "results")
    assert (tmp_path / "results" / "thesis.tex").read_text() == "years of work"
    # A prior's own folder is replaced, as diffusers users expect.
    prior.save_pretrained(tmp_path / "prior")
    prior.at(300).save_pretrained(tmp_path / "prior")
    assert Prior.from_pretrained(tmp_path / "prior").timestep == 300


# Tensors that no prior has ---------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("atoms", float("nan"), "atoms must be finite"),
        ("atoms", 0.5, "atoms must be the images that it was fitted to"),
        ("potential", float("nan"), "potential must be finite"),
        ("potential", float("inf"), "potential must be finite"),
        ("classes", -7, r"classes must be in \[0, 0\]"),
        ("classes", 1, r"classes must be in \[0, 0\]"),
        ("scales", -1.0, "scales must be >= 0"),
    ],
)
def test_tensors_that_no_prior_has_are_refused(
    saved: Path, name: str, value: float, message: str, digest: bool
) -> None:
    path = saved / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    tensors[name][0] = value
    save_file(tensors, path, metadata=header if digest else None)
    with pytest.raises(ValueError, match="as it was written" if digest else message) as caught:
        Prior.from_pretrained(saved)
    assert str(path) in str(caught.value)


def test_a_prior_without_digest_is_loaded_with_a_warning(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved / "model.safetensors"
    with caplog.at_level(logging.WARNING, logger="otprior"):
        whole = Prior.from_pretrained(saved)
    assert "digest" not in caplog.text
    save_file(load_file(path), path)
    with caplog.at_level(logging.WARNING, logger="otprior"):
        same = Prior.from_pretrained(saved)
    assert f"{path} has no digest" in caplog.text
    z = torch.randn(2, *whole.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(same(z), whole(z))


def test_variances_that_no_gaussian_has_are_refused(tmp_path: Path) -> None:
    MAKERS["gaussian"]().save_pretrained(tmp_path / "prior")
    path = tmp_path / "prior" / "model.safetensors"
    tensors = load_file(path)
    tensors["variances"][0, 0] = -1
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: variances must be >= 0"):
        Prior.from_pretrained(tmp_path / "prior")
