"""Runtimes on one thread of the processor, set so that they compute what the file says."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

_NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def session(path: Path):
    """An ONNX Runtime session on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compiled_for_openvino(path: Path):
    """An OpenVINO model on one thread, with float32 where the file has it: by default some processors get bfloat16."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return core.compile_model(core.read_model(path), "CPU", settings)


def callable_session(path: Path, runner: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a batch to the scores."""
    if runner == "openvino":
        compiled = compiled_for_openvino(path)
        return lambda x: compiled(x)[0]
    opened = session(path)
    return lambda x: opened.run(None, {"input": x})[0]


def runtime_version(runner: str) -> str:
    """Name and version of a runtime."""
    module = import_module(runner)
    return f"{_NAMES[runner]} {module.__version__.split('-')[0]}"
