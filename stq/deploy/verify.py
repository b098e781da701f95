"""Compares a frozen network with the model it came from: every code of every quantized layer, and the predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..surgery import input_quantizer, quantized_layers
from .integer import run
from .network import Network, Node


@dataclass
class Agreement:
    """Counts over all batches.

    codes: activation codes compared. ties: codes that differ where each layer gets the model's own inputs: there the
    float sums of the model and the exact integer sums lie on two sides of a threshold. cascaded: codes that differ
    where each network runs on its own, so that one tie changes later layers. samples, same_top1: predictions.
    layers: ties of each layer that has some.
    """

    codes: int = 0
    ties: int = 0
    cascaded: int = 0
    samples: int = 0
    same_top1: int = 0
    layers: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.same_top1} of {self.samples} predictions equal; {self.ties} of {self.codes:,} codes differ at ties"
            f" ({self.cascaded:,} where one tie changes later layers)"
        )


@torch.no_grad()
def verify(model: nn.Module, network: Network, batches: Iterable[Tensor]) -> Agreement:
    """Run ``model`` (fake-quantized, evaluation) and ``network`` (integers) on batches of inputs and count."""
    agreement = Agreement()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for batch in batches:
            codes: dict[str, Tensor] = {}
            expected = _model_codes(model, batch, codes)

            def local(node: Node, value: Tensor, codes: dict[str, Tensor] = codes) -> Tensor | None:
                if node.op != "quantize" or node.name not in codes:
                    return None
                differing = int((codes[node.name] != value).sum())
                agreement.codes += value.numel()
                agreement.ties += differing
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
    finally:
        for module, mode in modes.items():
            module.training = mode
    return agreement


def _model_codes(model: nn.Module, batch: Tensor, codes: dict[str, Tensor]) -> Tensor:
    """The model's output; fills ``codes`` with the codes at the input of each quantized layer."""

    def hook_for(path: str, layer: nn.Module):
        calls: list[int] = []

        def hook(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = args[0] if args else kwargs["input"]
            name = f"{path}@{len(calls)}" if calls else path
            calls.append(1)
            codes[f"{name}.quantize"] = input_quantizer(layer).record().encode(x).cpu()

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
