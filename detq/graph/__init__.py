"""Detector graphs: the contract, conversion from torch and ONNX, and surgery on
``openvino.Model``.
"""
