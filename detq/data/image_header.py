"""What an image file says of itself before it is decoded."""

from __future__ import annotations

import struct
from io import BytesIO

# Each registers its format with Pillow; Pillow's own register would import all of its plugins.
from PIL import BmpImagePlugin, Image, JpegImagePlugin, TiffImagePlugin

from detq.records import SizeHW

# WebP is left out: it has no more than 2^28 pixels, and Pillow would allocate them all.
_FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")


def header_size_hw(content: bytes) -> SizeHW | None:
    """Height and width that the header states, before any turning; None if that cannot be told.

    ``Image.open`` is gone around: it warns, in whatever thread, of images of 90 megapixels.
    """
    if content.startswith(_PNG):  # Pillow would want the pixels, too
        width, height = struct.unpack(">II", content[16:24].ljust(8, b"\0"))
        return (height, width) if width and height else None
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is None or not accept(content[:16]):
            continue
        try:
            with factory(BytesIO(content), "") as image:
                width, height = image.size
        except Exception:  # a damaged header raises anything; OpenCV's decoder has the last word
            return None
        return (height, width) if width > 0 and height > 0 else None
    return None


def may_be_turned(content: bytes) -> bool:
    """True unless the file's pixels surely come out in the size that its header states.

    Sure are a JPEG without the segments, and a PNG without the chunks, that may hold an
    orientation: decoders differ in which of these they heed, and in what they take for damaged.
    """
    if content.startswith(_JPEG):
        return b"\xff\xe1" in content
    return not content.startswith(_PNG) or any(mark in content for mark in _PNG_METADATA)
