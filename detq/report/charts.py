"""Curves as SVG inside the page, in its colours: light or dark, whatever the reader has."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 240, 190
_LEFT, _TOP, _RIGHT, _BOTTOM = 38, 8, 8, 30
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)

Curve = Sequence[float]
"""Values 0..1 at equal steps from 0 to 1; none where it is not defined."""


def curve_svg(
    in_float: Curve,
    in_int8: Curve,
    *,
    title: str,
    across: str,
    up: str,
    best: Sequence[float | None] = (),
) -> Markup:
    """Float (dashed) beside INT8, over axes from 0 to 1 called ``across`` and ``up``.

    ``title`` is for those who cannot see it. ``best`` are places across, of float and of INT8,
    that are marked on their curves.
    """
    lines = [_grid(across, up)]
    for place, (name, curve) in enumerate((("float", in_float), ("int8", in_int8))):
        if not curve:
            continue
        points = " ".join(
            f"{_x(n / (len(curve) - 1)):.1f},{_y(value):.1f}" for n, value in enumerate(curve)
        )
        lines.append(Markup('<polyline class="{} line" points="{}"/>').format(name, points))
        mark = best[place] if best else None
        if mark is not None:
            x, y = _x(mark), _y(curve[round(mark * (len(curve) - 1))])
            lines.append(
                Markup('<circle class="{} dot" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(name, x, y)
            )
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title>{}</svg>'
    ).format(WIDTH, HEIGHT, title, Markup("").join(lines))


def _grid(across: str, up: str) -> Markup:
    """Lines at quarters, numbers at halves, names of the axes."""
    line = Markup('<path class="grid" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>')
    text = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    upright = Markup('<text transform="translate(10 {:.1f}) rotate(-90)">{}</text>')
    drawn = []
    for tick in _TICKS:
        drawn.append(line.format(_x(0), _y(tick), _x(1), _y(tick)))
        drawn.append(line.format(_x(tick), _y(0), _x(tick), _y(1)))
    for tick in _TICKS[::2]:
        drawn.append(text.format(_x(tick), _y(0) + 12, "middle", f"{tick:g}"))
        drawn.append(text.format(_x(0) - 4, _y(tick) + 3, "end", f"{tick:g}"))
    drawn.append(text.format(_x(0.5), HEIGHT - 5, "middle", across))
    drawn.append(upright.format(_y(0.5), up))
    return Markup("").join(drawn)


def _x(value: float) -> float:
    return _LEFT + value * (WIDTH - _LEFT - _RIGHT)


def _y(value: float) -> float:
    return HEIGHT - _BOTTOM - value * (HEIGHT - _TOP - _BOTTOM)
