"""How far the boxes of other programs lie from detq's, for one model on a folder of images.

    python tools/opens_in.py bccd_yolov6n_int8_openvino_model bccd/images/test
    python tools/opens_in.py MODEL IMAGES --ultralytics other/.venv/bin/python

The programs: OpenVINO Model API on the IR and on ONNX, ONNX Runtime, OpenCV DNN (float models), the
graph from pixels to boxes in OpenVINO, and, with the interpreter of an environment that has it,
Ultralytics. Those that take a tensor get detq's letterbox and suppression. Two boxes are one if
they are of a class and overlap by 0.7; what only one of them finds is counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import openvino as ov

import detq
from detq.artifact import write_artifact
from detq.data.letterbox import FITS
from detq.graph.detector_graph import DetectorGraph
from detq.runtime.postprocess import PREDICTION, postprocess

Row = Mapping[str, Any]
Finder = Callable[[Path], Row]
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
ULTRALYTICS = """
import json, sys
import openvino
from ultralytics import YOLO
precision, model, confidence, iou, *images = sys.argv[1:]
if precision:
    as_it_comes = openvino.Core.compile_model
    hint = {"INFERENCE_PRECISION_HINT": precision}
    openvino.Core.compile_model = lambda core, network, device_name=None, config=None: as_it_comes(
        core, network, device_name, {**(config or {}), **hint}
    )
network = YOLO(model, task="detect")
for image in images:
    thresholds = {"conf": float(confidence), "iou": float(iou)}
    (found,) = network.predict(image, **thresholds, verbose=False, device="cpu")
    of = found.boxes
    columns = {"boxes": of.xyxy, "scores": of.conf, "class_ids": of.cls.int()}
    print("ROW" + json.dumps({key: value.tolist() for key, value in columns.items()}))
