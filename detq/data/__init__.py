"""Images, ground truth and the geometry between an image and the network input."""

from detq.data.annotation import Annotation, ImageRecord
from detq.data.dataset import SPLIT_NAMES, Split, load_split, sample_images
from detq.data.fingerprint import content_overlap, fingerprint
from detq.data.images import ImageBGR, list_images, read_image_bgr, read_images
from detq.data.letterbox import Letterbox, Preprocess, official_shrink

__all__ = [
    "SPLIT_NAMES",
    "Annotation",
    "ImageBGR",
    "ImageRecord",
    "Letterbox",
    "Preprocess",
    "Split",
    "content_overlap",
    "fingerprint",
    "list_images",
    "load_split",
    "official_shrink",
    "read_image_bgr",
    "read_images",
    "sample_images",
]
