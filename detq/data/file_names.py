"""File names that other programs wrote down, and the files that they mean."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote


def normal_name(name: str) -> str:
    """macOS writes letters and their accents apart; here they are put together."""
    return unicodedata.normalize("NFC", name)


def spellings(written: str) -> Iterator[PurePosixPath]:
    """What a written path may mean: itself, or one of Windows, or of a URL (``%20``)."""
    name = normal_name(written)
    for text in dict.fromkeys((name, name.replace("\\", "/"), unquote(name.replace("\\", "/")))):
        yield PurePosixPath(text)


def matching_images(written: str, by_name: Mapping[str, Sequence[Path]]) -> list[Path]:
    """The images that a written path may mean: those whose path ends most like it.

    ``by_name`` are images by their :func:`normal_name`. Exporters disagree on where a path starts.
    """
    for spelling in spellings(written):
        namesakes = by_name.get(spelling.name, [])
        shared = [_shared_steps(path, spelling) for path in namesakes]
        if shared:
            most = max(shared)
            return [path for path, steps in zip(namesakes, shared, strict=True) if steps == most]
    return []


def _shared_steps(path: Path, written: PurePosixPath) -> int:
    """How many of the last steps are the same."""
    count = 0
    for ours, theirs in zip(reversed(path.parts), reversed(written.parts), strict=False):
        if normal_name(ours) != theirs:
            break
        count += 1
    return count
