"""Find image files and decode them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from errno import EFBIG, EINVAL
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from detq.data.folders import Walk
from detq.data.image_header import header_size_hw, may_be_turned
from detq.errors import DamagedImageError, DataError
from detq.files import read_bytes, read_text
from detq.opencv import cv2
from detq.records import SizeHW

ImageBGR = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], channels blue, green, red, as OpenCV decodes them."""

IMAGE_SUFFIXES = frozenset(
    {*(".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")}
)
OTHER_IMAGE_SUFFIXES = frozenset(
    {
        *(".avif", ".cr2", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".jp2", ".jxl"),
        *(".nef", ".pbm", ".pfm", ".pgm", ".pnm", ".ppm", ".raw", ".svg", ".tga"),
    }
)
"""Images that are not read, and therefore counted."""
MOST_PIXELS = 1 << 28
"""Of an image that is decoded; its header is asked before."""
MOST_BYTES = 1 << 30
_DECODERS, _AHEAD = 2, 8
_Name = TypeVar("_Name")


def read_image_bgr(path: Path) -> ImageBGR:
    """Image file -> uint8 [H, W, 3] BGR, turned as its EXIF orientation says.

    A truncated file is refused: ``cv2.imread`` would fill the missing rows with grey, and a model
    would then be calibrated or judged on grey. Raises DamagedImageError naming the file; DataError
    for what is no regular file, or has more than 256 megapixels (:data:`MOST_PIXELS`).
    """
    return _decoded(_read_file(path), path)


def decode_image_bgr(content: bytes, name: str) -> ImageBGR:
    """The same of an image file's bytes; ``name`` is what errors call it."""
    _check_size(content, name)
    return _decoded(content, name)


def _decoded(content: bytes, name: Path | str) -> ImageBGR:
    encoded = np.frombuffer(content, dtype=np.uint8)
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except cv2.error:  # e.g. more pixels on one side than OpenCV accepts
        image = None
    if image is None:
        raise DamagedImageError(
            f"{name}: cannot be decoded (truncated, or not an image); replace the file"
        )
    return np.asarray(image, dtype=np.uint8)


def image_size_hw(path: Path) -> SizeHW:
    """Height and width of what :func:`read_image_bgr` makes of a file; raises what it raises.

    The header is believed where it cannot differ: without metadata that may turn the image.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return _image_size_hw(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1 << 17)
def _image_size_hw(path: Path, _changed_ns: int, _bytes: int) -> SizeHW:
    content = _read_file(path)
    if not may_be_turned(content):
        stated = header_size_hw(content)
        if stated is not None:
            return stated
    height, width = read_image_bgr(path).shape[:2]
    return height, width


def read_sound_images(paths: Iterable[Path], damaged: list[Path]) -> Iterator[ImageBGR]:
    """As :func:`read_images`, without the files that are damaged: their paths join ``damaged``."""
    for path, image in decoded_ahead((path, partial(read_image_bgr, path)) for path in paths):
        if isinstance(image, DamagedImageError):
            damaged.append(path)
        elif isinstance(image, DataError):
            raise image
        else:
            yield image


def _read_file(path: Path) -> bytes:
    """The bytes of an image file whose header states no more than :data:`MOST_PIXELS`."""
    try:
        content = read_bytes(path, most_bytes=MOST_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None
    _check_size(content, path)
    return content


def _check_size(content: bytes, name: Path | str) -> None:
    stated = header_size_hw(content)
    if stated is not None and stated[0] * stated[1] > MOST_PIXELS:
        raise DataError(
            f"{name}: {stated[1]}x{stated[0]} pixels are more than 256 megapixels; "
            "shrink the image or take it away"
        )


def _unreadable(path: Path, error: OSError) -> DataError:
    """A file that is damaged or gone is one image less; a FIFO or a device is a mistake."""
    kind = DataError if error.errno in (EINVAL, EFBIG) else DamagedImageError
    return kind(f"{path}: cannot be read ({error.strerror}); check the path")


def write_image(path: Path, image_bgr: ImageBGR) -> None:
    """Write uint8 [H, W, 3] BGR in the format that the file's ending names; makes the folder.

    Raises DataError if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded, data = cv2.imencode(path.suffix, image_bgr)
        if encoded:
            try:
                path.write_bytes(data.tobytes())
            except BaseException:
                path.unlink(missing_ok=True)  # no half pictures
                raise
            return
        reason = f"unknown image format {path.suffix!r}"
    except (OSError, cv2.error) as error:
        reason = str(error)
    raise DataError(f"{path}: cannot be written ({reason}); pass another --output")


