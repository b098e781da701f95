"""Calibration: the explicit step before training that sets every step, clip and signedness from one batch."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..quantizers import ActivationQuantizer
from .integer_forward import received_weight
from .modes import modes_put_back
from .summary import Summary, summary
from .surgery import input_quantizer, quantized_layers, quantizers, weight_quantizer

log = logging.getLogger(__name__)

Batch = Tensor | Sequence[Any] | Mapping[str, Any]


@torch.no_grad()
def calibrate(model: nn.Module, batch: Batch, forward: Callable[[Any], object] | None = None) -> Summary:
    """Run one batch through a quantized model and set each quantizer from what it sees; returns ``stq.summary(model)``.

    batch: the model's input; a batch of a data loader, whose first item it is; for a model of several inputs a sequence
    of them, or a dictionary by argument name. forward: what to do with the batch instead of ``model(input)``, such as a
    training step. Each layer is calibrated on inputs that come through the already quantized layers before it, those of
    all its calls. A layer's input is taken to be signed if the batch holds a negative value, unless the policy says
    otherwise; the summary says which it was.

    Batch norms are in the mode that training will have: they use the statistics of the batch, but for those that are in
    evaluation while the model is in training. Their running statistics and all else of the model stay as they are. In a
    distributed run every process must call this, each with its own batch; they agree on signedness and on the steps of
    the first. Raises ValueError for a batch with NaN, or a model without quantizers.
    """
    layers = list(quantized_layers(model))
    if not layers:
        raise ValueError("the model has no quantizers: call stq.quantize(model, ...) before stq.calibrate")
    inputs = _inputs(model, batch) if forward is None else batch
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not all(torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()):
        raise ValueError("cannot calibrate on a batch that holds NaN or infinity")
    device = next(model.parameters()).device
    inputs = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs)
    run = forward or (lambda given: _call(model, given))
    for _, layer in layers:
        if (quantizer := weight_quantizer(layer)) is not None:
            quantizer.calibrate(received_weight(layer))
    seen, samples = _Inputs(), len(tensors[0]) if tensors else 2
    while True:  # again where layers turn out to be called more than once, or a later call to have negative inputs
        with _as_training_sees(model, samples), seen.watching(layers):
            run(inputs)
        if not seen.again:
            break
    heads = [(path, layer) for path, layer in layers if input_quantizer(layer) is not None and path not in seen.calls]
    if heads:  # auxiliary heads, that only training runs
        calls = seen.calls
        with _in_training(model, samples), seen.watching(heads), suppress(RuntimeError):  # of an input too small
            run(inputs)
        seen.calls |= calls
    _agree(model)
    for path, layer in layers:
        if path in seen.calls:
            quantizer = input_quantizer(layer)
            found = "given" if quantizer.requested_signed is not None else "found"
            log.debug("%s: input %s (%s)", path, "signed" if quantizer.signed else "non-negative", found)
    unseen = [path for path, layer in layers if input_quantizer(layer) is not None and path not in seen.calls]
    if unseen:
        warnings.warn(
            f"the batch did not reach {len(unseen)} layers, not calibrated: {', '.join(unseen)}", stacklevel=2
        )
    return summary(model)


class _Inputs:
    """Calibrates the quantizer of each layer on the inputs of all its calls, as they come.

    Only the inputs of layers that are known to be called more than once are kept: all of them would be much memory.
    """

    def __init__(self):
        self.calls: dict[str, int] = {}
        self.owners: dict[int, str] = {}  # of a quantizer that several layers share, the one that sees its input first
        self.again = False  # whether the batch must be run once more
        self._kept: dict[str, list[Tensor]] = {}
        self._signed: set[str] = set()

    @contextmanager
    def watching(self, layers: Sequence[tuple[str, nn.Module]]) -> Iterator[None]:
        """While the batch is run once."""
        self.calls, self.again = {}, False
        self._kept = {path: [] for path in self._kept}
        handles = [
            layer.register_forward_pre_hook(self._hook(path), with_kwargs=True, prepend=True)
            for path, layer in layers
            if input_quantizer(layer) is not None
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, path: str) -> Callable:
        def hook(layer: nn.Module, args: tuple, kwargs: dict) -> None:
            x, quantizer = args[0] if args else kwargs["input"], input_quantizer(layer)
            if self.owners.setdefault(id(quantizer), path) != path:
                self.calls.setdefault(path, 0)
                return
            later = self.calls.setdefault(path, 0) > 0
            self.calls[path] += 1
            if later and path not in self._kept:
                self._kept[path], self.again = [], True
                return
            signed = path in self._signed or (later and bool(quantizer.signed))
            if quantizer.requested_signed is None and not signed:
                signed = _anywhere((x < 0).any())
                if signed and later:  # its first input was taken to be non-negative
                    self._signed.add(path)
                    self.again = True
            if path in self._kept:
                self._kept[path].append(x)
                x = torch.cat([each for each in self._kept[path] if each.shape[1:] == x.shape[1:]])
            _calibrate(quantizer, x, signed)

        return hook


def _calibrate(quantizer: ActivationQuantizer, x: Tensor, signed: bool) -> None:
    """As signed or not, unless the policy says otherwise."""
    asked = quantizer.requested_signed
    quantizer.requested_signed = signed if asked is None else asked
    try:
        quantizer.calibrate(x)
    finally:
        quantizer.requested_signed = asked


def _inputs(model: nn.Module, batch: Batch) -> Any:
    """A tuple of positional arguments, or a dictionary of named ones."""
    if isinstance(batch, Tensor):
        return (batch,)
    if isinstance(batch, Mapping):
        return dict(batch)
    parameters = inspect.signature(model.forward).parameters.values()
    needed = sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return tuple(batch[: max(1, needed)])


def _call(model: nn.Module, given: Any) -> object:
    return model(**given) if isinstance(given, Mapping) else model(*given)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _anywhere(flag: Tensor) -> bool:
    """Whether it is so in any process of a distributed run."""
    if _distributed():
        flag = flag.to(torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def _agree(model: nn.Module) -> None:
    """Every process of a distributed run takes the quantizers of the first."""
    if _distributed():
        for quantizer in quantizers(model):
            for tensor in (*quantizer.parameters(), *quantizer.buffers()):
                dist.broadcast(tensor.data, 0)


@contextmanager
def _in_training(model: nn.Module, samples: int) -> Iterator[None]:
    """Training mode, where nothing of the model moves; the random numbers that it draws are given back."""
    quantizing = {module for quantizer in quantizers(model) for module in quantizer.modules()}
    with _as_training_sees(model, samples), torch.random.fork_rng(devices=[]):
        for module in model.modules():
            norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if module not in quantizing and not norm:
                module.training = True
        yield


@contextmanager
def _as_training_sees(model: nn.Module, samples: int) -> Iterator[None]:
    """Evaluation mode, but batch norms use the batch and layers sum as in training; every mode is put back.

    With running statistics, a weight quantizer that changes the size of the weights (DoReFa's do) would blow up the
    activations from layer to layer, and the steps with them, while training normalises them away.
    """
    with modes_put_back(model) as modes:
        in_training = model.training
        model.eval()
        norms = [
            module
            for module, mode in modes.items()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and samples > 1 and (mode or not in_training)
        ]
        counts = [norm.num_batches_tracked for norm in norms]
        kept = [
            (norm.momentum, None if count is None else count.clone()) for norm, count in zip(norms, counts, strict=True)
        ]
        for _, layer in quantized_layers(model):
            layer.training = True  # of the layer itself, not of its quantizers
        for norm in norms:
            norm.train()
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(norms, kept, strict=True):
                norm.momentum = momentum
                if count is not None:
                    norm.num_batches_tracked.copy_(count)