"""


def model_api(path: Path, plugin_config: Mapping[str, str]) -> Finder:
    from model_api.adapters import OpenvinoAdapter  # noqa: PLC0415
    from model_api.models import Model  # noqa: PLC0415

    adapter = OpenvinoAdapter(ov.Core(), str(path), device="CPU", plugin_config=dict(plugin_config))
    model = Model.create_model(adapter)

    def find(image: Path) -> Row:
        seen = model(cv2.imread(str(image)))
        return {
            "boxes": seen.bboxes.tolist(),
            "scores": seen.scores.tolist(),
            "class_ids": seen.labels.tolist(),
        }

    return find


def with_tensor(graph: DetectorGraph, compute: Callable[[Any], Any]) -> Finder:
    preprocess = detq.detector(graph).preprocess

    def find(image: Path) -> Row:
        tensor, letterbox = preprocess.apply(cv2.imread(str(image)))
        return postprocess(np.asarray(compute(tensor))[0], letterbox, PREDICTION).columns()

    return find


def opencv(graph: DetectorGraph, path: Path) -> Finder:
    network = cv2.dnn.readNetFromONNX(str(path))

    def compute(tensor: Any) -> Any:
        network.setInput(tensor, "images")
        return network.forward()

    return with_tensor(graph, compute)


def runtime(graph: DetectorGraph, path: Path) -> Finder:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return with_tensor(graph, lambda tensor: session.run(None, {"images": tensor})[0])


def pixels_to_boxes(folder: Path) -> Finder:
    compiled = ov.Core().compile_model(next(folder.glob("*.xml")), "CPU", EXACT)

    def find(image: Path) -> Row:
        found = np.asarray(compiled([cv2.imread(str(image))[None]])[0])
        return {
            "boxes": found[:, :4].tolist(),
            "scores": found[:, 4].tolist(),
            "class_ids": found[:, 5].astype(int).tolist(),
        }

    return find


def ultralytics(python: Path, directory: Path, images: list[Path], precision: str) -> Finder:
    words = [str(PREDICTION.confidence), str(PREDICTION.iou), *map(str, images)]
    done = subprocess.run(
        [python, "-c", ULTRALYTICS, precision, directory, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    lines = [line[3:] for line in done.stdout.splitlines() if line.startswith("ROW")]
    rows = dict(zip(images, map(json.loads, lines), strict=True))
    return rows.__getitem__


def overlaps(one: Row, other: Row) -> np.ndarray:
    """[n, m]; 0 for boxes of different classes."""
    first, second = (np.reshape(row["boxes"], (-1, 4)) for row in (one, other))
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), -1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (first, second)]
    alike = np.equal(*np.ix_(np.array(one["class_ids"]), np.array(other["class_ids"])))
    return np.where(alike, both / (areas[0][:, None] + areas[1] - both + 1e-9), 0)


def compare(find: Finder, expected: Mapping[Path, Row]) -> str:
    count, alone, far, off = 0, 0, 0, [0.0]
    for image, theirs in expected.items():
        mine = find(image)
        table = overlaps(theirs, mine)
        count += len(theirs["boxes"])
        if not table.size:
            alone += sum(table.shape)
            continue
        found = table.max(1) > 0.7
        alone += int((~found).sum())
        far += int((table.max(0) <= 0.7).sum())
        partners = np.reshape(mine["boxes"], (-1, 4))[table.argmax(1)]
        off += np.abs(np.reshape(theirs["boxes"], (-1, 4)) - partners).max(1)[found].tolist()
    return (
        f"of {count} boxes {alone} not found, {far} more; "
        f"worst edge {max(off):.2f} px, median {np.median(off[1:]):.2f} px"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("images", type=Path)
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--most", type=int, default=50)
    parser.add_argument("--fit", choices=FITS, help="as if the model had been trained with it")
    parser.add_argument(
        "--resize", action="store_true", help="images to the input's own size first"
    )
    parser.add_argument("--ultralytics", type=Path, help="interpreter that has it")
    options = parser.parse_args()
    graph = detq.load(options.model, imgsz=options.imgsz)
    if options.fit is not None:
        graph = DetectorGraph(graph.model, replace(graph.spec, fit=options.fit))
    detector = detq.detector(graph)
    images = sorted(
        path for path in options.images.iterdir() if path.suffix.lower() in (".jpg", ".png")
    )[: options.most]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.resize:
            for number, image in enumerate(images):
                images[number] = folder / f"{number}.png"
                pixels, _ = detector.preprocess.place(cv2.imread(str(image)))
                cv2.imwrite(str(images[number]), pixels[0])
        expected = {path: detector.detect(cv2.imread(str(path))).columns() for path in images}
        print(f"{graph.spec.name}, {len(images)} images, fit {graph.spec.fit}")
        for name, find in finders(graph, folder, images, options.ultralytics).items():
            print(f"{name:34} {compare(find, expected)}", flush=True)


def finders(
    graph: DetectorGraph, folder: Path, images: list[Path], python: Path | None
) -> dict[str, Finder]:
    ir, boxes, file = folder / "m_openvino_model", folder / "boxes", folder / "m.onnx"
    write_artifact(graph, ir)
    detq.export(graph, boxes, format="openvino", embed_preprocess=True)
    if graph.is_quantized:
        detq.export(graph, file, format="onnx-qdq")
    else:
        detq.export(graph, file, recipe="minmax")
    xml = next(ir.glob("*.xml"))
    found = {
        "pixels to boxes": pixels_to_boxes(boxes),
        f"ONNX Runtime {_version('onnxruntime')}": runtime(graph, file),
        f"Model API {_version('openvino-model-api')}, f32": model_api(xml, EXACT),
        "Model API, as it comes": model_api(xml, {}),
        "Model API on ONNX, f32": model_api(file, EXACT),
    }
    if not graph.is_quantized:
        found[f"OpenCV DNN {cv2.__version__}"] = opencv(graph, file)
    if python is not None:
        found["Ultralytics, f32"] = ultralytics(python, ir, images, "f32")
        found["Ultralytics, as it comes"] = ultralytics(python, ir, images, "")
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
