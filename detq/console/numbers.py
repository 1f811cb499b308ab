"""Numbers in a table."""

from __future__ import annotations


def number(value: float | None, digits: int = 2) -> str:
    """With so many decimals; ``-`` for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def difference(value: float | None, first: float | None) -> str:
    """To the first, with its sign; ``-`` where one of them is None."""
    return "-" if value is None or first is None else f"{value - first:+.2f}"


def percent(share: float | None, digits: int = 0) -> str:
    """``95%`` of 0.95; ``-`` for None."""
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def ratio(value: float | None) -> str:
    """``1.25x``; ``-`` for None."""
    return "-" if value is None else f"{value:.2f}x"
