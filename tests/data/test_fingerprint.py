from __future__ import annotations

from pathlib import Path

import pytest

from detq.data.fingerprint import content_overlap, fingerprint
from detq.errors import DataError


def _files(folder: Path, **contents: str) -> list[Path]:
    folder.mkdir()
    paths = []
    for name, content in contents.items():
        paths.append(folder / name)
        paths[-1].write_text(content)
    return paths


def test_fingerprint_is_of_the_contents_alone(tmp_path: Path) -> None:
    first = _files(tmp_path / "one", a="x", b="y")
    renamed = _files(tmp_path / "two", c="y", d="x")
    other = _files(tmp_path / "three", a="x", b="z")
    assert fingerprint(first) == fingerprint(renamed)
    assert fingerprint(first) != fingerprint(other)
    assert fingerprint(first) != fingerprint([*first, first[0]])


def test_overlap_finds_the_same_image_under_another_name(tmp_path: Path) -> None:
    first = _files(tmp_path / "one", a="same", b="only here")
    second = _files(tmp_path / "two", c="size", d="same", e="elsewhere")
    assert content_overlap(first, second) == ((first[0], second[1]),)
    assert content_overlap(first[1:], second) == ()


def test_unreadable_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    for check in (
        lambda: fingerprint([tmp_path / "a"]),
        lambda: content_overlap([tmp_path / "a"], []),
    ):
        with pytest.raises(DataError, match="/a: cannot be read"):
            check()
