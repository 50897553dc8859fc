"""Mutations of arguments and files: each is a random choice of one generator, and says in words what it did.

Files are replaced, never written into: what they were linked to stays.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Random = random.Random

# Numbers that are small, or that a bound has to refuse: nothing that takes long and is right.
NUMBERS = (
    *("0", "1", "2", "3", "7", "-1", "-0", "0.5", "1e-320", "1e-300", "1e300", "1e308", "inf", "-inf", "nan"),
    *(
        "1000000000",
        "2147483648",
        "9223372036854775808",
        "99999999999999999999999",
        "0x10",
        "1_000",
        "１",
        "٣",
    ),
    *(
        "1e5",
        "1.5",
        "1,2",
        "3-1",
        "0-99999999999",
        "0-",
        "-",
        ",",
        ",,",
        "5,5",
        "1:2",
        "none",
        "auto",
        "None",
    ),
)
TEXTS = (
    *(
        "",
        " ",
        "\t",
        "a",
        "[bold]",
        "[/]",
        "[red]x[/red]",
        "%s",
        "{0}",
        "\\",
        "'",
        '"',
        "é",
        "日本",
        "🙂",
        "\u202e",
    ),
    *(
        "\udcff",
        "x" * 300,
        "x" * 5000,
        "--",
        "-",
        "-x",
        "--out",
        "@",
        "@1",
        "none@",
        "a=b",
        "=",
        "None",
        "null",
    ),
    *("cpu", "cuda", "cuda:99", "meta", "mps", "xla", "ddim", "LMSDiscreteScheduler", "os.system", "karras"),
    *(
        "semidiscrete",
        "identity",
        "gaussian",
        "random_atom",
        "bundled",
        "owner/name",
        "a/b/c",
        "http://x/y",
        "RGB",
    ),
)
PATHS = (
    *(
        "missing",
        ".",
        "..",
        "/",
        "/dev/null",
        "/dev/zero",
        "/proc/self/mem",
        "fifo",
        "empty",
        "noise",
        "x" * 300,
    ),
    *(
        "loop",
        "dangling",
        "model",
        "prior",
        "classes",
        "gaussian",
        "mixture",
        "samples",
        "codes",
        "extractor",
    ),
    *("data.npz", "data.npy", "data.safetensors", "samples.npz", "ref.npz", "held.npz", "val.npz", "folder"),
    *(
        "codes/codes.safetensors",
        "pictures.zip",
        "settings.json",
        "scheduler_config.json",
        "samples/starts.npz",
    ),
    *(
        "prior/config.json",
        "prior/model.safetensors",
        "model/unet",
        "model/unet/config.json",
        "~",
        "~root",
        "$HOME",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3.5, 10**9, 2**63, 10**30, -(10**30), 1e308, 1e-320, float("nan")),
    *(
        float("inf"),
        "",
        "a",
        "0",
        "é",
        "[bold]",
        "x" * 3000,
        [],
        [1],
        [None],
        [[]],
        {},
        {"a": 1},
        [1e300] * 3,
    ),
)
OTHER = ("threads", "workers", "compile", "full", "debug", "help", "minutes", "samples")


# Arguments -----------------------------------------------------------------------------------------------


def options_of(command: str) -> list[Any]:
    """The parameters of a command."""
    from otprior.cli.commands import Commands

    return [param for param in Commands()[command].params if param.name not in OTHER]


def hostile_word(chance: Random, param: Any = None) -> str:
    """A value for an option; more often of its kind than not."""
    kind = "" if param is None else str(param.type_descriptor.annotation)
    pools: list[tuple[str, ...]] = [NUMBERS, TEXTS, PATHS]
    if "int" in kind or "float" in kind:
        # (Most of what is no number of the kind is refused by one line of typer's.)
        pools = [
            tuple(word for word in NUMBERS if _reads(float if "float" in kind else int, word))
        ] * 9 + pools
    elif "Path" in kind or getattr(param, "param_type_name", "") == "argument":
        pools = [PATHS] * 4 + pools
    return chance.choice(chance.choice(pools))


def _reads(kind: Callable[[str], Any], word: str) -> bool:
    try:
        kind(word)
    except ValueError:
        return False
    return True


def mutate_words(chance: Random, words: list[str]) -> tuple[list[str], str]:
    """Another command line, and what was done."""
    words = list(words)
    places = range(1, len(words))
    how = chance.choice(("option",) * 12 + ("replace",) * 3 + ("drop", "double", "swap", "cut", "graft"))
    if how == "option":
        param = chance.choice(options_of(words[0]))
        if param.param_type_name == "argument":
            return mutate_words(chance, words)
        told = [param.opts[0]]
        if not param.is_flag:
            told.append(hostile_word(chance, param))
            if param.opts[0] in words and chance.random() < 0.8:
                words[words.index(param.opts[0]) + 1] = told[1]
                return words, f"{' '.join(told)!r}"
        return [*words, *told], f"{' '.join(told)!r}"
    at = chance.choice(places)
    if how == "replace":
        before = words[at - 1]
        params = [param for param in options_of(words[0]) if before in param.opts]
        words[at] = hostile_word(chance, params[0] if params else None)
    elif how == "drop":
        del words[at]
    elif how == "double":
        words.insert(at, words[at])
    elif how == "swap":
        other = chance.choice(places)
        words[at], words[other] = words[other], words[at]
    elif how == "cut":
        words[at] = words[at][: chance.randrange(len(words[at]) + 1)]
    else:
        words.insert(at, hostile_word(chance))
    return words, f"{how} word {at}"


# Files: bytes, and what is no file ------------------------------------------------------------------------


def replace_file(path: Path, content: bytes) -> None:
    """Puts content in place of whatever a path is."""
    remove(path)
    path.write_bytes(content)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def mutate_bytes(chance: Random, path: Path) -> str:
    """Damages a file without looking at what it is."""
    content = path.read_bytes()
    how = chance.choice(("truncate", "flip", "flip", "zero", "append", "empty", "noise", "double", "insert"))
    at = chance.randrange(len(content) + 1)
    if how == "truncate":
        content = content[:at]
    elif how == "flip":
        damaged = bytearray(content or b" ")
        for _ in range(chance.choice((1, 1, 4, 16))):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        content = bytes(damaged)
    elif how == "zero":
        length = chance.randrange(1, 400)
        content = content[:at] + bytes(min(length, len(content) - at)) + content[at + length :]
    elif how == "append":
        content += chance.randbytes(chance.randrange(1, 100))
    elif how == "empty":
        content = b""
    elif how == "noise":
        content = chance.randbytes(len(content))
    elif how == "double":
        content += content
    else:
        content = content[:at] + chance.randbytes(chance.randrange(1, 9)) + content[at:]
    replace_file(path, content)
    return how


def mutate_kind(chance: Random, path: Path, root: Path) -> str:
    """Puts something else there: nothing, a folder, a pipe, a link, another file."""
    how = chance.choice(("missing", "folder", "pipe", "zero", "dangling", "loop", "other", "other", "text"))
    files = sorted(each for each in root.rglob("*") if each.is_file() and each != path)
    other = chance.choice(files)
    content = other.read_bytes()
    remove(path)
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how in ("zero", "dangling", "loop"):
        path.symlink_to({"zero": "/dev/zero", "dangling": "nothing", "loop": path.name}[how])
    elif how == "other":
        path.write_bytes(content)
        return f"{other.relative_to(root)} in its place"
    elif how == "text":
        path.write_text("no such thing\n")
    return how


# Files: what is in them -----------------------------------------------------------------------------------


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from places_in(inner)


def mutate_value(chance: Random, value: Any) -> tuple[Any, str]:
    """Changes a JSON value at one place."""
    places = list(places_in(value))
    how = chance.choice(("change",) * 6 + ("drop", "drop", "rename", "add", "wrap", "whole"))
    if not places or how in ("wrap", "whole"):
        return ([value] if how == "wrap" else chance.choice(VALUES)), how
    inside, key = chance.choice(places)
    if how == "change":
        old, new = inside[key], chance.choice(VALUES)
        if isinstance(old, int | float) and not isinstance(old, bool) and chance.random() < 0.5:
            new = chance.choice((old + 1, old - 1, -old, old * 1000, str(old), [old], float(old)))
        inside[key] = new
        return value, f"{key} = {str(new)[:40]!r}"
    if how == "drop":
        del inside[key]
    elif how == "rename" and isinstance(inside, dict):
        inside[f"{key}_"] = inside.pop(key)
    elif isinstance(inside, dict):
        inside["strange"] = chance.choice(VALUES)
    else:
        inside.insert(key, chance.choice(VALUES))
    return value, f"{how} {key}"


def mutate_json(chance: Random, path: Path, root: Path) -> str:
    """Changes a JSON file's value, or its text."""
    how = chance.choice(("value",) * 8 + ("deep", "bom", "latin", "twice"))
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, ValueError):
        return mutate_bytes(chance, path) if path.is_file() else "nothing"
    if how == "value":
        value, how = mutate_value(chance, value)
        text = json.dumps(value)
    elif how == "deep":
        text = "[" * 100_000 + "]" * 100_000
    elif how == "twice":
        text = text.rstrip()[:-1] + ", " + text.lstrip()[1:] if text.startswith("{") else text * 2
    content = {"bom": b"\xef\xbb\xbf" + text.encode(), "latin": text.replace("e", "é").encode("latin-1")}
    replace_file(path, content.get(how, text.encode("utf-8", "surrogatepass")))
    return how


