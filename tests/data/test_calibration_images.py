from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detq.data.calibration import CalibrationImages, readable_images
from detq.data.letterbox import Preprocess
from detq.errors import CalibrationError

SIZE = Preprocess((32, 64))


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Nine images, of which c and g are damaged and h is absent."""
    paths = [tmp_path / f"{name}.png" for name in "abcdefghi"]
    for brightness, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((16, 32, 3), brightness, np.uint8))
    paths[2].write_bytes(paths[2].read_bytes()[:50])
    paths[6].write_bytes(b"")
    paths[7].unlink()
    return paths


def test_damaged_files_are_left_out_and_named(paths: list[Path]) -> None:
    reports: list[tuple[int, int]] = []
    images = readable_images(paths, SIZE, progress=lambda done, all_: reports.append((done, all_)))
    assert [path.stem for path in images.paths] == ["a", "b", "d", "e", "f", "i"]
    assert [path.stem for path in images.skipped] == ["c", "g", "h"]
    assert len(images) == 6
    assert reports == [(done, 9) for done in range(1, 10)]


def test_inputs_come_in_order_and_afresh_for_every_pass(paths: list[Path]) -> None:
    images = readable_images(paths, SIZE)
    for _ in range(2):
        inputs = list(images.inputs())
        assert {(each.shape, each.dtype.name) for each in inputs} == {((1, 3, 32, 64), "float32")}
        levels = [round(float(each[0, 0, 16, 32]) * 255) for each in inputs]
        assert levels == [0, 1, 3, 4, 5, 8]
    assert len(list(images.inputs(2))) == 2
    assert len(list(images.inputs(100))) == 6


def test_inputs_are_what_the_detector_is_fed(paths: list[Path]) -> None:
    """Calibration must see the letterbox of evaluation, its grey margins included."""
    image = np.random.default_rng(0).integers(0, 255, (40, 24, 3), np.uint8)
    cv2.imwrite(str(paths[0]), image)
    preprocess = Preprocess((32, 64), shrink=4)
    (first,) = readable_images(paths, preprocess).inputs(1)
    np.testing.assert_array_equal(first, preprocess.apply(image)[0])


def test_no_readable_image_is_an_error(paths: list[Path]) -> None:
    damaged = [paths[2], paths[6], paths[7]]
    with pytest.raises(CalibrationError, match=r"no calibration image .* \(3 are damaged\)"):
        readable_images(damaged, SIZE)
    with pytest.raises(CalibrationError, match="no calibration image"):
        CalibrationImages((), SIZE)
