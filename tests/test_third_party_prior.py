"""A prior of another package, known by an entry point alone, goes through every command.

The package is the one that CONTRIBUTING describes: a module, and a line under `otprior.priors` in its metadata.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_helpers import SIZE, write_images, write_model

MODULE = '''
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config

from otprior.priors import Prior, PriorOptions, as_schedule, option, read_data


@dataclass(frozen=True)
class MeanOptions(PriorOptions):
    """What can be chosen about the mean image."""

    strength: float = option(1.0, "Share of the mean image in a start.", of_start=True)
    noise: str = option("coupled", "Noise of a start.", choices=("coupled", "flipped"), of_start=True)


class MeanPrior(Prior):
    """T(z) = c α μ ± σ z."""

    kind = "mean"
    Options = MeanOptions
    searched_log_snr = (-2.0,)
    mean: torch.Tensor

    @register_to_config
    def __init__(self, shape, schedule, timestep, strength=1.0, noise="coupled"):
        super().__init__()
        self.set_up(shape, schedule, timestep)
        MeanOptions(strength=strength, noise=noise)
        self.register_buffer("mean", torch.zeros(self.dim))

    @classmethod
    def fit(cls, data, schedule, timestep=500, *, value_range="auto", **options):
        images, _ = read_data(data, value_range=value_range)
        shape = list(images.images.shape[1:])
        prior = cls(shape, as_schedule(schedule).to_dict(), timestep, **options)
        prior.mean.copy_(images.images.double().mean(dim=0).flatten())
        return prior.eval()

    @classmethod
    def searched_options(cls):
        return [{}, {"strength": 0.5}]

    @classmethod
    def describe(cls, options):
        return f"mean image, {options.get('noise') or 'coupled'}"

    def _start(self, z, labels, fresh):
        sign = -1 if self.config["noise"] == "flipped" else 1
        return self.config["strength"] * self.alpha * self.mean + sign * self.sigma * z
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, a tiny model, an extractor, and disjoint sets of images."""
    from otprior.metrics.features import FeatureExtractor, save_extractor

    folder = tmp_path_factory.mktemp("third-party")
    (folder / "site").mkdir()
    (folder / "site" / "mean_prior.py").write_text(MODULE)
    metadata = folder / "site" / "mean_prior-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-prior\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[otprior.priors]\nmean = mean_prior:MeanPrior\n")
    write_model(folder / "model")
    images = torch.tanh(torch.randn(160, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))).numpy()
    for name, rows in (("train", slice(60)), ("test", slice(60, 110)), ("held-out", slice(110, 160))):
        write_images(folder / f"{name}.npz", images=images[rows], labels=range(len(images[rows])))
    torch.manual_seed(0)
    extractor = FeatureExtractor("tiny", (1, SIZE, SIZE), (4, 4, 4), dim=6, classes=3)
    save_extractor(extractor, folder / "extractor", torch.float32)
    return folder


# Starting a process and importing diffusers take longer than most of these commands: each test starts one.
COMMANDS = """
import json, sys
from typer.testing import CliRunner
from otprior.cli import program
done = [CliRunner().invoke(program, line.split()) for line in sys.argv[1:]]
print(json.dumps([(one.exit_code, one.stdout, one.stderr) for one in done]))
"""


