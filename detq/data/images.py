"""Find image files and decode them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detq.errors import DataError
from detq.opencv import cv2

ImageBGR = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], channels blue, green, red, as OpenCV decodes them."""

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def read_image_bgr(path: Path) -> ImageBGR:
    """Image file -> uint8 [H, W, 3] BGR, turned as its EXIF orientation says.

    A truncated file is refused: ``cv2.imread`` would fill the missing rows with grey, and a model
    would then be calibrated or judged on grey. Raises DataError naming the file.
    """
    try:
        encoded = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except cv2.error:  # e.g. more pixels than OpenCV accepts
        image = None
    if image is None:
        raise DataError(f"{path}: cannot be decoded (truncated, or not an image); replace the file")
    return np.asarray(image, dtype=np.uint8)


def write_image(path: Path, image_bgr: ImageBGR) -> None:
    """Write uint8 [H, W, 3] BGR in the format that the file's ending names; makes the folder.

    Raises DataError if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded, data = cv2.imencode(path.suffix, image_bgr)
        if encoded:
            with path.open("wb", buffering=0) as file:
                try:
                    file.write(data.tobytes())
                except BaseException:
                    path.unlink()  # no half pictures
                    raise
            return
        reason = f"unknown image format {path.suffix!r}"
    except (OSError, cv2.error) as error:
        reason = str(error)
    raise DataError(f"{path}: cannot be written ({reason}); pass another --output")


def read_images(paths: Iterable[Path], *, workers: int = 2, ahead: int = 8) -> Iterator[ImageBGR]:
    """Decode files in order on ``workers`` threads, at most ``ahead`` images ahead of the caller.

    Raises DataError as :func:`read_image_bgr` does, when the damaged file's turn comes.
    """
    waiting = iter(paths)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        pending: deque[Future[ImageBGR]] = deque()
        try:
            pending.extend(pool.submit(read_image_bgr, path) for path in islice(waiting, ahead))
            while pending:
                image = pending.popleft().result()
                pending.extend(pool.submit(read_image_bgr, path) for path in islice(waiting, 1))
                yield image
        finally:
            for future in pending:
                future.cancel()


def list_images(source: Path) -> tuple[Path, ...]:
    """An image file, or the images in a folder and below it -> their paths, sorted.

    Raises DataError if ``source`` does not exist or holds no image.
    """
    if source.is_dir():
        images = tuple(sorted(path for path in source.rglob("*") if _is_image(path)))
        if not images:
            raise DataError(f"{source}: no images; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
        return images
    if not source.is_file():
        raise DataError(f"{source}: no such image or folder; check the path")
    if not _is_image(source):
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{source}: not an image by its name; known endings: {known}")
    return (source,)


def list_images_in_text(list_file: Path) -> tuple[Path, ...]:
    """A text file with one image path per line -> the paths, in the file's order.

    A relative path starts at the text file's folder. Raises DataError, with the line's number, for
    an image that is missing or listed twice, and if there is none.
    """
    try:
        lines = list_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{list_file}: cannot be read ({error}); check the path") from None
    seen: dict[Path, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path = list_file.parent / line.strip()
        if path in seen:
            raise DataError(f"{list_file}:{number}: {path} is already listed in line {seen[path]}")
        if not path.is_file():
            raise DataError(f"{list_file}:{number}: {path} does not exist; correct the list")
        seen[path] = number
    if not seen:
        raise DataError(f"{list_file}: no images; expected one path per line")
    return tuple(seen)


def _is_image(path: Path) -> bool:
    # macOS leaves "._name.jpg" files on foreign disks; they are not images.
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
