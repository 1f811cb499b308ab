r"""The README's opening picture: what ``detq demo`` shows, float and INT8 side by side.

    detq quickstart
    detq quantize digits_yolov6n --data runs/quickstart/digits/data.yaml --imgsz 640 \
        --recipe cfws_kl --calib-split val --split test --output runs/digits_640_int8_openvino_model
    python tools/demo_picture.py runs/digits_640_int8_openvino_model docs/demo.webp

A camera's way over a page of handwriting, recorded in real time as the window shows it: the speed
in the picture is this machine's, and is printed. ``--imgsz`` sets how much work a picture is.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from PIL import Image

from detq import Clip
from detq.api import HANDWRITING
from detq.demo.contenders import Contender
from detq.demo.recording import FRAMES_PER_S, as_shown
from detq.demo.runner import Thresholds
from detq.demo.sight import Following
from detq.demo.stage import Stage
from detq.demo.view import View

CLIP_FRAMES_PER_S = 60
CLIP_S = 8.0
VIEW_WH = (400, 400)
EVERY = 2  # of the recorded pictures
QUALITY = 35


def write_clip(path: Path) -> Path:
    """A window that moves round over the page; its end meets its start."""
    page = cv2.imread(str(HANDWRITING))
    scale = 1.6 * max(VIEW_WH) / min(page.shape[:2])
    page = cv2.resize(page, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), CLIP_FRAMES_PER_S, VIEW_WH)
    free = page.shape[1] - VIEW_WH[0], page.shape[0] - VIEW_WH[1]
    count = round(CLIP_S * CLIP_FRAMES_PER_S)
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False):
        left, top = (
            round(room * (1 - turn) / 2)
            for room, turn in zip(free, (np.cos(angle), np.sin(angle)), strict=True)
        )
        writer.write(page[top : top + VIEW_WH[1], left : left + VIEW_WH[0]])
    writer.release()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("int8", metavar="INT8_MODEL")
    parser.add_argument("output", type=Path)
    parser.add_argument("--float", dest="float_model", default="digits_yolov6n")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--settle", type=float, default=4.0, help="seconds before it begins")
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    contenders = [Contender(m, imgsz=options.imgsz) for m in (options.float_model, options.int8)]
    view = View(2, Thresholds(0.4, 0.45), is_split=True)
    with tempfile.TemporaryDirectory() as folder:
        clip = Clip(str(write_clip(Path(folder) / "handwriting.avi")), repeats=True)
        with Stage(contenders, [clip], view, Following()) as stage:
            pictures, rates = [], []
            start, stop = (
                round(s * FRAMES_PER_S) for s in (options.settle, options.settle + options.seconds)
            )
            for number, picture in enumerate(islice(as_shown(stage, view), stop)):
                if number >= start:
                    rates.append(stage.frames_per_s)
                    pictures.append(picture)
    shown = [Image.fromarray(picture[..., ::-1]) for picture in pictures[::EVERY]]
    shown[0].save(
        options.output,
        save_all=True,
        append_images=shown[1:],
        duration=round(1000 * EVERY / FRAMES_PER_S),
        loop=0,
        quality=QUALITY,
        method=6,
    )
    first, second = (median(rate[side] for rate in rates) for side in (0, 1))
    print(f"float {first:.1f} FPS, INT8 {second:.1f} FPS: {second / first:.2f}x")
    print(f"{options.output}: {len(shown)} pictures, {options.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
