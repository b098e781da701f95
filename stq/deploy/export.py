"""``stq.export(model, example_input, path, format=...)``: one door to all formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from ..errors import InputError, nearest
from .integer.freeze import freeze
from .integer.inference import shapes
from .network import Network

SUFFIXES = {"onnx": ".onnx", "qonnx": ".qonnx.onnx", "packed": ".safetensors", "c": ".h"}


def export(model: nn.Module | Network, example_input: Tensor, path: str | Path, format: str = "onnx") -> Path:
    """Write a quantized model (or a network from ``stq.freeze``) to a file and return the file's path.

    example_input: a batch as the model takes it, (N, ...); it gives the size of the inputs, its values do not matter.
    path: the file. format: "onnx" (standard operators, for ONNX Runtime), "qonnx" (for FPGA flows), "packed"
    (safetensors, weights at their bit width), "c" (C99: a header, and beside it a program that reads samples).
    Raises InputError, naming layer and reason, for what cannot be exported exactly, or an example that is no batch.
    """
    writer = _writer(format)
    if not isinstance(example_input, Tensor) or example_input.dim() < 2:
        kind = (
            f"of shape {tuple(example_input.shape)}"
            if isinstance(example_input, Tensor)
            else type(example_input).__name__
        )
        raise InputError(f"example_input must be a batch as the model takes it, a tensor (N, ...), not {kind}")
    network = model if isinstance(model, Network) else freeze(model)
    size = tuple(example_input.shape[1:])
    shapes(network, size)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return writer(network, size, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _writer(format: str) -> Callable[[Network, tuple[int, ...], Path], Path]:
    if format not in SUFFIXES:
        raise InputError(f"format='{format}' is unknown{nearest(format, SUFFIXES)}: there are {', '.join(SUFFIXES)}")
    try:
        if format == "onnx":
            from .onnx.onnx_file import export_onnx as writer
        elif format == "qonnx":
            from .qonnx.qonnx_file import export_qonnx as writer
        elif format == "packed":
            from .packed.packed_file import export_packed as writer
        else:
            from .c.c_file import export_c as writer
    except ImportError as error:
        raise InputError(f"format='{format}' needs {error.name}: pip install 'stq[deploy]'") from error
    return writer
