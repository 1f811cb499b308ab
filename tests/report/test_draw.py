from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detq.records import Detections
from detq.report.draw import class_color, draw_detections

Image = npt.NDArray[np.uint8]


def _found(*boxes: tuple[float, float, float, float], ids: tuple[int, ...] = ()) -> Detections:
    count = len(boxes)
    return Detections(
        boxes_xyxy_px=np.array(boxes, np.float32).reshape(count, 4),
        scores=np.linspace(0.9, 0.5, count, dtype=np.float32),
        class_ids=np.array(ids or [0] * count, np.int64),
    )


def test_box_is_drawn_on_its_edge_in_its_colour_and_not_inside() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    drawn = draw_detections(image, _found((40, 60, 160, 180), ids=(1,)), ("a", "b"))
    for row, column in ((120, 40), (120, 160), (180, 100)):
        np.testing.assert_allclose(drawn[row, column], class_color(1), atol=30)
    assert not drawn[90:170, 60:140].any()
    assert not drawn[190:].any()


def test_argument_is_not_drawn_on() -> None:
    image = np.full((64, 64, 3), 7, np.uint8)
    draw_detections(image, _found((5, 5, 50, 50)), ("a",))
    assert (image == 7).all()


def test_nothing_found_is_an_equal_copy() -> None:
    image = np.full((64, 64, 3), 7, np.uint8)
    drawn = draw_detections(image, _found(), ("a",))
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


def test_best_detection_lies_on_top() -> None:
    box = (40.0, 60.0, 160.0, 180.0)
    image = np.zeros((200, 200, 3), np.uint8)
    drawn = draw_detections(image, _found(box, box, ids=(0, 1)), ("a", "b"))
    np.testing.assert_allclose(drawn[120, 40], class_color(0), atol=30)


@settings(max_examples=30, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    box=st.tuples(*[st.floats(-500, 800, width=32)] * 4),
)
def test_any_box_can_be_drawn_on_any_image(
    sides: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    image = np.zeros((*sides, 3), np.uint8)
    drawn = draw_detections(image, _found(box), ("a long name of a class",))
    assert (drawn.shape, drawn.dtype) == (image.shape, np.uint8)


@pytest.mark.parametrize("top", [0.0, 100.0], ids=["no room above", "room above"])
def test_label_stays_in_the_picture(top: float) -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    drawn = draw_detections(image, _found((190, top, 199, 199)), ("a",))
    plate = (drawn == class_color(0)).all(axis=2)
    assert plate[:, :185].any()  # moved to the left


def test_lines_grow_with_the_image() -> None:
    widths = []
    for side in (320, 1920):
        image = np.zeros((side, side, 3), np.uint8)
        box = tuple(side * part for part in (0.25, 0.25, 0.75, 0.75))
        drawn = draw_detections(image, _found(box), ("a",))  # type: ignore[arg-type]
        widths.append(int(drawn[side // 2, : side // 2].any(axis=1).sum()))
    assert widths[1] >= 3 * widths[0]


def test_neighbouring_classes_have_distant_colours() -> None:
    colours = np.array([class_color(index) for index in range(80)], int)
    assert ((colours >= 0) & (colours <= 255)).all()
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 100
