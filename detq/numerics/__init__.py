"""Arithmetic of quantization on plain arrays: no graph, no runtime, no files.

Weight splitting, streaming histograms, range rules, GPTQ rounding, and how far one output is from
another.
"""
