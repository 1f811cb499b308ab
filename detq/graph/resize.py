"""The same network for another input size, also where its decode holds constants of the old one.

Traced graphs keep the position of every cell as numbers. Such a constant is recognised by what it
is, a linear function of the cell's column and row on every level, and made anew for the new cells;
shapes that are written out are scaled. Anything else that is bound to the size is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.errors import CheckpointError
from detq.graph.convert import make_static
from detq.graph.detector_graph import DetectorGraph
from detq.graph.parts import last_convolutions
from detq.graph.surgery import downstream, nodes_of_type, producer, producers
from detq.records import SizeHW

Tensor = npt.NDArray[Any]

_EXACT = 1e-4
"""Largest deviation from a linear function, relative to its largest value."""


@dataclass(frozen=True)
class _Level:
    """The cells of one stride before and after."""

    stride: int
    old_hw: SizeHW
    new_hw: SizeHW

    @property
    def old_cells(self) -> int:
        return self.old_hw[0] * self.old_hw[1]

    @property
    def new_cells(self) -> int:
        return self.new_hw[0] * self.new_hw[1]


def resized(graph: DetectorGraph, size_hw: SizeHW) -> DetectorGraph:
    """The same network for another input size; the graph given stays as it is.

    Raises CheckpointError if its graph is bound to its size by something that is not understood,
    DetqError for a size that does not suit its strides.
    """
    old = graph.spec.size_hw
    if size_hw == old:
        return graph
    spec = replace(graph.spec, size_hw=size_hw)
    model = graph.model.clone()
    levels = [
        _Level(s, (old[0] // s, old[1] // s), (size_hw[0] // s, size_hw[1] // s))
        for s in graph.spec.strides
    ]
    before = graph.model.outputs[0].get_shape()[2]
    per_cell = max(before // sum(level.old_cells for level in levels), 1)
    segments = [level for level in levels for _ in range(per_cell)]
    # Before anything else: what is replaced fits the new size alone.
    model.get_parameters()[0].set_partial_shape(ov.PartialShape([1, 3, *size_hw]))
    _scale_shapes(model, old, size_hw, segments)
    _renew_grids(model, segments, old)
    make_static(model, size_hw, Path(graph.spec.name))
    after = list(model.outputs[0].get_shape())
    if before == sum(level.old_cells for level in segments):
        expected = sum(level.new_cells for level in segments)
        if after[2] != expected:
            raise CheckpointError(
                f"{graph.spec.name}: makes {after[2]} predictions at {size_hw[0]}x{size_hw[1]}, "
                f"expected {expected}; export it again for that size"
            )
    return DetectorGraph(model, spec)


def _renew_grids(model: ov.Model, segments: Sequence[_Level], old: SizeHW) -> None:
    """Constants over cells, for the new cells; changes the model.

    Raises CheckpointError if the decode multiplies by the old size itself.
    """
    decode = {node.get_name(): node for node in downstream(last_convolutions(model))}
    constants = {
        above.get_name(): above
        for node in decode.values()
        for above in producers(node)
        if above.get_type_name() == "Constant" and above.get_element_type().is_real()
    }
    # Decodes also multiply by a stride or, of an offset that goes twice as far, by two.
    telling = set(old) - {factor * level.stride for level in segments for factor in (1, 2)}
    for constant in constants.values():
        values = np.asarray(constant.get_data())
        found = set(values.reshape(-1)[:4].tolist())
        if values.size in (1, 2, 4) and found <= set(old) and found & telling:
            raise CheckpointError(
                f"{model.get_friendly_name()}: its decode is fixed to {old[0]}x{old[1]} (HxW); "
                "pass that as --imgsz, or export it again"
            )
        renewed = _renewed(values, segments)
        if renewed is not None:
            fresh = ops.constant(np.ascontiguousarray(renewed))
            fresh.set_friendly_name(constant.get_friendly_name())
            constant.output(0).replace(fresh.output(0))


def _renewed(values: Tensor, segments: Sequence[_Level]) -> Tensor | None:
    """A constant over the cells of all levels or of one, made anew; None if it is not one."""
    total = sum(level.old_cells for level in segments)
    for axis in range(values.ndim):
        if values.shape[axis] == total:
            return _along(values, axis, segments)
    for level in segments:
        height, width = level.old_hw
        for axis in range(values.ndim):
            if level.old_cells > 1 and values.shape[axis] == level.old_cells:
                return _along(values, axis, [level])
            if level.old_cells > 1 and values.shape[axis : axis + 2] == (height, width):
                flat = values.reshape(*values.shape[:axis], -1, *values.shape[axis + 2 :])
                made = _along(flat, axis, [level])
                if made is None:
                    return None
                return made.reshape(*made.shape[:axis], *level.new_hw, *made.shape[axis + 1 :])
    return None


def _along(values: Tensor, axis: int, segments: Sequence[_Level]) -> Tensor | None:
    """The same linear functions of column and row, segment by segment, over the new cells."""
    moved = np.moveaxis(values, axis, 0)
    parts, start = [], 0
    for level in segments:
        part = moved[start : start + level.old_cells]
        start += level.old_cells
        if any(o == 1 < n for o, n in zip(level.old_hw, level.new_hw, strict=True)):
            return None  # from one row nobody can tell what the next one holds
        table = part.reshape(level.old_cells, -1).astype(np.float64)
        before, after = _positions(level.old_hw), _positions(level.new_hw)
        slopes, *_ = np.linalg.lstsq(before, table, rcond=None)
        limit = _EXACT * max(float(np.abs(table).max()), 1.0)
        if np.abs(before @ slopes - table).max() > limit or not _are_grid(slopes, level, limit):
            return None
        parts.append((after @ slopes).reshape(level.new_cells, *part.shape[1:]))
    joined = np.concatenate(parts).astype(values.dtype)
    return np.moveaxis(joined, 0, axis)


def _positions(size_hw: SizeHW) -> npt.NDArray[np.float64]:
    """[cells, 3]: column, row, 1."""
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    return np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)], 1).astype(np.float64)


def _are_grid(slopes: Tensor, level: _Level, limit: float) -> bool:
    """Steps of nothing, one cell or one stride; others would depend on the input size."""
    near = [np.abs(slopes[:2] - step) <= limit for step in (0, 1, level.stride)]
    return bool(np.logical_or.reduce(near).all())


def _scale_shapes(model: ov.Model, old: SizeHW, new: SizeHW, segments: Sequence[_Level]) -> None:
    """Target shapes of Reshape and Interpolate that are written out; changes the model."""
    for node in nodes_of_type(model, "Reshape", "Interpolate"):
        target = producer(node, 1)
        if target.get_type_name() != "Constant" or target.get_element_type().is_real():
            continue
        entries = [int(entry) for entry in np.asarray(target.get_data()).reshape(-1)]
        scaled = _scaled(entries, list(node.get_input_shape(0)), old, new, segments)
        if scaled != entries:
            fresh = ops.constant(np.array(scaled, np.int64))
            fresh.set_friendly_name(target.get_friendly_name())
            node.input(1).replace_source_output(fresh.output(0))


def _scaled(
    entries: list[int],
    source: list[int],
    old: SizeHW,
    new: SizeHW,
    segments: Sequence[_Level],
) -> list[int]:
    """Entries that are numbers of cells or sides of the map that is reshaped, for the new size."""
    counts = dict(_counts(segments))
    sides = {}
    for height, width in _maps(source, segments):
        if height * new[0] % old[0] or width * new[1] % old[1]:
            continue
        there = height * new[0] // old[0], width * new[1] // old[1]
        sides[height, width] = there
        counts[height * width] = there[0] * there[1]
    if -1 in entries:
        rest = prod(source) // max(prod(entry or 1 for entry in entries if entry != -1), 1)
        if rest in counts:  # what is left open takes the new number of cells by itself
            return entries
    result: list[int] = []
    index = 0
    while index < len(entries):
        pair = (entries[index], entries[index + 1]) if index + 1 < len(entries) else None
        if pair in sides:
            result.extend(sides[pair])
            index += 2
        else:
            result.append(counts.get(entries[index], entries[index]))
            index += 1
    return result


def _maps(source: list[int], segments: Sequence[_Level]) -> Iterator[SizeHW]:
    if len(source) >= 4:
        yield source[-2], source[-1]
        yield source[2], source[3]
    elif any(level.old_cells in source for level in segments):
        yield from (level.old_hw for level in segments)


def _counts(segments: Sequence[_Level]) -> Iterator[tuple[int, int]]:
    yield sum(s.old_cells for s in segments), sum(s.new_cells for s in segments)
    for level in segments:
        many = sum(other == level for other in segments)
        if level.old_cells > 1:
            yield many * level.old_cells, many * level.new_cells
