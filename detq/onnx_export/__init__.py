"""Detector graphs as files for other toolchains."""

from detq.onnx_export.onnx_file import to_onnx, write_onnx

__all__ = ["to_onnx", "write_onnx"]
