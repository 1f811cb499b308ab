"""Read ground truth from Pascal VOC files: one XML per image, boxes by their corner pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

from detq.data.annotation import Annotation, Annotations, GroundTruth, ImageRecord
from detq.errors import DataError, shown
from detq.files import read_text

MAX_XML_BYTES = 8 << 20
FIRST_ANNOTATION_ID = 1


def read_voc(
    folder: Path, *, images: Sequence[ImageRecord], class_names: Sequence[str]
) -> GroundTruth:
    """The files ``<folder>/<name of the image>.xml`` -> the objects of the images.

    Pixels are counted from 1 and the last ones belong to the box, as the VOC development kit has
    it. A ``difficult`` object is neither missed nor found, as in its evaluation: it becomes a crowd
    of COCO. An image without a file shows no object. Raises DataError, naming the file, for one
    that is malformed, or has an object of no or of an ambiguous class.
    """
    index_of = {name: index for index, name in enumerate(class_names)}
    ambiguous = {name for name, times in Counter(class_names).items() if times > 1}
    ids = count(FIRST_ANNOTATION_ID)
    return GroundTruth(
        tuple(images),
        Annotations(
            annotation
            for image in images
            if (file := folder / f"{image.path.stem}.xml").exists()
            for annotation in _annotations(file, image, index_of, ambiguous, ids)
        ),
    )


def is_annotation(file: Path) -> bool:
    """True for an XML file that is Pascal VOC's, whole or damaged."""
    try:
        return "<annotation" in read_text(file)
    except OSError:
        return False


def voc_class_names(files: Sequence[Path]) -> tuple[str, ...]:
    """The classes of all objects in some XML files, in alphabetical order."""
    return tuple(sorted({_text(item, "name", file) for file in files for item in _objects(file)}))


def _annotations(
    file: Path,
    image: ImageRecord,
    index_of: Mapping[str, int],
    ambiguous: Container[str],
    ids: Iterator[int],
) -> Iterator[Annotation]:
    for item in _objects(file):
        name = _text(item, "name", file)
        if name not in index_of:
            raise DataError(f"{file}: {name!r} is not a class of the data set; add it to `names`")
        if name in ambiguous:
            raise DataError(f"{file}: several classes are called {name!r}; an XML cannot tell them")
        left, top, right, bottom = _corners(item, file)
        width, height = right - left + 1, bottom - top + 1
        try:
            yield Annotation(
                annotation_id=next(ids),
                image_id=image.image_id,
                class_id=index_of[name],
                box_xywh_px=(left - 1, top - 1, width, height),
                area_px=width * height,
                is_crowd=(item.findtext("difficult") or "0").strip() == "1",
            )
        except DataError as error:
            raise DataError(f"{file}: {error}") from None


def _objects(file: Path) -> list[ElementTree.Element]:
    """The ``object`` elements. Entities, which may stand for billions of letters, are refused."""
    try:
        text = read_text(file, most_bytes=MAX_XML_BYTES)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the file") from None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{file}: has a document type, which no annotation needs; remove it")
    try:
        return ElementTree.fromstring(text).findall("object")  # noqa: S314 - no entities
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file}: not a Pascal VOC file ({error}); correct it") from None


def _corners(item: ElementTree.Element, file: Path) -> list[float]:
    """xmin, ymin, xmax, ymax in pixels."""
    box = item.find("bndbox")
    if box is None:
        raise DataError(f"{file}: an object without bndbox; complete it")
    texts = [_text(box, corner, file) for corner in ("xmin", "ymin", "xmax", "ymax")]
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise DataError(f"{file}: bndbox: expected numbers, got {shown(texts)}") from None


def _text(element: ElementTree.Element, tag: str, file: Path) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise DataError(f"{file}: {element.tag} without {tag}; complete it")
    return text
