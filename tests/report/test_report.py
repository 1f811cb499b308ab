"""``report.html``: what it says of classes, and how it is shown."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser

from detq import api
from detq.graph.detector_graph import DetectorGraph
from detq.records import ClassScores, Confusion, EvalResult
from detq.report.accuracy import CONFUSED_SHOWN, CURVES_SHOWN, accuracy_view, most_confused

EVIL = "</td><script>alert(1)</script>&"
MEASURED = {
    "split": "val",
    "preset": "coco",
    "calibration_images_in_split": 0,
    "load": 3.5,
    "cores": 2,
    "nearly_as_fast": "bf16",
    "models": {
        name: {"map": 50.0, "map50": 60.0, "map75": None, "latency_ms": 3.0}
        | {"size_mb": 4.7, "speedup": 2.0, "of_f32": None}
        for name in ("float", "minmax")
    },
}


def _scores(model: str, count: int, drop: float) -> EvalResult:
    """Of classes that lose the more the higher their number is; the last has no objects."""
    curve = tuple(np.linspace(1, 0, 101).tolist())
    names = [EVIL, *(f"class {number}" for number in range(1, count))]
    classes = {
        name: ClassScores(50 - drop * number, 60, 70, 9, curve, curve)
        for number, name in enumerate(names[:-1])
    } | {names[-1]: ClassScores(None, None, None, 0)}
    counts = {(number, number): 5 for number in range(count - 1)}
    counts |= {(number, number + 1): number + 1 for number in range(count - 1)}
    counts |= {(0, count): 7, (count, 0): 8}
    scores = {"map": 50.0, "map50": 60.0, "mar100": 70.0, "map_small": None, "mar_small": None}
    confusion = Confusion(tuple(names), counts, iou=0.5, confidence=0.25)
    return EvalResult(model, scores, 2, 1.0, "int8", 1.0, per_class=classes, confusion=confusion)


def _pair(count: int) -> list[EvalResult]:
    return [_scores("float", count, 0), _scores("minmax", count, 0.01)]


@pytest.fixture
def page(colour_graph: DetectorGraph, colour_data: Path, tmp_path: Path) -> Path:
    """A report on a model of three classes that claims a thousand, measured on a busy machine."""
    result = api.quantize(colour_graph, data=colour_data, recipe="minmax")
    result.save(tmp_path / "model", measured=MEASURED, scores=_pair(1000))
    return tmp_path / "model/report.html"


def test_worst_losses_come_first_and_undefined_last() -> None:
    view = accuracy_view(_pair(5))
    assert view is not None
    assert [row.name for row in view.rows] == ["class 3", "class 2", "class 1", EVIL, "class 4"]
    assert [each.row.name for each in view.curves] == [
        *("all classes", "class 3", "class 2", "class 1", EVIL),
    ]
    assert view.whole.in_float.objects == 4 * 9
    assert ("small", "AP", None, None) in view.sizes


def test_nothing_is_shown_of_what_has_no_classes() -> None:
    top1 = EvalResult("m", {"top1": 1.0}, 1, 1.0, "int8", 1.0)
    assert accuracy_view([top1, top1]) is None
    assert accuracy_view([]) is None


def test_a_matrix_of_many_classes_keeps_every_count() -> None:
    scores = _pair(1000)
    view = accuracy_view(scores)
    assert view is not None
    assert view.matrix is not None
    assert len(view.curves) == 1 + CURVES_SHOWN
    assert (view.matrix.classes, view.matrix.total) == (CONFUSED_SHOWN, 1000)
    assert view.matrix.names[-2:] == (f"{1000 - CONFUSED_SHOWN} others", "background")
    confusion = scores[-1].confusion
    assert confusion is not None
    shown = sum(cell.count for row in view.matrix.cells for cell in row)
    assert shown == sum(confusion.counts.values())
    assert all(cell.difference == 0 for row in view.matrix.cells for cell in row)


def test_most_confused_are_those_taken_for_other_classes_not_those_missed() -> None:
    counts = {(0, 0): 900, (0, 4): 900, (4, 1): 900, (2, 3): 1, (1, 1): 5}
    confusion = Confusion(("a", "b", "c", "d"), counts, iou=0.5, confidence=0.25)
    assert most_confused(confusion, 2) == [2, 3]
    assert most_confused(confusion, 3) == [0, 2, 3]


def test_names_are_text_whatever_is_in_them(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in text


def test_page_stays_small_and_alone(page: Path) -> None:
    text = page.read_text()
    assert len(text) < 1_500_000
    assert not re.findall(r"https?:|//cdn|@import|url\((?!#)", text)
    assert "None" not in re.sub(r"base64,[^\"]*", "", text)


def test_latency_beside_other_processes_is_marked(page: Path) -> None:
    text = page.read_text()
    assert "<th>latency*</th>" in text
    assert "* 3.5 processes were busy on 2 cores" in text
    assert "INT8 gains little or nothing over bf16 on this machine" in text


def test_idle_machine_is_not_marked(
    colour_graph: DetectorGraph, colour_data: Path, tmp_path: Path
) -> None:
    result = api.quantize(colour_graph, data=colour_data, recipe="minmax")
    for name, load in (("idle", 0.9), ("unknown", None)):
        result.save(tmp_path / name, measured={**MEASURED, "load": load})
        text = (tmp_path / name / "report.html").read_text()
        assert "<th>latency</th>" in text
        assert "were busy" not in text
        assert "Which class pays" not in text  # no scores of classes


def test_page_fits_a_phone_in_light_and_dark(page: Path, tmp_path: Path) -> None:
    """What is wider than the screen scrolls by itself; text and axes are seen on the page."""
    with Browser(tmp_path / "profile") as browser:
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            browser.resize(390, 844, phone=True)
            browser.open(page.as_uri())
            browser.wait_for("document.readyState === 'complete' && !!document.body")
            assert browser.value("document.documentElement.scrollWidth") == 390
            for selector in ("body", ".plot text", ".chart text", "td", ".figures td"):
                assert _contrast(browser, selector) > 7, (scheme, selector)
        assert not browser.errors


def _contrast(browser: Browser, selector: str) -> float:
    """Of an element's text on the page, as WCAG defines it."""
    colours = browser.value(
        f"""(() => {{
            const element = document.querySelector("{selector}"), own = getComputedStyle(element);
            const ink = element instanceof SVGElement ? own.fill : own.color;
            return [ink, getComputedStyle(document.body).backgroundColor];
        }})()"""
    )
    low, high = sorted(_luminance(colour) for colour in colours)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    """``rgb(1, 2, 3)`` -> 0..1."""
    channels = np.array([float(part) for part in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
