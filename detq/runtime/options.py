"""How a model is compiled, and for what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detq.errors import ConfigError, DetqError

FloatPrecision = Literal["f32", "bf16", "f16"]


@dataclass(frozen=True)
class RuntimeOptions:
    """Choices that change speed, not results; None leaves one to OpenVINO.

    ``device`` is CPU, GPU, NPU or AUTO in OpenVINO's words; ``threads`` and ``pinning`` are those
    of a CPU.
    ``requests`` is how many images are in flight at once: one asks for the lowest latency, more or
    None for the highest throughput. ``streams`` is how many of them compute side by side, each on
    its share of the ``threads``. ``pinning`` ties threads to cores. Compiled models are kept in
    ``cache_dir``, which saves compiling them again. ``float_precision`` is what operations that are
    not quantized compute in. A request that takes longer than ``timeout_s`` seconds is an error.
    """

    device: str = "CPU"
    threads: int | None = None
    requests: int | None = None
    streams: int | None = None
    pinning: bool | None = None
    cache_dir: Path | None = None
    float_precision: FloatPrecision = "f32"
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for option in ("threads", "requests", "streams", "timeout_s"):
            value = getattr(self, option)
            if value is not None and value <= 0:
                raise DetqError(f"runtime: {option} must be positive, got {value}")
        if self.device not in ("CPU", "AUTO") and (self.threads or self.pinning is not None):
            raise ConfigError(f"device {self.device}: has no threads to choose; leave them out")

    def properties(self) -> dict[str, Any]:
        """The same in OpenVINO's words."""
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY" if self.requests == 1 else "THROUGHPUT",
        }
        if self.device != "NPU":  # has one
            properties["INFERENCE_PRECISION_HINT"] = self.float_precision
        if self.device == "AUTO":  # else the CPU answers until the other is ready
            properties["ENABLE_STARTUP_FALLBACK"] = False
        chosen = {
            "PERFORMANCE_HINT_NUM_REQUESTS": self.requests,
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": self.streams,
            "ENABLE_CPU_PINNING": self.pinning,
            "CACHE_DIR": None if self.cache_dir is None else str(self.cache_dir),
        }
        return properties | {key: value for key, value in chosen.items() if value is not None}
