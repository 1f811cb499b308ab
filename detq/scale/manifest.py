"""What a run has to do, written down before it begins: the same on every machine and after every
interruption.

``_manifest.json`` says with which model and options, ``_shards.jsonl`` what each shard reads, one
line each. A shard is done when its file of rows is there, which appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detq.data.sources import Entry
from detq.errors import ArtifactError
from detq.files import atomic_write, staged

MANIFEST, SHARDS = "_manifest.json", "_shards.jsonl"
"""Readers of folders of Parquet leave out what begins with an underscore."""
MADE = ("predictions.json", "predictions.csv", "labels")
"""What is made of rows when all are there."""
SCHEMA = 1


@dataclass(frozen=True)
class Manifest:
    """A run: ``model`` is its SHA-256, ``images`` how many there are if that is known before they
    are read, ``sha256`` that of the list of shards.
    """

    model: str
    options: dict[str, Any]
    sources: tuple[str, ...]
    shards: int
    images: int | None
    sha256: str
    schema: int = SCHEMA

    def part(self, directory: Path, index: int) -> Path:
        """Where the rows of a shard are."""
        name = f"predictions-{index:06d}-of-{self.shards:06d}.{self.options['format']}"
        return directory / name

    def parts(self, directory: Path) -> list[Path]:
        """Where the rows of every shard are, done or not."""
        return [self.part(directory, index) for index in range(self.shards)]


def plan(
    directory: Path,
    *,
    model: str,
    options: dict[str, Any],
    sources: Iterable[str],
    entries: Iterable[Entry],
    trusted: bool = False,
) -> Manifest:
    """Write down what is to be done, or find that it was written down before.

    Before, means by a run of the same model, options and images; ``trusted``, the images are taken
    as they were listed, without looking again. Raises ArtifactError, naming the difference, if
    ``directory`` holds another run, or cannot be written.
    """
    known, given = _read(directory), tuple(sources)
    if known is not None:
        _refuse(directory, known, {"model": model, "sources": given}, options)
        if trusted:
            return known
        lines, images, sha256 = _count(entries)
        if sha256 != known.sha256:
            now = f"{_images(images)} in {lines} shards"
            raise _other(
                directory,
                f"images: {_images(known.images)} in {known.shards} shards then, {now} "
                "now, or others",
            )
        return known
    for name in MADE:
        if (directory / name).exists():
            raise ArtifactError(
                f"{directory / name}: is there already, and of no run; pass another --output"
            )
    try:
        with staged(directory / SHARDS) as path, path.open("wb") as file:
            lines, images, sha256 = _count(entries, file)
        manifest = Manifest(model, options, given, lines, images, sha256)
        text = json.dumps(asdict(manifest), indent=2)
        atomic_write(directory / MANIFEST, f"{text}\n".encode(errors="backslashreplace"))
    except OSError as error:
        raise ArtifactError(
            f"{directory}: cannot be written ({error.strerror}); pass another --output"
        ) from None
    return manifest


@dataclass(frozen=True)
class Shard:
    """One of a run: where its line is in the list, in bytes, where its rows go, and how many
    ``images`` it has, 0 if only reading tells.
    """

    index: int
    offset: int
    part: Path
    images: int

    def entry(self) -> Entry:
        """What it reads. Raises OSError."""
        with (self.part.parent / SHARDS).open("rb") as file:
            file.seek(self.offset)
            return Entry.from_dict(json.loads(file.readline()))


def shards_to_do(
    directory: Path, manifest: Manifest, *, first: int = 0, step: int = 1
) -> Iterator[Shard]:
    """The shards whose rows are not there yet, of every ``step`` the one numbered ``first``."""
    offset = 0
    with (directory / SHARDS).open("rb") as file:
        for index, line in enumerate(file):
            part = manifest.part(directory, index)
            if index % step == first and not part.exists():
                yield Shard(index, offset, part, Entry.from_dict(json.loads(line)).images or 0)
            offset += len(line)


def shards_listed(directory: Path) -> Iterator[Entry]:
    """What every shard reads, done or not, in order."""
    with (directory / SHARDS).open("rb") as file:
        for line in file:
            yield Entry.from_dict(json.loads(line))


def _count(entries: Iterable[Entry], file: Any = None) -> tuple[int, int | None, str]:
    """How many shards and images there are, and the digest of their lines, which are written."""
    found = hashlib.sha256()
    lines, images = 0, 0
    is_known = True
    for entry in entries:
        line = f"{json.dumps(entry.to_dict())}\n".encode()
        found.update(line)
        if file is not None:
            file.write(line)
        lines += 1
        images += entry.images or 0
        is_known &= entry.images is not None
    return lines, images if is_known else None, found.hexdigest()


def _read(directory: Path) -> Manifest | None:
    path = directory / MANIFEST
    try:
        if not path.exists():
            return None
        values = json.loads(path.read_bytes())
        manifest = Manifest(**{**values, "sources": tuple(values["sources"])})
        if manifest.schema != SCHEMA or not (directory / SHARDS).is_file():
            raise ValueError("another version of it, or no list of shards")
        return manifest
    except (OSError, ValueError, TypeError, KeyError) as error:
        what = error if isinstance(error, OSError) else "damaged, or of another program"
        raise ArtifactError(
            f"{path}: is no manifest of a run ({what}); pass another --output"
        ) from None


def _refuse(
    directory: Path, known: Manifest, given: dict[str, Any], options: dict[str, Any]
) -> None:
    pairs: list[tuple[str, Any, Any]]
    pairs = [("model", known.model[:12], given["model"][:12])]
    pairs += [("source", " ".join(known.sources), " ".join(given["sources"]))]
    names = sorted({*known.options, *options})
    pairs += [(name, known.options.get(name), options.get(name)) for name in names]
    differing = [f"{name}: {then} then, {now} now" for name, then, now in pairs if then != now]
    if differing:
        raise _other(directory, "; ".join(differing))


def _other(directory: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{directory}: holds the results of another run ({what}); pass another --output, or remove "
        "it"
    )


def _images(count: int | None) -> str:
    return "an unknown number" if count is None else f"{count}"
