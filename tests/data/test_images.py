from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from detq.data.images import (
    find_images,
    image_size_hw,
    list_images,
    list_images_in_text,
    read_image_bgr,
    read_images,
    read_sound_images,
)
from detq.errors import DamagedImageError, DataError


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

    read = list(islice(read_images(endless()), 5))
    assert [int(image[0, 0, 0]) for image in read] == [0, 1, 2, 3, 4]
    assert len(asked) <= 8 + 5


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


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)

CUT = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x01\0\x06"
"""States five tags, and holds most of one: an orientation."""


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _png_text(keyword: str, text: bytes) -> PngInfo:
    chunks = PngInfo()
    chunks.add_itxt(keyword, text.decode())
    return chunks


TURNED: list[tuple[str, dict[str, object]]] = [
    *(
        (f"exif{n}{end}", {"exif": _exif(n)})
        for n in range(10)
        for end in (".jpg", ".png", ".webp")
    ),
    *((f"tag{n}.tif", {"tiffinfo": {274: n}}) for n in range(1, 9)),
    *((f"xmp{end}", {"xmp": XMP}) for end in (".jpg", ".webp")),
    ("xmp.png", {"pnginfo": _png_text("XML:com.adobe.xmp", XMP)}),
    ("broken.png", {"exif": b"\x00\x08\x00\x02\x01\x12\x00\x03"}),
    ("cut.jpg", {"exif": CUT}),
    *((f"plain{end}", {}) for end in (".jpg", ".png", ".webp", ".tif", ".bmp")),
    ("progressive.jpg", {"progressive": True}),
]


@pytest.mark.parametrize(("name", "options"), TURNED, ids=[name for name, _ in TURNED])
def test_image_size_is_that_of_the_decoded_image(
    tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    """Label boxes are scaled by it, whatever a header says and whichever decoder heeds it."""
    path = tmp_path / name
    Image.new("RGB", (8, 6)).save(path, **options)  # type: ignore[arg-type]
    assert image_size_hw(path) == read_image_bgr(path).shape[:2]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1", "LA"])
def test_image_size_does_not_depend_on_the_kind_of_pixels(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (8, 6)).save(tmp_path / "a.png")
    assert image_size_hw(tmp_path / "a.png") == read_image_bgr(tmp_path / "a.png").shape[:2]


def test_image_that_was_replaced_has_its_new_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (8, 6)).save(path)
    assert image_size_hw(path) == (6, 8)
    Image.new("L", (80, 60)).save(path)
    assert image_size_hw(path) == (60, 80)


def _png_of(width: int, height: int) -> bytes:
    """A few bytes that would decode to ``width`` times ``height`` grey pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("reader", [read_image_bgr, image_size_hw], ids=["pixels", "size"])
def test_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Callable[[Path], object]
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_of(20000, 20000))
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(
        DataError, match="20000x20000 pixels are more than 256 megapixels"
    ) as raised:
        reader(path)
    assert not isinstance(raised.value, DamagedImageError)


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for reader in (read_image_bgr, image_size_hw):
        with pytest.raises(DataError, match="no regular file") as raised:
            reader(path)
        assert not isinstance(raised.value, DamagedImageError)


def test_damaged_files_are_left_out_where_that_is_wanted(tmp_path: Path) -> None:
    paths = [_write(tmp_path / f"{number}.png", value=number) for number in range(4)]
    paths[1].write_bytes(b"no image")
    paths[2].unlink()
    damaged: list[Path] = []
    read = [int(image[0, 0, 0]) for image in read_sound_images(paths, damaged)]
    assert (read, damaged) == ([0, 3], paths[1:3])


def test_links_are_followed_and_have_an_end(tmp_path: Path) -> None:
    """``Path.rglob`` of Python 3.11 follows no link to a folder."""
    for folder in ("set/a", "pool"):
        (tmp_path / folder).mkdir(parents=True)
    _write(tmp_path / "set/a/1.png")
    _write(tmp_path / "pool/2.png")
    (tmp_path / "set/b").symlink_to("../pool")
    (tmp_path / "set/3.png").symlink_to("../pool/2.png")
    (tmp_path / "pool/loop").symlink_to("../set")
    (tmp_path / "set/A").symlink_to("a")  # sorted before the folder that it names
    found = find_images(tmp_path / "set")
    names = [str(path.relative_to(tmp_path / "set")) for path in found.paths]
    assert names == ["3.png", "a/1.png", "b/2.png"]
    assert found.skipped_folders == 2


def test_links_that_multiply_are_read_once(tmp_path: Path) -> None:
    """Twenty folders, each with two links to the next, have a million names."""
    for number in range(20):
        (tmp_path / f"{number}").mkdir()
        for name in "xy":
            (tmp_path / f"{number}/{name}").symlink_to(f"../{number + 1}")
    (tmp_path / "20").mkdir()
    _write(tmp_path / "20/a.png")
    assert len(find_images(tmp_path / "0").paths) == 1


@pytest.mark.parametrize("text", ["images\\a.png", "./images/a.png", "images/a.png\r\n"])
def test_list_may_be_written_on_windows_or_count_from_the_data_set(
    tmp_path: Path, text: str
) -> None:
    for folder in ("images", "lists"):
        (tmp_path / folder).mkdir()
    image = _write(tmp_path / "images/a.png")
    (tmp_path / "lists/val.txt").write_bytes(text.encode("utf-16"))
    (found,) = list_images_in_text(tmp_path / "lists/val.txt", root=tmp_path)
    assert found == image
