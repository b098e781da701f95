"""What a network costs where it is deployed: bytes, multiplications, bit operations, activation memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InputError
from ..quantization.integer_forward import received_weight
from ..quantization.modes import modes_put_back
from ..quantization.surgery import float_weight, input_quantizer, quantized_layers, quantizers, weight_quantizer
from ..quantizers import FLOAT_BITS, ActivationQuantizer, WeightQuantizer
from .activation_memory import activation_peak, kept_gates

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_FLOAT_BYTES = 4


class SizeReport(NamedTuple):
    """Bytes of the deployed network, bytes of the same network in float32, parameters without the quantizers'."""

    size_bytes: int
    float_size_bytes: int
    parameters: int


@dataclass(frozen=True)
class LayerCost:
    """One convolution or linear layer for one sample; bits of 32 mean float, ``output`` is its shape without batch."""

    path: str
    macs: int
    weight_bits: int
    activation_bits: int
    output: tuple[int, ...]

    @property
    def bops(self) -> int:
        """Bit operations: MACs * weight bits * activation bits."""
        return self.macs * self.weight_bits * self.activation_bits


@dataclass(frozen=True)
class Cost:
    """Cost of one sample; every ``float_`` field is the same network in float32. MACs are the same for both.

    macs and bops count every convolution and matrix product, those of two activations (attention) included.
    float_macs: those of them with a side in float: layers left there, products of activations, functions.
    gate_macs: multiplications of gates that stay at inference, which macs and bops leave out: their maps, and one for
    each input of a layer that has a gain. Such a layer's input is passed over twice, and kept as it is until then.
    activation_bytes is the peak of ``activation_memory``, None for a model whose order of operations cannot be traced.
    """

    macs: int
    bops: int
    float_bops: int
    size_bytes: int
    float_size_bytes: int
    parameters: int
    activation_bytes: int | None
    float_activation_bytes: int | None
    layers: tuple[LayerCost, ...]
    float_macs: int = 0
    gate_macs: int = 0

    @property
    def gate_bops(self) -> int:
        """Bit operations of the gates that stay: by a parameter or a gain of 8 bits each, of a float."""
        return self.gate_macs * 8 * FLOAT_BITS

    def __str__(self) -> str:
        rows = [
            ("parameters", self.parameters, self.parameters),
            ("size, bytes", self.size_bytes, self.float_size_bytes),
            ("MACs", self.macs, self.macs),
            ("bit operations", self.bops, self.float_bops),
        ]
        lines = [f"{'':24}{'deployed':>20}{'float32':>20}{'ratio':>8}"]
        if self.activation_bytes is not None:
            rows.append(("activation peak, bytes", self.activation_bytes, self.float_activation_bytes))
        for name, deployed, full in rows:
            lines.append(f"{name:24}{deployed:>20,}{full:>20,}{full / max(deployed, 1):>8.2f}")
        if self.gate_macs:
            lines.append(f"{'multiplications of gates':24}{self.gate_macs:>20,}")
        if self.float_macs:
            share = self.float_macs / max(self.macs, 1)
            lines.append(f"{'MACs left in float':24}{self.float_macs:>20,}{share:>20.1%}")
        return "\n".join(lines)


