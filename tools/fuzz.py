"""Damaged and hostile files of every format that detq reads, each in a process of its own.

    python tools/fuzz.py checkpoint --examples 20000
    python tools/fuzz.py safetensors onnx ir yaml json image zip cache --examples 2000

Hypothesis edits healthy files (flips, cuts, copies, telling numbers, also inside a checkpoint's
pickle and among the digits and words of text) and a child process reads the result as detq does.
It must end by itself, within 10 s of processor time and 2 GiB, with the file read or a DetqError of
one printable line. Anything else fails, is shrunk, and kept in --keep. Healthy files come from the
folder of test data (``$DETQ_SHARED``, or ``../shared``); Linux only.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
from fuzz_edits import BINARY, TEXT, Edit, edits, in_pickle, plainly
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from detq import api
from detq.adapters import fuse_model, load_checkpoint
from detq.adapters.ultralytics_package import import_tasks
from detq.config import read_dataset, read_recipe
from detq.data import load_split, read_image_bgr
from detq.downloads.unpack import unpack
from detq.errors import DetqError, DownloadError
from detq.quant.observation_store import ObservationStore

LIMIT_S, LIMIT_BYTES = 10, 2 << 30
SHARED = Path(os.environ.get("DETQ_SHARED", Path(__file__).parents[2] / "shared"))


Seed = tuple[str, bytes]
"""Name and content of a healthy file."""


@dataclass(frozen=True)
class Format:
    """Healthy files, how they are edited, and what detq does with the result."""

    seeds: Callable[[], list[Seed]]
    read: Callable[[Path], object]
    kinds: Sequence[str] = BINARY
    edit: Callable[[bytes, list[Edit]], bytes] = plainly


def _seeds(*patterns: str) -> Callable[[], list[Seed]]:
    return lambda: _read(path for pattern in patterns for path in SHARED.glob(pattern))


def _read(paths: Iterable[Path]) -> list[Seed]:
    return [(path.name, path.read_bytes()) for path in sorted(paths)]


def _read_checkpoint(path: Path) -> None:
    fuse_model(load_checkpoint(path, size_hw=None))


def _read_yaml(path: Path) -> None:
    """As a data set, a recipe, the description of a network, and beside an exported graph."""
    errors = []
    folder = path.parent / "model"
    folder.mkdir(exist_ok=True)
    for name in ("m.xml", "m.bin"):
        (folder / name).touch()
    shutil.copy(path, folder / "metadata.yaml")
    for read, source in (
        (read_dataset, path),
        (read_recipe, path),
        (load_checkpoint, path),
        (api.load, folder),
    ):
        try:
            read(source)
        except DetqError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _read_json(path: Path) -> None:
    """As the annotations of a data set of one image."""
    yaml = path.with_name("data.yaml")
    images = path.parent / "images"
    images.mkdir(exist_ok=True)
    yaml.write_text("val: images\nnames: [a, b]\nannotations: {val: file.json}\n")
    api_image = np.zeros((40, 60, 3), np.uint8)
    api.write_image(images / "a.png", api_image)
    load_split(read_dataset(yaml), "val")


def _read_zip(path: Path) -> None:
    try:
        unpack(path, "x", path.parent / "out", scratch=path.parent / "scratch")
    except OSError as error:  # whoever calls it says that nothing can be written there
        raise DownloadError(str(error)) from None


def _read_cache(path: Path) -> None:
    store = ObservationStore(path.parent, "images")
    shutil.copy(path, store._path("about"))
    found = store.read("about")
    if found is not None and path.read_bytes() != _healthy_cache():
        raise AssertionError("a damaged entry was believed")


def _healthy_cache() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        store = ObservationStore(Path(folder), "images")
        store.write("about", {"counts": np.arange(500.0), "edges": np.linspace(0, 1, 501)})
        return store._path("about").read_bytes()


def _read_ir(path: Path) -> None:
    """The graph of an exported directory whose weights are whole."""
    folder = path.parent / "model"
    folder.mkdir(exist_ok=True)
    source = SHARED / "cases/hostile/meta_inf_imgsz"
    shutil.copy(source / "yolov6_lite_s.bin", folder)
    metadata = (source / "metadata.yaml").read_text()
    (folder / "metadata.yaml").write_text(metadata.replace("[.inf, .inf]", "[320, 320]"))
    shutil.copy(path, folder / "yolov6_lite_s.xml")
    api.load(folder)


def _healthy_json() -> bytes:
    objects = [
        {"id": n, "image_id": 1, "category_id": n % 2 + 1, "bbox": [1, 2, 10, 12], "area": 120}
        for n in range(1, 5)
    ]
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
            "annotations": objects,
        }
    ).encode()


def _healthy_zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("x/a.txt", "x/b/c.txt"):
            file.writestr(name, b"content" * 100)
    return made.getvalue()


def _healthy_images() -> list[Seed]:
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for ending in (".bmp", ".jpg", ".png", ".tif", ".webp"):
            api.write_image(Path(folder) / f"a{ending}", picture)
        return _read(Path(folder).iterdir())


FORMATS = {
    "checkpoint": Format(
        _seeds("goldens/yolov6/*.pt", "goldens/repvgg/*.pth"), _read_checkpoint, edit=in_pickle
    ),
    "safetensors": Format(
        lambda: _read(api.EMBEDDED.glob("*.safetensors")), _read_checkpoint, TEXT
    ),
    "onnx": Format(_seeds("checkpoints/yolov6lite_s_det.onnx", "models/*.onnx"), api.load, TEXT),
    "ir": Format(_seeds("cases/hostile/meta_inf_imgsz/*.xml"), _read_ir, TEXT),
    "yaml": Format(
        lambda: _read([*api.builtin_recipes(), *SHARED.glob("data/*/data.yaml")]),
        _read_yaml,
        TEXT,
    ),
    "json": Format(lambda: [("file.json", _healthy_json())], _read_json, TEXT),
    "image": Format(_healthy_images, read_image_bgr),
    "zip": Format(lambda: [("file.zip", _healthy_zip())], _read_zip),
    "cache": Format(lambda: [("file.npz", _healthy_cache())], _read_cache),
}


def outcome(read: Callable[[Path], object], content: bytes, name: str, folder: Path) -> str:
    """``read``, ``refused``, or what is wrong with how the child process ended."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path, note = folder / name, folder / "note"
    path.write_bytes(content)
    child = os.fork()
    if child == 0:
        _in_child(read, path, note)
    _, status, used = os.wait4(child, 0)
    if os.WIFSIGNALED(status):
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    if used.ru_maxrss * 1024 > LIMIT_BYTES:
        return f"took {used.ru_maxrss / 2**20:.1f} GiB"
    if (SHARED / "ran").exists() or (folder / "ran").exists():
        return "something in the file was executed"
    return note.read_text(errors="replace") if note.exists() else "left no word"