def mutate_safetensors(chance: Random, path: Path, root: Path) -> str:
    """Changes the header of a file of tensors, or a tensor; its digest is left stale, made anew, or dropped."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from otprior.utils.arrays import write_tensors

    if chance.random() < 0.35:
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header, how = mutate_value(chance, json.loads(content[8 : 8 + length]))
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        size = chance.choice((len(text),) * 6 + (0, 2**40, len(text) + 9, len(text) - 3))
        replace_file(path, struct.pack("<Q", max(0, size)) + text + content[8 + length :])
        return f"header: {how}"
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = chance.choice(sorted(tensors))
    tensors[name], how = mutate_tensor(chance, tensors[name])
    if chance.random() < 0.15:
        del tensors[name]
        how = "dropped"
    digest = chance.choice(("stale", "new", "dropped"))
    remove(path)
    if digest == "new":
        metadata.pop("sha256", None)
        write_tensors(path, tensors, metadata)
    else:
        if digest == "dropped":
            metadata.pop("sha256", None)
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return f"{name} {how}, digest {digest}"


def mutate_tensor(chance: Random, tensor: Any) -> tuple[Any, str]:
    """A tensor with other entries, shape or type."""
    import torch

    changes: dict[str, Callable[[Any], Any]] = {
        "nan": lambda x: _set(chance, x.double(), float("nan")).to(x.dtype),
        "inf": lambda x: _set(chance, x.double(), float("inf")).to(x.dtype),
        "one entry 1e30": lambda x: _set(chance, x.double(), 1e30).to(x.dtype),
        "zeros": torch.zeros_like,
        "negated": lambda x: -x,
        "times 1e6": lambda x: x * 1_000_000,
        "float64": lambda x: x.double(),
        "float16": lambda x: x.half(),
        "int64": lambda x: x.long(),
        "bool": lambda x: x.bool(),
        "complex": lambda x: x.to(torch.complex64),
        "a row less": lambda x: x[:-1],
        "no rows": lambda x: x[:0],
        "doubled": lambda x: torch.cat([x, x]) if x.ndim else x,
        "flat": lambda x: x.reshape(-1),
        "another axis": lambda x: x[None],
        "turned": lambda x: x.T if x.ndim == 2 else x,
        "shuffled": lambda x: x.flip(0) if x.ndim else x,
    }
    how = chance.choice(sorted(changes))
    return changes[how](tensor), how


def _set(chance: Random, tensor: Any, value: float) -> Any:
    flat = tensor.clone().reshape(-1)
    if len(flat):
        flat[chance.randrange(len(flat))] = value
    return flat.reshape(tensor.shape)


def mutate_array(chance: Random, array: np.ndarray) -> tuple[Any, str]:
    """An array with other entries, shape, type, order."""
    changes: dict[str, Callable[[np.ndarray], Any]] = {
        "nan": lambda a: _put(chance, a.astype(float), np.nan),
        "inf": lambda a: _put(chance, a.astype(np.float32), np.inf),
        "one entry 1e30": lambda a: _put(chance, a.astype(float), 1e30),
        "in 0..1": lambda a: (a + 1) / 2,
        "in 0..255, float": lambda a: (a + 1) * 127.5,
        "uint8": lambda a: ((a + 1) * 127.5).astype(np.uint8),
        "uint16": lambda a: ((a + 1) * 30000).astype(np.uint16),
        "int64": lambda a: a.astype(np.int64),
        "float16": lambda a: a.astype(np.float16),
        "float64": lambda a: a.astype(np.float64),
        "longdouble": lambda a: a.astype(np.longdouble),
        "complex": lambda a: a.astype(np.complex64),
        "bool": lambda a: a > 0,
        "text": lambda a: a.astype("U8"),
        "dates": lambda a: a.astype("int64").astype("datetime64[s]"),
        "objects": lambda a: a.astype(object),
        "big end first": lambda a: a.astype(a.dtype.newbyteorder(">")),
        "columns first": np.asfortranarray,
        "constant": np.zeros_like,
        "no rows": lambda a: a[:0],
        "one row": lambda a: a[:1],
        "rows repeated": lambda a: np.concatenate([a, a]),
        "last axis dropped": lambda a: a[..., 0],
        "another axis": lambda a: a[None],
        "flat": lambda a: a.reshape(-1),
        "channels last": lambda a: np.moveaxis(a, 1, -1) if a.ndim > 1 else a,
        "three channels": lambda a: np.repeat(a, 3, axis=1) if a.ndim > 1 else a,
        "scalar": lambda a: a.reshape(-1)[0],
        "records": lambda a: np.zeros(3, dtype=[("x", "f4")]),
        "negative": lambda a: -np.abs(a) - 1,
        "huge labels": lambda a: np.full(len(a), 10**12),
    }
    how = chance.choice(sorted(changes))
    with np.errstate(all="ignore"):
        return changes[how](array), how


def _put(chance: Random, array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array.flat[chance.randrange(array.size)] = value
    return array


def mutate_numpy(chance: Random, path: Path, root: Path) -> str:
    """Changes an array of a .npz or .npy file, or which arrays there are."""
    loaded = np.load(path)
    file = io.BytesIO()
    if isinstance(loaded, np.ndarray):
        array, how = mutate_array(chance, loaded)
        np.save(file, array)
        replace_file(path, file.getvalue())
        return how
    arrays = dict(loaded)
    name = chance.choice(sorted(arrays))
    what = chance.random()
    if what < 0.75:
        arrays[name], how = mutate_array(chance, arrays[name])
    elif what < 0.85:
        del arrays[name]
        how = "dropped"
    elif what < 0.95:
        arrays[name + "_"] = arrays.pop(name)
        how = "renamed"
    else:
        arrays["x" * 300] = np.zeros(3)
        how = "another array"
    (np.savez_compressed if chance.random() < 0.2 else np.savez)(file, **arrays)
    replace_file(path, file.getvalue())
    return f"{name}: {how}"


def mutate_picture(chance: Random, path: Path, root: Path) -> str:
    """Puts another picture in a picture's place, or something that pretends to be one."""
    from PIL import Image

    image = Image.open(path)
    pixels = np.asarray(image)
    changes: dict[str, Callable[[], Any]] = {
        "another size": lambda: image.resize((5, 9)),
        "one pixel": lambda: image.resize((1, 1)),
        "colours": lambda: image.convert("RGB"),
        "transparent": lambda: image.convert("RGBA"),
        "grey and alpha": lambda: image.convert("LA"),
        "palette": lambda: image.convert("P"),
        "one bit": lambda: image.convert("1"),
        "16 bit": lambda: Image.fromarray(pixels.astype(np.uint16) * 257),
        "32 bit": lambda: Image.fromarray(pixels.astype(np.int32)),
        "floats": lambda: Image.fromarray(pixels.astype(np.float32)),
        "mask": lambda: Image.fromarray((pixels > 127).astype(np.uint8)),
        "CMYK": lambda: image.convert("CMYK"),
    }
    how = chance.choice((*sorted(changes), "postscript", "bomb", "svg", "gif", "strange name"))
    file = io.BytesIO()
    if how in changes:
        form = {"floats": "TIFF", "CMYK": "JPEG"}.get(how, "PNG")
        changes[how]().save(file, format=form)
        replace_file(path, file.getvalue())
    elif how == "postscript":
        replace_file(path, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    elif how == "bomb":
        content = bytearray(path.read_bytes())
        content[16:24] = struct.pack(">II", 60_000, 60_000)
        replace_file(path, bytes(content))
    elif how == "svg":
        replace_file(path, b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    elif how == "gif":
        image.save(file, format="GIF", save_all=True, append_images=[image.rotate(90)])
        replace_file(path, file.getvalue())
    else:
        path.rename(path.with_name("[red]\udcff" + "n" * 100 + ".png"))
    return how


def mutate_zip(chance: Random, path: Path, root: Path) -> str:
    """Adds a member to an archive that no archive should have."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    how = chance.choice(("../up.png", "/etc/x.png", "a.txt", "zeros.png", "dataset.json", "nested.zip"))
    content = {"zeros.png": bytes(1 << 22), "dataset.json": b'{"labels": [["0/0.png", -5]]}'}
    members[how] = content.get(how, b"x")
    if chance.random() < 0.2:
        members = {how: members[how]}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    replace_file(path, file.getvalue())
    return f"with {how}"


INSIDE: dict[str, Callable[[Random, Path, Path], str]] = {
    ".json": mutate_json,
    ".safetensors": mutate_safetensors,
    ".npz": mutate_numpy,
    ".npy": mutate_numpy,
    ".png": mutate_picture,
    ".zip": mutate_zip,
}


def mutate_file(chance: Random, root: Path, reads: tuple[str, ...]) -> str:
    """Changes one of the files that a job reads; returns which, and how."""
    read = chance.choice(reads)
    files = sorted(each for each in [root / read, *(root / read).rglob("*")] if each.is_file())
    # (Each kind as often as the others, however many pictures there are.)
    suffix = chance.choice(sorted({path.suffix for path in files}))
    path = chance.choice([each for each in files if each.suffix == suffix])
    how = chance.random()
    if how < 0.2:
        done = mutate_bytes(chance, path)
    elif how < 0.3 or path.suffix not in INSIDE:
        done = mutate_kind(chance, path, root) if how < 0.6 else mutate_bytes(chance, path)
    else:
        done = INSIDE[path.suffix](chance, path, root)
    return f"{path.relative_to(root)}: {done}"
