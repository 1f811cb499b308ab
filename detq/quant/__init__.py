"""Quantization of ``openvino.Model`` graphs: placement, weights, activation ranges, biases."""
