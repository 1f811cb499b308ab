"""What travels between page and server, and what is refused.

From the page: a binary message is a frame, four bytes of number (big-endian) and a baseline JPEG; a
text message is JSON, :class:`Settings`. To the page: JSON, its ``type`` is ``hello``, ``result``
or ``error``.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import detq
from detq import ImageBGR

from .limits import FRAME_BYTES, LONGEST_SIDE_PX, MOST_PIXELS, SETTINGS_BYTES

NUMBER_BYTES = 4
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)  # refused, not printed


class RefusedError(Exception):
    """A message that is not obeyed; the text is for the visitor, who stays connected."""


class Settings(BaseModel):
    """A visitor's choices; ``model`` is an index into the models of ``hello``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    confidence: Annotated[float, Field(ge=0.01, le=0.99)]
    iou: Annotated[float, Field(ge=0, le=1)]
    model: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Upload:
    """A frame as it arrived, not yet looked into."""

    number: int
    jpeg: bytes


def read_settings(text: str, models: int) -> Settings:
    """Raises RefusedError for anything but settings, or a model that is not there."""
    if len(text) > SETTINGS_BYTES:
        raise RefusedError(f"settings of {len(text)} characters; at most {SETTINGS_BYTES}")
    try:
        settings = Settings.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise RefusedError(f"{where}: {first['msg']}") from None
    if settings.model >= models:
        raise RefusedError(f"model {settings.model}: there are {models}, counted from 0")
    return settings


def read_upload(message: bytes) -> Upload:
    """Raises RefusedError for a frame that is too large or has no number."""
    if len(message) > FRAME_BYTES:
        raise RefusedError(f"frame of {len(message)} bytes; at most {FRAME_BYTES}")
    if len(message) <= NUMBER_BYTES:
        raise RefusedError(f"frame of {len(message)} bytes; expected a number and a JPEG")
    return Upload(int.from_bytes(message[:NUMBER_BYTES], "big"), message[NUMBER_BYTES:])


def decode(jpeg: bytes) -> ImageBGR:
    """A baseline JPEG -> uint8 [H, W, 3] BGR; its header is looked at before any pixel.

    Raises RefusedError for another format, more pixels than allowed, or damage. A progressive JPEG
    may ask for a thousand passes over the picture: browsers' canvases do not make them.
    """
    too_large = RefusedError(f"picture of too many pixels; at most {MOST_PIXELS} in all")
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as header:
            (width, height), is_progressive = header.size, "progressive" in header.info
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise RefusedError("not a JPEG picture") from None
    if max(width, height) > LONGEST_SIDE_PX or width * height > MOST_PIXELS:
        raise too_large
    if is_progressive:
        raise RefusedError("progressive JPEG; send a baseline one")
    try:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise RefusedError("damaged JPEG picture")
    return np.asarray(image, np.uint8)


def result_text(
    upload: Upload,
    settings: Settings,
    found: detq.Detections,
    track_ids: Sequence[int] = (),
    **about: Any,
) -> str:
    """The answer to a frame: boxes in pixels of that frame, best first, and their tracks if any."""
    boxes = [
        [*(round(float(side), 1) for side in box), round(float(score), 4), int(class_id)]
        for box, score, class_id in zip(
            found.boxes_xyxy_px, found.scores, found.class_ids, strict=True
        )
    ]
    document = {"type": "result", "frame": upload.number, "model": settings.model, **about}
    return json.dumps({**document, "boxes": boxes, "track_ids": list(track_ids)})


def error_text(message: str, upload: Upload | None = None) -> str:
    """The answer to what was refused."""
    number = None if upload is None else upload.number
    return json.dumps({"type": "error", "message": message, "frame": number})