def model_size(model: nn.Module) -> SizeReport:
    """Bytes of ``model`` as deployed, every layer counted, scales and thresholds included.

    A quantized weight takes ceil(elements * bits / 8) bytes and 4 for each scale; a quantized input 4 for each gain,
    shift, scale and offset of its record. All other parameters and floating-point buffers take 4 bytes an element.
    What training alone needs (attention blocks, running statistics of quantizers) is not counted, unless a quantizer
    has no static record: then it is deployed as it is. Works on float models and on any device.
    """
    elements = {id(t): t.numel() for t in _network_tensors(model)}
    parameters = sum({id(p): p.numel() for p in _network_tensors(model, buffers=False)}.values())
    float_size = _FLOAT_BYTES * sum(elements.values())
    size = float_size
    counted: set[int] = set()
    for _, layer in quantized_layers(model):
        if (quantizer := input_quantizer(layer)) is not None:
            size += _record_bytes(quantizer)
        if (quantizer := weight_quantizer(layer)) is not None and id(weight := float_weight(layer)) not in counted:
            counted.add(id(weight))
            record = quantizer.record(received_weight(layer).detach())
            size += -(-weight.numel() * record.bits // 8) + _FLOAT_BYTES * (record.scale.numel() - weight.numel())
    return SizeReport(size, float_size, parameters)


def cost(model: nn.Module, input_size: Sequence[int]) -> Cost:
    """The cost of one sample of shape ``input_size`` (without batch, for instance (3, 224, 224)) through ``model``.

    Works on float and quantized models, calibrated or not; the model is left as it was. Raises ValueError where the
    model does not take an input of that size.
    """
    layers, macs, gate_macs = _layer_costs(model, input_size)
    size = model_size(model)
    try:
        peak = activation_peak(model, input_size)
    except InputError:
        peak = None
    elsewhere = macs - sum(layer.macs for layer in layers)  # in no layer: products of activations, functions
    in_float = sum(layer.macs for layer in layers if FLOAT_BITS in (layer.weight_bits, layer.activation_bits))
    return Cost(
        macs=macs,
        bops=sum(layer.bops for layer in layers) + elsewhere * FLOAT_BITS * FLOAT_BITS,
        float_bops=macs * FLOAT_BITS * FLOAT_BITS,
        size_bytes=size.size_bytes,
        float_size_bytes=size.float_size_bytes,
        parameters=size.parameters,
        activation_bytes=peak and peak.bytes,
        float_activation_bytes=peak and peak.float_bytes,
        layers=layers,
        float_macs=elsewhere + in_float,
        gate_macs=gate_macs,
    )


def _network_tensors(model: nn.Module, buffers: bool = True) -> Iterator[Tensor]:
    """Parameters (and floating-point buffers) of the model that do not belong to a quantizer."""
    foreign = {id(module) for quantizer in quantizers(model) for module in quantizer.modules()}
    for module in model.modules():
        if id(module) in foreign:
            continue
        yield from module.parameters(recurse=False)
        if buffers:
            yield from (b for b in module.buffers(recurse=False) if b.is_floating_point())


def _record_bytes(quantizer: ActivationQuantizer) -> int:
    try:
        record = quantizer.record()
    except ValueError:
        tensors = (*quantizer.parameters(), *quantizer.buffers())
        return _FLOAT_BYTES * sum(t.numel() for t in tensors if t.is_floating_point())
    numbers = sum(t.numel() for t in (record.gain, record.shift, record.scale, record.offset))
    return _FLOAT_BYTES * numbers + (0 if record.gate is None else record.gate.stored_bytes)


def _layer_costs(model: nn.Module, input_size: Sequence[int]) -> tuple[tuple[LayerCost, ...], int, int]:
    """The layers, the multiplications of the whole model, and those of its gates."""
    foreign = {id(module) for quantizer in quantizers(model) for module in quantizer.modules()}
    found: list[LayerCost] = []
    of_gates: list[int] = []

    def hook_for(path: str):
        def hook(layer: nn.Module, _args, output: Tensor) -> None:
            fan_in = float_weight(layer)[0].numel()
            if getattr(layer, "transposed", False):  # weight is (in, out/groups, ...), each input position is spread
                macs = _args[0].numel() * fan_in
            else:
                macs = output.numel() * fan_in
            weights, activations = weight_quantizer(layer), input_quantizer(layer)
            bits = [FLOAT_BITS if q is None else q.bits for q in (weights, activations)]
            found.append(LayerCost(path, macs, *bits, tuple(output.shape[1:])))
            if (gates := kept_gates(activations)) is not None:
                of_gates.append(gates.multiplications(_args[0].numel()))

        return hook

    handles = [
        module.register_forward_hook(hook_for(path))
        for path, module in model.named_modules()
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)) and id(module) not in foreign
    ]
    try:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), _plain_evaluation(model), counter, sdpa_kernel(SDPBackend.MATH):  # as plain products
            model(_zeros(model, input_size))
    except RuntimeError as error:
        raise ValueError(f"the model does not take an input of size {tuple(input_size)}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return tuple(found), counter.get_total_flops() // 2, sum(of_gates)


def _zeros(model: nn.Module, input_size: Sequence[int]) -> Tensor:
    parameter = next(model.parameters(), torch.zeros(()))
    return torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)


@contextmanager
def _plain_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with quantizers that pass their input on (so they need no calibration); put back afterwards."""
    bypassed: list[ActivationQuantizer | WeightQuantizer] = list(quantizers(model))
    with modes_put_back(model):
        model.eval()
        for quantizer in bypassed:
            quantizer.forward = lambda x: x
        try:
            yield
        finally:
            for quantizer in bypassed:
                del quantizer.forward
