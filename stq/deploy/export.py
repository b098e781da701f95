"""``stq.export(model, example_input, path, format=...)``: one door to all targets."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..errors import InputError, nearest
from .about import About
from .integer.freeze import check_example, freeze
from .integer.inference import shapes
from .network import Network
from .targets import target, writer


def export(
    model: nn.Module | Network,
    example_input: Tensor,
    path: str | Path,
    format: str = "onnx",
    about: About | None = None,
    **options: str | int | None,
) -> Path:
    """Write a quantized model (or a network from ``stq.freeze``) to a file and return the file's path.

    example_input: a batch as the model takes it, (N, ...); it gives the size of the inputs, its values do not matter.
    path: the file. format: the target: "onnxruntime" (or "onnx": standard operators, exact), "qdq" (standard
    QuantizeLinear and DequantizeLinear), "openvino", "tensorrt", "finn", "hls4ml" (QONNX's Quant), "qonnx"
    (MultiThreshold), "packed" (safetensors, weights at their bit width), "c" (C99: a header, and its source beside it).
    about: what the file says of the network, see ``stq.About``. options: of format "c": prefix of the public names (the
    file's name); flash and ram in bytes, for a network that does not fit to be refused; backend ("c99", "cmsis_nn");
    container (the least bits that a weight takes); pack (codes of few bits share bytes in RAM); float (False: no
    floating point, from pixels to whole scores).

    Raises InputError, naming layer, reason and remedy, for what the target cannot express exactly, an example that is
    no batch, or a path that cannot be written.
    """
    write = writer(format)
    for key in options:
        if key not in target(format).options:
            raise InputError(f"format='{format}' has no option '{key}'{nearest(key, target(format).options)}")
    check_example(example_input)
    network = model if isinstance(model, Network) else freeze(model, example_input)
    if network.gated is not None and not target(format).gates:
        raise InputError(
            f"'{network.gated}' has a gate that stays at inference, and {format} carries no gains that depend on the "
            "input: train quantizer=double_st_frozen, whose gates become constants, or use target=onnxruntime, qdq, "
            "openvino, tensorrt, packed or c"
        )
    size = tuple(example_input.shape[1:])
    shapes(network, size)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write(network, size, path, about or About(), **options)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
