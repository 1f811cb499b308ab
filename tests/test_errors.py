"""A message is one short printable line, whatever a file put into it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detq.errors import DataError, one_line, shown


@given(st.text(max_size=200))
def test_a_message_is_one_printable_line(text: str) -> None:
    assert str(DataError(text)).isprintable()


def test_a_plain_message_stays_as_it_is() -> None:
    assert one_line("größe.pt: café 日本 is missing; check the path") == (
        "größe.pt: café 日本 is missing; check the path"
    )


@pytest.mark.parametrize("control", ["\x1b[2J", "\x00", "\x9b31m", "\u202e", "\u2028"])
def test_terminals_are_told_nothing(control: str) -> None:
    assert one_line(f"a{control}b").isprintable()


def test_a_long_message_keeps_what_to_do_next() -> None:
    line = one_line(f"{'x' * 10_000}; check the path")
    assert len(line) < 2000
    assert line.endswith("; check the path")


def test_a_value_that_shares_its_parts_is_short() -> None:
    value: list[object] = []
    for _ in range(60):
        value = [value, value, value]
    assert len(shown(value)) < 200


@pytest.mark.parametrize(
    "value",
    [10**6000, "x" * 10**6, {i: i for i in range(9999)}, [[[[[]]]]]],
    ids=["integer", "text", "dict", "nested"],
)
def test_any_value_is_short(value: object) -> None:
    assert len(shown(value)) < 200
