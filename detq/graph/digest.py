"""What a graph computes, as a fingerprint."""

from __future__ import annotations

import hashlib

import numpy as np
import openvino as ov


def digest(model: ov.Model) -> str:
    """SHA-256 (hex) of operations, attributes, connections and constants; names do not count.

    Equal for graphs that were built in the same way, in whatever process.
    """
    found = hashlib.sha256()
    operations = model.get_ordered_ops()
    place = {node.get_name(): index for index, node in enumerate(operations)}
    for node in operations:
        inputs = [
            (place[port.get_node().get_name()], port.get_index()) for port in node.input_values()
        ]
        shapes = [str(output.get_partial_shape()) for output in node.outputs()]
        if node.get_type_name() == "Constant":
            found.update(np.ascontiguousarray(node.get_data()).tobytes())
            attributes = str(node.get_element_type())
        else:
            attributes = str(sorted(node.get_attributes().items()))
        found.update(f"{node.get_type_name()} {attributes} {inputs} {shapes}\n".encode())
    return found.hexdigest()
