"""Quantization: weight splitting, activation ranges, placement, bias correction, and their
composition.

``cfws``, ``histogram`` and ``ranges`` are pure numpy; the other modules work on ``openvino.Model``.
"""