def read_images(paths: Iterable[Path]) -> Iterator[ImageBGR]:
    """Decode files in order, some of them ahead of the caller.

    Raises DataError as :func:`read_image_bgr` does, when the damaged file's turn comes.
    """
    for _, image in decoded_ahead((path, partial(read_image_bgr, path)) for path in paths):
        if isinstance(image, DataError):
            raise image
        yield image


def decoded_ahead(
    jobs: Iterable[tuple[_Name, Callable[[], ImageBGR]]],
) -> Generator[tuple[_Name, ImageBGR | DataError]]:
    """Each name with what its call returns, or with the DataError that it raises, in order.

    Two threads work at most eight images ahead of the caller.
    """
    waiting = iter(jobs)
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:
        pending: deque[tuple[_Name, Future[ImageBGR | DataError]]] = deque()

        def submit(count: int) -> None:
            pending.extend((name, pool.submit(_tried, job)) for name, job in islice(waiting, count))

        try:
            submit(_AHEAD)
            while pending:
                name, future = pending.popleft()
                image = future.result()
                submit(1)
                yield name, image
        finally:
            for _, future in pending:
                future.cancel()


def _tried(job: Callable[[], ImageBGR]) -> ImageBGR | DataError:
    try:
        return job()
    except DataError as error:
        return error


@dataclass(frozen=True)
class FoundImages:
    """Image files, sorted.

    ``skipped_folders`` links led to a folder that was read already, or to themselves;
    ``other_images`` are of formats that are not read.
    """

    paths: tuple[Path, ...]
    skipped_folders: int = 0
    other_images: int = 0


def list_images(source: Path) -> tuple[Path, ...]:
    """An image file, or the images in a folder and below it -> their paths, sorted.

    Raises DataError if ``source`` does not exist or holds no image.
    """
    return find_images(source).paths


def find_images(source: Path) -> FoundImages:
    """As :func:`list_images`. Symbolic links are followed, and each folder is read once.

    So links that lead in a circle have an end. A folder keeps its own name where a link beside it
    gives it another.
    """
    if source.is_dir():
        found = _walk(source)
        if not found.paths:
            raise DataError(f"{source}: no images; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
        return found
    if not source.exists():
        raise DataError(f"{source}: no such image or folder; check the path")
    if not is_image(source):
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{source}: not an image by its name; known endings: {known}")
    return FoundImages((source,))


def _walk(folder: Path) -> FoundImages:
    walk = Walk(folder, wanted=is_image, counted=_is_other_image)
    paths = tuple(sorted(Path(path) for path in walk))
    return FoundImages(paths, walk.skipped_folders, walk.others)


def list_images_in_text(list_file: Path, *, root: Path | None = None) -> tuple[Path, ...]:
    """A text file with one image path per line -> the paths, in the file's order.

    A relative path starts at the text file's folder, or else at ``root`` or the working folder.
    Raises DataError, with the line's number, for an image that is missing or listed twice, and if
    there is none.
    """
    try:
        lines = read_text(list_file).splitlines()
    except OSError as error:
        raise DataError(f"{list_file}: cannot be read ({error.strerror}); check the path") from None
    starts = (list_file.parent, *([] if root is None else [root]), Path.cwd())
    seen: dict[Path, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        spellings = dict.fromkeys((line.strip(), line.strip().replace("\\", "/")))
        places = [start / spelling for start in starts for spelling in spellings]
        path = next((place for place in places if place.exists()), None)
        if path is None:
            raise DataError(f"{list_file}:{number}: {places[0]} does not exist; correct the list")
        if path in seen:
            raise DataError(f"{list_file}:{number}: {path} is already listed in line {seen[path]}")
        seen[path] = number
    if not seen:
        raise DataError(f"{list_file}: no images; expected one path per line")
    return tuple(seen)


def is_image(path: Path) -> bool:
    """True for a file with the ending of an image.

    macOS leaves "._name.jpg" files on foreign disks; they are none.
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _is_other_image(path: Path) -> bool:
    return path.suffix.lower() in OTHER_IMAGE_SUFFIXES
