"""Image -> input of a classifier: the shorter side resized, the middle cut out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detq.data.images import ImageBGR
from detq.opencv import cv2
from detq.records import SizeHW

CROP_SHARE = 0.875
"""Of the resized image's side, the part that the network sees: 224 of 256."""


@dataclass(frozen=True)
class CentreCrop:
    """How an image becomes the network input of ``size_hw`` pixels.

    The image is resized until the input covers :data:`CROP_SHARE` of its shorter side, and the
    middle is cut out: 256 and 224 pixels, as published ImageNet figures are measured
    (RepVGG, arXiv 2101.03697, section 4.1). An image that has the input's size already, such as a
    CIFAR picture of 32x32, is taken as it is.
    """

    size_hw: SizeHW

    def place(self, image: ImageBGR) -> tuple[npt.NDArray[np.uint8], SizeHW]:
        """uint8 [h, w, 3] BGR -> uint8 [1, H, W, 3] BGR, and the size that was cut from."""
        original = image.shape[0], image.shape[1]
        if original == self.size_hw:
            return np.ascontiguousarray(image)[None], original
        height, width = resized = self._resized_hw(original)
        method = cv2.INTER_AREA if height < original[0] else cv2.INTER_LINEAR
        large = np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
        top, left = (
            round((side - wanted) / 2) for side, wanted in zip(resized, self.size_hw, strict=True)
        )
        cut = large[top : top + self.size_hw[0], left : left + self.size_hw[1]]
        return np.ascontiguousarray(cut)[None], resized

    def apply(self, image: ImageBGR) -> tuple[npt.NDArray[np.float32], SizeHW]:
        """uint8 [h, w, 3] BGR -> float32 [1, 3, H, W] RGB in 0..1, and the size cut from."""
        pixels, resized = self.place(image)
        channels = pixels[..., ::-1].transpose(0, 3, 1, 2)  # NHWC BGR -> NCHW RGB
        return np.divide(channels, np.float32(255), order="C", dtype=np.float32), resized

    def _resized_hw(self, original_hw: SizeHW) -> SizeHW:
        """Whole pixels, cut off; never smaller than the input."""
        ratio = max(
            wanted / CROP_SHARE / side
            for wanted, side in zip(self.size_hw, original_hw, strict=True)
        )
        height, width = (
            max(int(side * ratio + 1e-6), wanted)
            for side, wanted in zip(original_hw, self.size_hw, strict=True)
        )
        return height, width
