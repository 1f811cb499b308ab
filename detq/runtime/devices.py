"""The devices that OpenVINO compiles a model for."""

from __future__ import annotations

import re

from detq.errors import ConfigError
from detq.graph.execute import core

CPU, AUTO, NPU = "CPU", "AUTO", "NPU"
KINDS = (CPU, "GPU", NPU, AUTO)


def device_named(text: str) -> str:
    """``gpu.1`` -> ``GPU.1``, a device of this machine's; AUTO is OpenVINO's choice among them.

    Raises ConfigError for what is no device, or is not there.
    """
    device = text.strip().upper()
    if not re.fullmatch(r"CPU|GPU(\.\d+)?|NPU|AUTO", device):
        raise ConfigError(f"--device {text}: expected one of {', '.join(KINDS)}, or GPU.1")
    if device in {CPU, AUTO}:
        return device
    there = tuple(core().available_devices)  # one GPU is called GPU, of several each has a number
    names = {*there, *(each.partition(".")[0] for each in there), *(f"{each}.0" for each in there)}
    if device not in names:
        raise ConfigError(
            f"--device {text}: OpenVINO finds {', '.join(there)} on this machine; install the "
            "driver of the other, or leave --device out"
        )
    return device


def full_name(device: str) -> str:
    """What a device calls itself."""
    return str(core().get_property(device, "FULL_DEVICE_NAME"))