def _in_child(read: Callable[[Path], object], path: Path, note: Path) -> None:
    """Never returns."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(path.parent)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        read(path)
        word = "read"
    except DetqError as error:
        printable = str(error).isprintable() and len(str(error)) < 4000
        word = "refused" if printable else f"no printable line: {str(error)[:200]!r}"
    except BaseException as error:
        word = f"{type(error).__name__}: {error}"[:500]
    note.write_text(word, errors="backslashreplace")
    os._exit(0)


def fuzz(name: str, *, examples: int, seed: int, keep: Path | None) -> Counter[str]:
    """Read that many edited files. Raises AssertionError for one that did not end well."""
    kind = FORMATS[name]
    seeds = kind.seeds()
    if not seeds:
        raise SystemExit(f"{name}: no healthy files in {SHARED}")
    counts: Counter[str] = Counter()
    if kind.read in (_read_checkpoint, _read_yaml):
        import_tasks()  # once, not in every child

    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:

        @hypothesis.seed(seed)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(seeds), edits(kind.kinds))
        def read_one(healthy: tuple[str, bytes], changes: list[Edit]) -> None:
            content = kind.edit(healthy[1], changes)
            word = outcome(kind.read, content, healthy[0], Path(scratch) / "one")
            counts[word if word in ("read", "refused") else "failed"] += 1
            if word not in ("read", "refused"):
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{name}-{healthy[0]}").write_bytes(content)
                raise AssertionError(f"{name}, from {healthy[0]}: {word}")

        read_one()
    return counts


def _progress(names: Sequence[str], arguments: argparse.Namespace) -> Iterator[str]:
    for name in names:
        started_s = time.monotonic()
        counts = fuzz(name, examples=arguments.examples, seed=arguments.seed, keep=arguments.keep)
        told = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
        yield f"{name}: {told}, {time.monotonic() - started_s:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("formats", nargs="+", choices=FORMATS)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for what did not end well")
    arguments = parser.parse_args()
    for line in _progress(arguments.formats, arguments):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
