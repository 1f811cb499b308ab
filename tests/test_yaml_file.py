"""The reader of YAML files: bounded, one error line whatever the file holds, names stay text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from detq.errors import ConfigError
from detq.yaml_file import MAX_BYTES, MAX_DEPTH, read_yaml


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "file.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (
            "names: [no, 1e3, 3.10, 2024-01-01, ~, cat]",
            ["no", "1e3", "3.10", "2024-01-01", "~", "cat"],
        ),
        ("names: {0: yes, 1: 010}", {0: "yes", 1: "010"}),
        ("names:\n- null\n-", ["null", None]),
        ("names: ['1', \"2\"]", ["1", "2"]),
    ],
)
def test_names_stay_as_they_are_written(tmp_path: Path, text: str, values: object) -> None:
    assert read_yaml(written(tmp_path, text), text_under=("names",)) == {"names": values}


def test_other_values_are_numbers(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "nc: 3\nnames: [1]"), text_under=("names",))["nc"] == 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_read(tmp_path: Path, encoding: str) -> None:
    assert read_yaml(written(tmp_path, "name: Größe".encode(encoding))) == {"name": "Größe"}


def bomb(line: str, levels: int = 9) -> str:
    """Each level stands for ten of the one before."""
    lines = ["m0: &m0 {k: v}"]
    lines += [
        f"m{i}: &m{i}\n  {line.format(','.join([f'*m{i - 1}'] * 10))}" for i in range(1, levels)
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb("<<: [{}]"), "more than 500000 values"),
        (bomb("a: [{}]"), "more than 500000 values"),
        ("a: &a [*a]", "inside itself"),
        ("a: *nothing", "stands for nothing|for nothing"),
        ("[" * 200_000, f"deeper than {MAX_DEPTH}"),
        ("name: 2024-13-45", "month"),
        ("? [a]\n: b", "not a YAML file"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: !!binary x", "not a YAML file"),
        (f"a: {'9' * 5000}", "not a YAML file"),
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' is there twice"),
        ("- a\n- b", "expected `key: value` lines"),
        ("", "expected `key: value` lines"),
        (b"\xff\xfe\x00", "no UTF-8 text"),
        (b"a: \xe9", "no UTF-8 text"),
        ("a: \x1b[31m", "not a YAML file"),
    ],
)
def test_what_cannot_be_read_is_one_error(tmp_path: Path, text: str | bytes, reason: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=reason) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).isprintable()


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has more than"):
        read_yaml(written(tmp_path, "#" * (MAX_BYTES + 1)))


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="no regular file"):
        read_yaml(tmp_path / "pipe.yaml")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc: -#[]{}'\"", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abc", max_size=3), plain, max_size=4))
def test_a_harmless_document_is_what_it_is(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]
) -> None:
    path = written(tmp_path_factory.mktemp("yaml"), yaml.safe_dump(document))
    assert read_yaml(path) == document


@settings(max_examples=200, deadline=None)
@given(st.text("ab:-?[]{},&*!|>'\"#%@`\n \t0123<~", max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = written(tmp_path_factory.mktemp("yaml"), text)
    try:
        assert isinstance(read_yaml(path, text_under=("a",)), dict)
    except ConfigError as error:
        assert str(error).isprintable()
