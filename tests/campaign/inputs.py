"""Mutated inputs: a case is a job with one to three mutations, by the seed and its number."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from campaign.material import JOBS, STUDIES, copy
from campaign.mutations import mutate_file, mutate_words
from campaign.running import SECONDS, SECONDS_OF_A_PROCESS, Outcome, forked, listing, process

# Slow jobs come less often.
WEIGHTS = {
    "audit": 0.2,
    "compare": 0.3,
    "tune": 0.4,
    "codes": 0.3,
    "verify": 0.3,
    "demo": 0.2,
    "reproduce": 0.4,
}
# A file that is no longer what its digest was made of is refused, whatever the change.
DIGESTED = ("prior/model", "classes/model", "gaussian/model", "mixture/model", "codes/codes")


@dataclass(frozen=True)
class Result:
    """What became of a case: its number, command line, mutations, exit code, and what is wrong with it, if anything."""

    number: int
    words: list[str]
    done: list[str]
    real: bool
    code: int | None
    fault: str | None
    said: str
    cpu: float
    gib: float


def run_case(material: Path, folder: Path, seed: int, number: int, share_of_processes: float) -> Result:
    """Makes a case and runs it."""
    chance = random.Random(f"{seed}/{number}")
    name = chance.choices(list(JOBS), [WEIGHTS.get(name, 1.0) for name in JOBS])[0]
    command, reads = JOBS[name]
    real = chance.random() < share_of_processes and name not in STUDIES
    shutil.rmtree(folder, ignore_errors=True)
    copy(material, folder)
    _strange_files(folder)
    words = [*command.split(), "--out", "out"]
    earlier = chance.random() < 0.5
    if earlier:
        write_earlier(folder / "out")
        words.append("--overwrite")
    done = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if not reads or chance.random() < 0.45:
            words, how = mutate_words(chance, words)
        else:
            try:
                how = mutate_file(chance, folder, reads)
            except Exception as error:  # (the second mutation of a file that the first one spoilt)
                how = f"no second mutation: {type(error).__name__}"
        done.append(how)
    before = listing(folder)
    seconds = SECONDS_OF_A_PROCESS if real else SECONDS
    outcome = process(words, folder) if real else forked(words, folder)
    fault = outcome.fault(seconds) or _wrong(folder, material, before, outcome, words, done)
    said = (outcome.err.strip() or outcome.out.strip())[-3000:]
    return Result(number, words, done, real, outcome.code, fault, said, outcome.cpu, outcome.gib)


def write_earlier(out: Path) -> None:
    """An earlier result."""
    out.mkdir()
    (out / "report.json").write_text('{"earlier": "keep me"}')
    (out / ".otprior").write_text('{"files": ["report.json"]}')


def _strange_files(folder: Path) -> None:
    (folder / "empty").touch()
    (folder / "noise").write_bytes(random.Random(0).randbytes(999))
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")


def _wrong(
    folder: Path,
    material: Path,
    before: dict[str, tuple[int, ...]],
    outcome: Outcome,
    words: list[str],
    done: list[str],
) -> str | None:
    """What a run did to its folder that it must not do, whatever it said."""
    after = listing(folder)
    changed = [name for name, facts in before.items() if after.get(name) != facts]
    new = [name for name in after if name not in before]
    if outcome.code != 0:
        kept = [name for name in new if name.split("/")[0].endswith(".work")]
        if changed:
            return f"changed although it failed: {changed[:3]}"
        # (In forks these two are short studies of ours.)
        if set(new) - set(kept) or (kept and outcome.code == 2 and words[0] not in ("demo", "reproduce")):
            return f"left behind: {new[:3]}"
        return None
    # (A mutation may have named another output, which is replaced if a run wrote all of it.)
    outs = {words[k + 1] for k, word in enumerate(words[:-1]) if word == "--out"} | {"out"}
    changed = [name for name in changed if name.split("/")[0] not in outs]
    if changed:
        return f"changed inputs: {changed[:3]}"
    hidden = [name for name in new if name.startswith(".")]
    if hidden:
        return f"left behind: {hidden[:3]}"
    if len(done) == 1 and done[0].startswith(DIGESTED) and not re.search("digest (new|dropped)", done[0]):
        used, file = done[0].split("/")[0], done[0].split(":")[0]
        read = any(word.split("/")[0] == used for word in words)
        if read and _differ(material / file, folder / file):
            return "took a file that its digest does not fit"
    return next(garbage(folder / "out"), None) if (folder / "out").is_dir() else None


def _differ(one: Path, other: Path) -> bool:
    """Whether two files of tensors say different things: some mutations change none, as those of an empty tensor."""
    from safetensors import safe_open

    found = []
    for path in (one, other):
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found.append(
                (file.metadata(), {name: (a.dtype, a.shape, a.tobytes()) for name, a in tensors.items()})
            )
    return found[0] != found[1]


def garbage(out: Path) -> Iterator[str]:
    """Results that are not numbers, or not JSON."""
    import numpy as np
    from safetensors.numpy import load_file

    def refuse(text: str) -> float:
        raise ValueError(f"{text} in JSON")

    for path in sorted(out.rglob("*")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
            arrays = {}
            if path.suffix == ".npz":
                arrays = dict(np.load(path))
            elif path.suffix == ".safetensors":
                arrays = load_file(path)
        except Exception as error:
            yield f"wrote {path.relative_to(out)}, which cannot be read: {error}"
            continue
        for name, array in arrays.items():
            # (An atom that gets no mass, as the second of two equal ones, has an offset of minus infinity.)
            least = -np.inf if name == "potential" else np.finfo(np.float64).min
            if array.dtype.kind == "f" and not ((array >= least) & (array < np.inf)).all():
                yield f"wrote NaN: {path.relative_to(out)}, {name}"


def main(material: Path, work: Path, seed: int, first: int, last: int, share: float) -> Iterator[Result]:
    """Runs the cases numbered from `first` to `last`."""
    for number in range(first, last):
        result = run_case(material, work / "case", seed, number, share)
        if result.fault:
            print(f"{number}: {result.fault}: {result.done}", file=sys.stderr, flush=True)
        yield result
