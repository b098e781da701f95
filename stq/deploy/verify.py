"""Compares a frozen network with the model it came from: every code of every quantized layer, and the predictions."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantization.integer_forward import received_weight
from ..quantization.modes import modes_put_back
from ..quantization.surgery import input_quantizer, quantized_layers, weight_quantizer
from ..quantizers import ActivationRecord
from .integer.inference import run
from .network import QUANTIZERS, Network, Node, call_name


@dataclass
class Agreement:
    """Counts over all batches.

    codes: activation codes compared. ties: codes that differ where each layer gets the model's own inputs: float32
    (batch norm and scales; whole sums where the model does not sum codes) rounded to the two sides of a threshold.
    exact_ties: the same against the model in float64, which has no rounding to speak of. cascaded: codes
    that differ where each network runs on its own, so that one tie changes later layers. samples, same_top1:
    predictions. layers: ties of each layer that has some.
    """

    codes: int = 0
    ties: int = 0
    exact_ties: int = 0
    cascaded: int = 0
    samples: int = 0
    same_top1: int = 0
    layers: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.same_top1} of {self.samples} predictions equal; {self.ties} of {self.codes:,} codes differ at ties"
            f" ({self.cascaded:,} where one tie changes later layers; {self.exact_ties} from the model in float64)"
        )


@torch.no_grad()
def verify(model: nn.Module, network: Network, batches: Iterable[Tensor]) -> Agreement:
    """Run ``model`` (fake-quantized, evaluation) and ``network`` (integers) on batches of inputs and count."""
    agreement = Agreement()
    with modes_put_back(model):
        model.eval()
        exact, widths = _Exact(model), _paddings(model)
        for batch in batches:
            codes: dict[str, Tensor] = {}
            expected = _model_codes(model, batch.clone(), codes)  # it may change its input
            exact_codes = _widened(exact.codes(batch, codes), widths)
            codes = _widened(codes, widths)

            def local(
                node: Node, value: Tensor, codes: dict[str, Tensor] = codes, exact: dict[str, Tensor] = exact_codes
            ) -> Tensor | None:
                if node.op not in QUANTIZERS or node.name not in codes:
                    return None
                differing = int((codes[node.name] != value).sum())
                agreement.codes += value.numel()
                agreement.ties += differing
                agreement.exact_ties += int((exact[node.name] != value).sum())
                if differing:
                    path = node.name.removesuffix(".quantize")
                    agreement.layers[path] = agreement.layers.get(path, 0) + differing
                return codes[node.name]

            def free(node: Node, value: Tensor, codes: dict[str, Tensor] = codes) -> None:
                if node.name in codes:
                    agreement.cascaded += int((codes[node.name] != value).sum())

            run(network, batch.cpu(), local)
            found = run(network, batch.cpu(), free)
            agreement.samples += len(batch)
            agreement.same_top1 += int((found.argmax(-1) == expected.argmax(-1).cpu()).sum())
    return agreement


def _model_codes(model: nn.Module, batch: Tensor, codes: dict[str, Tensor]) -> Tensor:
    """The model's output; fills ``codes`` with the codes at the input of each quantized layer."""

    def hook_for(path: str, layer: nn.Module):
        calls: list[int] = []

        def hook(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = args[0] if args else kwargs["input"]
            codes[_name(path, len(calls))] = input_quantizer(layer).record().encode(x).cpu()
            calls.append(1)

        return hook

    handles = [
        layer.register_forward_pre_hook(hook_for(path, layer), with_kwargs=True, prepend=True)
        for path, layer in quantized_layers(model)
        if input_quantizer(layer) is not None
    ]
    try:
        return model(batch)
    finally:
        for handle in handles:
            handle.remove()


def _paddings(model: nn.Module) -> dict[str, tuple[list[int], str]]:
    """(sizes, mode) of the layers that pad with values of their input: the frozen network pads before it quantizes."""
    return {
        path: (layer._reversed_padding_repeated_twice, layer.padding_mode)
        for path, layer in quantized_layers(model)
        if getattr(layer, "padding_mode", "zeros") != "zeros"
    }


def _widened(codes: dict[str, Tensor], widths: dict[str, tuple[list[int], str]]) -> dict[str, Tensor]:
    found = dict(codes)
    for name in codes:
        if pad := widths.get(name.removesuffix(".quantize").split("@")[0]):
            found[name] = F.pad(codes[name].float(), *pad).to(codes[name].dtype)
    return found


def _name(path: str, call: int) -> str:
    """The frozen network's name of a layer's quantizer."""
    return f"{call_name(path, call)}.quantize"


class _Exact:
    """The model in float64 on the CPU, each of its quantized layers given codes from outside."""

    def __init__(self, model: nn.Module):
        self.model, self.replays = copy.deepcopy(model).cpu().double(), {}
        for path, layer in quantized_layers(model):
            twin = self.model.get_submodule(path)
            if (weights := weight_quantizer(layer)) is not None:
                record = weights.record(received_weight(layer).detach())
                own = list(layer.parametrizations.weight).index(weights)
                twin.parametrizations.weight[own] = _Constant(replace(record, scale=record.scale.double()).decode())
            if input_quantizer(layer) is not None:
                self.replays[path] = twin.input_quantizer = _Replay(input_quantizer(layer).record())

    def codes(self, batch: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The codes at the input of each quantized layer, all layers before it having had the ``given`` ones."""
        for path, replay in self.replays.items():
            names = (_name(path, call) for call in range(len(given)))
            replay.given, replay.found = [given[name] for name in names if name in given], []
        self.model(batch.cpu().double())
        return {_name(path, i): code for path, replay in self.replays.items() for i, code in enumerate(replay.found)}


class _Constant(nn.Module):
    """In place of a weight quantizer: the weight of its codes, float64."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.value = weight.cpu()

    def forward(self, _: Tensor) -> Tensor:
        """The weight, whatever the float one is."""
        return self.value


class _Replay(nn.Module):
    """In place of a quantizer: notes the code of its input, and returns the value of the code that it is given."""

    given: list[Tensor]
    found: list[Tensor]

    def __init__(self, record: ActivationRecord):
        super().__init__()
        tensors = ("gain", "shift", "scale", "offset")
        self.record = replace(record, **{name: getattr(record, name).cpu().double() for name in tensors})

    def forward(self, x: Tensor) -> Tensor:
        """Both float64, of one shape."""
        code = self.given[len(self.found)]
        self.found.append(self.record.encode(x))
        return self.record.decode(code.double())
