"""OpenCV, or one line that says how to get it: every module of detq imports ``cv2`` from here.

The wheel ``opencv-python`` brings a window toolkit along, which needs shared libraries that servers
and small containers do not have.
"""

from __future__ import annotations

import os

from detq.errors import MissingLibraryError

# FFmpeg's own lines about a damaged video; what detq says of it is one error.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

try:
    import cv2
except ImportError as error:
    raise MissingLibraryError(
        f"OpenCV cannot be loaded ({error}); install Debian's packages libgl1 and libglib2.0-0 (or "
        "their likes), or run `pip uninstall opencv-python` and `pip install "
        "opencv-python-headless`, with which all works but the demo's window"
    ) from None

# A damaged file becomes one DataError; OpenCV's own log line beside it would only repeat it.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

__all__ = ["cv2"]