def in_fresh_process(place: Path, site: Path, *lines: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of commands, run in one fresh process with another package installed."""
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMMANDS, *lines]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [tuple(one) for one in json.loads(done.stdout.splitlines()[-1])]


def otprior(place: Path, *lines: str) -> list[str]:
    """What commands print that must succeed."""
    done = in_fresh_process(place, place / "site", *lines)
    for code, output, errors in done:
        assert code == 0, output + errors
    return [output for _, output, _ in done]


def first_row(place: Path, folder: str) -> dict[str, object]:
    """The first row of a report."""
    row: dict[str, object] = json.loads((place / folder / "report.json").read_text())["rows"][0]
    return row


def test_its_name_and_options_are_in_the_help(place: Path) -> None:
    every, own = otprior(place, "fit --help", "fit --prior mean --help")
    assert "identity, mean, mixture, random_atom, semidiscrete." in " ".join(every.split())
    assert "Options of --prior mean:" in own
    assert "--strength X" in own
    assert "coupled|flipped" in own


def test_it_is_fitted_sampled_evaluated_and_audited(place: Path) -> None:
    *_, audit = otprior(
        place,
        "fit model train.npz --prior mean --strength 0.5 --noise flipped --timestep 400 --out prior",
        "sample model --prior prior --seeds 0-19 --steps 2 --format npz --out samples",
        "evaluate samples --reference test.npz --atoms train.npz --held-out held-out.npz --extractor extractor "
        "--out evaluated",
        "audit model train.npz --prior prior --timesteps 400 --draws 0 --out audited",
    )
    config = json.loads((place / "prior" / "config.json").read_text())
    assert (config["_class_name"], config["timestep"], config["strength"]) == ("MeanPrior", 400, 0.5)
    row = first_row(place, "samples")
    assert (row["prior"], row["noise"], row["start_timestep"]) == ("mean", "flipped", 400)
    assert row["family"] == "mean image, flipped"
    row = first_row(place, "evaluated")
    assert (row["prior"], row["samples"]) == ("mean", 20)
    assert "mean image, flipped" in (place / "evaluated" / "report.html").read_text()
    assert "prior" in audit
    errors = json.loads((place / "audited" / "report.json").read_text())["audit"]["errors"]
    assert any(row["prior"] == "mean" and row["name"] == "prior" for row in errors)


def test_it_is_compared_and_tuned(place: Path) -> None:
    own = "--extractor extractor --samples 12 --workers 1"
    sets = "--reference test.npz --held-out held-out.npz"
    starts = "none@2,mean@2,mean:noise=flipped:t=300@2,gaussian@2"
    limits = "--validation test.npz --copy-margin 1 --steps 2"
    otprior(
        place,
        f"compare model train.npz --starts {starts} {sets} {own} --out compared",
        f"tune model train.npz --prior mean {limits} {own} --out tuned",
        # What was chosen is taken by the other commands.
        "fit model train.npz --prior mean --settings tuned/settings.json --out again",
        "sample model --prior again --settings tuned/settings.json --seeds 0-3 --out from-settings",
    )
    rows = json.loads((place / "compared" / "report.json").read_text())["rows"]
    assert [row["prior"] for row in rows] == ["none", "mean", "mean", "gaussian"]
    assert [row["start_timestep"] for row in rows[1:3]] == [500, 300]
    assert all(row["fid"] is not None and row["nfe"] == 2 for row in rows)
    assert rows[1]["fid"] != rows[2]["fid"]
    assert "mean image, flipped" in (place / "compared" / "report.html").read_text()
    (chosen,) = json.loads((place / "tuned" / "settings.json").read_text())["rows"].values()
    assert chosen["prior"] == "mean"
    trials = json.loads((place / "tuned" / "trials.json").read_text())["trials"]
    assert {trial["row"].get("options", {}).get("strength", 1.0) for trial in trials} == {0.5, 1.0}
    assert first_row(place, "from-settings")["start_timestep"] == chosen["start_timestep"]


def test_a_package_that_cannot_be_imported_is_named_and_harms_no_other(place: Path, tmp_path: Path) -> None:
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[otprior.priors]\nbroken = broken_prior:IdentityPrior\n[otprior.commands]\nbroken = broken_prior\n"
        "[otprior.studies]\nbroken = broken_prior:STUDY\n"
    )
    (tmp_path / "broken_prior.py").write_text("raise RuntimeError('out of order')\n")
    bad = (
        "fit model train.npz --prior broken --out never",
        "fit --prior broken --help",
        "broken",
        "reproduce broken --out never",
    )
    good = (
        "fit model train.npz --prior identity --out identity",
        "sample model --prior identity --seeds 0 --steps 1 --out from-identity",
    )
    done = in_fresh_process(place, tmp_path, *bad, *good)
    for code, _, errors in done[: len(bad)]:
        assert code == 2, errors
        assert "broken_prior" in errors
        assert "RuntimeError: out of order" in errors
        assert "Traceback" not in errors
    for code, _, errors in done[len(bad) :]:
        assert code == 0, errors
