"""Image -> network input, and boxes back to the image: the geometry that published figures rest on.

Source: the evaluation protocol behind YOLOv6's published COCO figures ("reproduce 640"), and what
the other programs' predictors do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from detq.data.images import ImageBGR
from detq.errors import DataError
from detq.opencv import cv2
from detq.records import Fit, SizeHW

PADDING_GREY = 114


@dataclass(frozen=True)
class FitRules:
    """How a program brings images to its networks' size.

    ``keeps_ratio`` letterboxes, otherwise the image is stretched over the whole input; ``centred``
    or in the upper left corner; sizes are made whole by ``whole``; ``shrinking`` and ``enlarging``
    are OpenCV's interpolations, ``padding`` the grey of what the image does not cover.
    """

    keeps_ratio: bool = True
    centred: bool = True
    whole: Callable[[float], int] = int
    shrinking: int = cv2.INTER_LINEAR
    enlarging: int = cv2.INTER_LINEAR
    padding: int = PADDING_GREY


FITS: Mapping[Fit, FitRules] = {
    "yolov6": FitRules(shrinking=cv2.INTER_AREA),
    "ultralytics": FitRules(whole=round),
    "corner": FitRules(centred=False),  # YOLOX
    "corner-black": FitRules(centred=False, padding=0),  # DAMO-YOLO
    "stretch": FitRules(keeps_ratio=False),  # RT-DETR
    "stretch-cubic": FitRules(  # PP-YOLOE
        keeps_ratio=False, shrinking=cv2.INTER_CUBIC, enlarging=cv2.INTER_CUBIC
    ),
}

# Pixels by which the longest side stays below the network input, at each model's own input size.
_SHRINK_AT_640 = {
    "yolov6n": 4,
    "yolov6t": 6,
    "yolov6s": 6,
    "yolov6m": 4,
    "yolov6l": 4,
    "yolov6l_relu": 2,
    "yolov6s_mbla": 7,
    "yolov6m_mbla": 7,
    "yolov6l_mbla": 7,
    "yolov6x_mbla": 3,
}
_SHRINK_AT_1280 = {"yolov6n6": 17, "yolov6s6": 8, "yolov6m6": 64, "yolov6l6": 41}
_SHRINK_BY_SIZE = {(640, 640): _SHRINK_AT_640, (1280, 1280): _SHRINK_AT_1280}


def official_shrink(model_name: str, size_hw: SizeHW) -> int:
    """The shrink in pixels that an official YOLOv6 model was published with; 0 for all others.

    ``model_name`` is the stem of the official weight file (``yolov6s``). The shrink belongs to the
    size that the model was published at: at another one, as for another model, it is 0.
    """
    return _SHRINK_BY_SIZE.get(size_hw, {}).get(model_name, 0)


@dataclass(frozen=True)
class Letterbox:
    """Where one image lies inside the network input; everything in whole pixels.

    ``resized_hw`` is the image's size in the input, ``pad_top`` and ``pad_left`` its first pixel.
    """

    original_hw: SizeHW
    resized_hw: SizeHW
    pad_top: int
    pad_left: int

    @property
    def gain_y(self) -> float:
        """Input pixels per pixel of the original image, vertically."""
        return self.resized_hw[0] / self.original_hw[0]

    @property
    def gain_x(self) -> float:
        """Input pixels per pixel of the original image, horizontally."""
        return self.resized_hw[1] / self.original_hw[1]

    def to_original(self, boxes_xyxy_px: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[n, 4] corners in input pixels -> corners in original pixels, clamped to the image."""
        height, width = self.original_hw
        offset = np.array([self.pad_left, self.pad_top] * 2, dtype=np.float32)
        gain = np.array([self.gain_x, self.gain_y] * 2, dtype=np.float32)
        limit = np.array([width, height] * 2, dtype=np.float32)
        boxes: npt.NDArray[np.float32] = (boxes_xyxy_px - offset) / gain
        return np.clip(boxes, np.float32(0), limit)


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network input of ``size_hw`` pixels.

    The image fits into ``within_hw``, the input's size if None, less ``shrink`` pixels on each
    axis, by the rules that ``fit`` names in :data:`FITS`; padding fills the rest.
    """

    size_hw: SizeHW
    shrink: int = 0
    fit: Fit = "yolov6"
    within_hw: SizeHW | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.shrink < min(self.size_hw):
            height, width = self.size_hw
            raise DataError(
                f"shrink: expected 0 up to below the smaller side of {height}x{width}, "
                f"got {self.shrink}"
            )

    def trimmed(self, original_hw: SizeHW, *, stride: int, margin: float = 0.0) -> Preprocess:
        """The same for an input no larger than an image of that size needs, in whole strides.

        The image keeps its size in the input. ``margin`` is in strides, added before rounding up:
        YOLOv6's and Ultralytics' own rectangular evaluation has 0.5, so that the longer side grows
        too. An image that is stretched needs the whole input.
        """
        if not FITS[self.fit].keeps_ratio:
            return self
        sides = (max(1, math.ceil(n / stride + margin)) for n in self.plan(original_hw).resized_hw)
        height, width = (side * stride for side in sides)
        return replace(self, size_hw=(height, width), within_hw=self.within_hw or self.size_hw)

    def plan(self, original_hw: SizeHW) -> Letterbox:
        """Size of an image -> its place in the input."""
        height, width = original_hw
        fit, ratio = FITS[self.fit], self._ratio(original_hw)
        if not fit.keeps_ratio:
            return Letterbox(original_hw, self.size_hw, pad_top=0, pad_left=0)
        # A sliver of an image keeps one pixel.
        resized = max(fit.whole(height * ratio), 1), max(fit.whole(width * ratio), 1)
        return Letterbox(
            original_hw=original_hw,
            resized_hw=resized,
            pad_top=(self.size_hw[0] - resized[0]) // 2 if fit.centred else 0,
            pad_left=(self.size_hw[1] - resized[1]) // 2 if fit.centred else 0,
        )

    def place(self, image: ImageBGR) -> tuple[npt.NDArray[np.uint8], Letterbox]:
        """uint8 [h, w, 3] BGR -> uint8 [1, H, W, 3] BGR, and the image's place in it."""
        plan = self.plan((image.shape[0], image.shape[1]))
        height, width = plan.resized_hw
        fit, resized = FITS[self.fit], image
        if plan.resized_hw != plan.original_hw:
            method = fit.shrinking if self._ratio(plan.original_hw) < 1 else fit.enlarging
            resized = _resized(image, plan.resized_hw, method)
        bottom = self.size_hw[0] - height - plan.pad_top
        right = self.size_hw[1] - width - plan.pad_left
        grey = (fit.padding,) * 3
        padded = cv2.copyMakeBorder(
            resized, plan.pad_top, bottom, plan.pad_left, right, cv2.BORDER_CONSTANT, value=grey
        )
        return np.asarray(padded, np.uint8)[None], plan

    def apply(self, image: ImageBGR) -> tuple[npt.NDArray[np.float32], Letterbox]:
        """uint8 [h, w, 3] BGR -> float32 [1, 3, H, W] RGB in 0..1, and the image's place in it."""
        pixels, plan = self.place(image)
        channels = pixels[..., ::-1].transpose(0, 3, 1, 2)  # NHWC BGR -> NCHW RGB
        return np.divide(channels, np.float32(255), order="C", dtype=np.float32), plan

    def _ratio(self, original_hw: SizeHW) -> float:
        return min(
            (side - self.shrink) / original
            for side, original in zip(self.within_hw or self.size_hw, original_hw, strict=True)
        )


def _resized(image: ImageBGR, size_hw: SizeHW, method: int) -> npt.NDArray[np.uint8]:
    """By one of OpenCV's interpolations.

    Means of 3x3 pixels, which bring 1920x1080 to 640x360, are those of a box filter: to the bit,
    in half the time that ``INTER_AREA`` takes for them.
    """
    height, width = size_hw
    if method == cv2.INTER_AREA and image.shape[:2] == (3 * height, 3 * width):
        image = np.asarray(cv2.blur(image, (3, 3), anchor=(0, 0)), np.uint8)
        method = cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
