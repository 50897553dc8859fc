"""Studies of other packages: found by their entry point, their settings read, checked and handed on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from otprior.experiments import study as studies
from otprior.experiments.study import Request, Size, Study, find_study, read_pairs, study_names
from otprior.utils import plugins as plugins_module
from otprior.utils.validation import require


@dataclass(frozen=True)
class Settings:
    """Settings of the study below."""

    steps: int = 5
    rate: float = 0.5
    quick: bool = False
    name: str = "one"

    def __post_init__(self) -> None:
        require(self.steps > 0, "steps", "positive", self.steps)


STUDY = Study(
    title="A question",
    summary="An answer.",
    module="answering",
    settings=Settings,
    usual=Size(100),
    fast=Size(12, {"steps": 1}),
)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose entry point names the study, and whose module answers with what it was asked for."""
    module = ModuleType("answering")
    module.run = lambda request: {"": request}  # type: ignore[attr-defined]
    module.STUDY = STUDY  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "answering", module)
    entry = EntryPoint("question", "answering:STUDY", studies.GROUP)
    for module_of in (studies, plugins_module):
        monkeypatch.setattr(module_of, "plugins", lambda _: (entry,))


def asked(**given: Any) -> Request:
    request = find_study("question").request(Path("work"), **given)
    answer: Any = find_study("question").run(request)[""]
    assert isinstance(answer, Request)
    return answer


def test_a_study_is_found_by_its_entry_point_and_runs() -> None:
    assert study_names() == ("question",)
    usual, fast = asked(), asked(size="fast", samples=20)
    assert (usual.samples, usual.settings) == (100, Settings())
    assert (fast.samples, fast.settings) == (20, Settings(steps=1))
    with pytest.raises(ValueError, match="size full must be one that the study has"):
        asked(size="full")
    with pytest.raises(ValueError, match="study must be one of 'question'"):
        find_study("other")


def test_settings_are_read_as_what_their_types_are() -> None:
    pairs = read_pairs(["steps=3", "rate=1e-2", "quick=true", "name=a=b"])
    assert asked(size="fast", settings=pairs).settings == Settings(3, 0.01, True, "a=b")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("steps", "--set must be NAME=VALUE; got 'steps'"),
        ("step=1", "the NAME of --set must be one of"),
        ("steps=few", "--set steps must be a valid integer; got 'few'"),
        ("rate=fast", "--set rate must be a valid number; got 'fast'"),
        ("quick=perhaps", "--set quick must be a valid boolean; got 'perhaps'"),
        ("steps=0", "steps must be positive; got 0"),
    ],
)
def test_bad_settings_are_refused_by_name(pair: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(settings=read_pairs([pair]))
