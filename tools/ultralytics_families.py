"""INT8 on every family of Ultralytics' detectors, with random weights: what executes, how noisy.

    python tools/ultralytics_families.py DATA.yaml --size 160 yolov8n yolov9t

The networks are those that detq makes of Ultralytics' YAML descriptions, with BatchNorm statistics
of some images of the data set. Each is quantized with the recipes `kl` and `cfws_kl`. The noise is
the SQNR in dB of the tensors that the head rounds (their mean): what INT8 left of the float signal.
Random weights say nothing about the accuracy of trained ones.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import detq
from detq.adapters import FloatModel, fuse_model, load_checkpoint
from detq.api import load_dataset, load_recipe
from detq.data.dataset import load_split, sample_images
from detq.data.images import read_image_bgr
from detq.data.letterbox import Preprocess
from detq.graph.convert import from_torch
from detq.graph.detector_graph import DetectorGraph
from detq.quant.noise import tensor_noise
from detq.quant.quantizer import quantize_graph

FAMILIES = "yolov5n yolov8n yolov9t yolov10n yolo11n yolo12n yolo26n rtdetr-resnet50 rtdetr-l"
RECIPES = ("kl", "cfws_kl")
IMAGES = 8


def random_graph(name: str, size: int, images: list[np.ndarray]) -> DetectorGraph:
    """The fused float graph; ``images`` float32 [1, 3, size, size] give the statistics."""
    model = load_checkpoint(Path(f"{name}.yaml"), size_hw=(size, size))
    for module in model.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # average over all that passes
            module.train()
    with torch.no_grad():
        model.module(torch.cat([torch.from_numpy(image) for image in images]))
    fused = fuse_model(FloatModel(model.module.eval(), model.spec))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TracerWarning
        return from_torch(fused.module, fused.spec)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", default=FAMILIES.split())
    parser.add_argument("--size", type=int, default=160)
    arguments = parser.parse_args()
    split = load_split(load_dataset(arguments.data), "train", with_annotations=False)
    preprocess = Preprocess((arguments.size, arguments.size), fit="ultralytics")
    paths = sample_images(split, IMAGES, 0)
    images = [preprocess.apply(read_image_bgr(path))[0] for path in paths]
    print("model  blocks  recipe  split  INT8 share of MACs  SQNR in the head, dB", flush=True)
    for name in arguments.names:
        graph = random_graph(name, arguments.size, images)
        blocks = len(graph.spec.reparameterized)
        for recipe in RECIPES if blocks else RECIPES[:1]:
            quantized = quantize_graph(
                graph, load_recipe(recipe), lambda stage, count: images[:count]
            )
            noise = tensor_noise(quantized, images)
            head = [tensor.sqnr_db for tensor in noise if tensor.part == "head"]
            share = detq.detector(quantized.graph).int8_share
            left = f"{np.mean(head):.1f}" if head else "none is rounded"
            splits = len(quantized.split_layers)
            print(f"{name}  {blocks}  {recipe}  {splits}  {share:.4f}  {left}", flush=True)


if __name__ == "__main__":
    main()
