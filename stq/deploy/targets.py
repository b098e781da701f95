"""Where a network can be deployed: the names, what writes each file and what runs it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError, nearest

Writer = Callable[..., Path]  # of a network, the size of its input, a path, what is said about it, and options


class Target(NamedTuple):
    """A target: its ending, "module:function" of its writer in this package, what runs its files, what it is for.

    gates: whether it carries scales that depend on the input. options: names of the settings that its writer takes.
    """

    suffix: str
    writer: str
    runner: str
    purpose: str
    gates: bool = True
    options: tuple[str, ...] = ()


TARGETS: dict[str, Target] = {
    "onnxruntime": Target(".onnx", "onnx.onnx_file:export_onnx", "onnxruntime", "ONNX Runtime, exact"),
    "qdq": Target(".qdq.onnx", "qdq.qdq_file:export_qdq", "onnxruntime", "whatever reads standard QDQ"),
    "openvino": Target(".openvino.onnx", "qdq.openvino_file:export_openvino", "openvino", "OpenVINO"),
    "tensorrt": Target(".tensorrt.onnx", "qdq.tensorrt_file:export_tensorrt", "onnxruntime", "TensorRT"),
    "finn": Target(".finn.onnx", "qonnx.quant_file:export_finn", "qonnx", "FINN (QONNX's Quant)", False),
    "hls4ml": Target(".hls4ml.onnx", "qonnx.quant_file:export_hls4ml", "qonnx", "hls4ml (QONNX's Quant)", False),
    "c": Target(
        ".h",
        "c.c_file:export_c",
        "c",
        "microcontrollers, C99",
        options=("prefix", "flash", "ram", "backend", "container", "pack", "float"),
    ),
    "packed": Target(".safetensors", "packed.packed_file:export_packed", "packed", "storage, a reader of your own"),
    "onnx": Target(".onnx", "onnx.onnx_file:export_onnx", "onnxruntime", "another name for onnxruntime"),
    "qonnx": Target(".qonnx.onnx", "qonnx.qonnx_file:export_qonnx", "qonnx", "QONNX's MultiThreshold", False),
}


def target(name: str) -> Target:
    """The target of that name. Raises InputError for an unknown one."""
    if name not in TARGETS:
        raise InputError(f"format='{name}' is unknown{nearest(name, TARGETS)}: there are {', '.join(TARGETS)}")
    return TARGETS[name]


def writer(name: str) -> Writer:
    """The function that writes a target's file. Raises InputError where a package that it needs is not installed."""
    module, function = target(name).writer.split(":")
    try:
        return getattr(import_module(f"{__package__}.{module}"), function)
    except ImportError as error:
        raise InputError(f"format='{name}' needs {error.name}: pip install 'stq[deploy]'") from error
