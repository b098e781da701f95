"""Latency of an exported network beside its float twin, in ONNX Runtime, one thread, side by side in one run."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .sessions import callable_session, runtime_version


@dataclass(frozen=True)
class Latency:
    """Median milliseconds for a batch of one on one thread."""

    float_ms: float
    integer_ms: float
    runtime: str
    processor: str

    @property
    def ratio(self) -> float:
        """How many times faster than float."""
        return self.float_ms / self.integer_ms

    def __str__(self) -> str:
        return (
            f"float {self.float_ms:.2f} ms, integer {self.integer_ms:.2f} ms, {self.ratio:.2f} times faster "
            f"(batch 1, 1 thread, {self.runtime}, {self.processor})"
        )


def time_both(
    float_path: Path, integer_path: Path, input_size: tuple[int, ...], runner: str = "onnxruntime", rounds: int = 30
) -> Latency:
    """Time both models in turns, so that a busy machine slows both, after three rounds of warm-up.

    runner: "onnxruntime" or "openvino".
    """
    sessions = [callable_session(path, runner) for path in (float_path, integer_path)]
    x = np.random.default_rng(0).normal(size=(1, *input_size)).astype(np.float32)
    times = np.zeros((rounds + 3, 2))
    for row in times:
        for i, timed in enumerate(sessions):
            start = time.perf_counter()
            timed(x)
            row[i] = time.perf_counter() - start
    float_ms, integer_ms = np.median(times[3:], 0) * 1e3
    return Latency(float(float_ms), float(integer_ms), runtime_version(runner), _processor())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
