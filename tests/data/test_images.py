from __future__ import annotations

from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detq.data.images import list_images, list_images_in_text, read_image_bgr, read_images
from detq.errors import DataError


def _write(path: Path, value: int = 7) -> Path:
    cv2.imwrite(str(path), np.full((6, 8, 3), value, np.uint8))
    return path


def test_orientation_in_exif_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image_bgr(tmp_path / "turned.jpg").shape == (8, 6, 3)


def test_grey_and_transparent_images_become_three_channels(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "I;16"):
        Image.new(mode, (8, 6)).save(tmp_path / "image.png")
        image = read_image_bgr(tmp_path / "image.png")
        assert (image.shape, image.dtype) == ((6, 8, 3), np.uint8)


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9], ids="kept {:.0%}".format)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damaged_file_is_an_error_that_names_it(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    content = cv2.imencode(suffix, noise)[1].tobytes()
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=f"damaged{suffix}: cannot be decoded"):
        read_image_bgr(path)


def test_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg: cannot be read"):
        read_image_bgr(tmp_path / "none.jpg")


def test_images_are_read_in_order_and_not_far_ahead(tmp_path: Path) -> None:
    asked = []

    def endless() -> object:
        for number in count():
            asked.append(number)
            yield _write(tmp_path / f"{number}.png", value=number)

    read = list(islice(read_images(endless(), ahead=4), 5))
    assert [int(image[0, 0, 0]) for image in read] == [0, 1, 2, 3, 4]
    assert len(asked) <= 4 + 5


def test_damaged_file_fails_in_its_turn(tmp_path: Path) -> None:
    good, bad = _write(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"no image")
    images = read_images([good, bad, good])
    next(images)
    with pytest.raises(DataError, match=r"b\.png"):
        next(images)


def test_folder_lists_its_images_sorted_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    expected = [_write(tmp_path / name) for name in ("a.png", "b.JPG", "sub/c.jpeg")]
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.png").write_text("a resource fork")
    assert list_images(tmp_path) == tuple(expected)
    assert list_images(expected[0]) == (expected[0],)


def test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="no such image or folder"):
        list_images(tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="not an image by its name"):
        list_images(tmp_path / "notes.txt")


def test_list_file_counts_from_its_own_folder(tmp_path: Path) -> None:
    first, second = _write(tmp_path / "a.png"), _write(tmp_path / "b.png")
    (tmp_path / "val.txt").write_text(f"./b.png\n\n{first}\n")
    assert list_images_in_text(tmp_path / "val.txt") == (second, first)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png\nnone.png", r"val\.txt:2: .*does not exist"),
        ("a.png\n./a.png", "line 1"),
        ("", "no"),
    ],
    ids=["missing", "twice", "empty"],
)
def test_wrong_list_file_is_an_error_with_its_line(
    tmp_path: Path, content: str, message: str
) -> None:
    _write(tmp_path / "a.png")
    (tmp_path / "val.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        list_images_in_text(tmp_path / "val.txt")
