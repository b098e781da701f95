"""The model as ``torch.export`` sees it: what runs is in the graph (hooks, branches, parametrizations), nothing else.

In the graph each quantizer is one call: ``stq::quantize(x, i)`` for the input and ``stq::weight(w, i)`` for the weight
of the i-th quantized layer. Both stand for values of the same shape; what they compute is in the layers' records. Gates
that stay at inference are in the graph before the call.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ...errors import InputError
from ...quantization.modes import modes_put_back
from ...quantization.policy import QUANTIZED_TYPES
from ...quantization.surgery import input_quantizer, quantized_layers, weight_quantizer
from ...quantizers import ActivationQuantizer, WeightQuantizer
from .functional import functional

_LIBRARY = torch.library.Library("stq", "DEF")
for _name in ("quantize", "weight"):
    _LIBRARY.define(f"{_name}(Tensor x, int layer) -> Tensor")
    _LIBRARY.impl(_name, lambda x, layer: x.clone(), "CompositeExplicitAutograd")
    torch.library.register_fake(f"stq::{_name}", lambda x, layer: torch.empty_like(x), lib=_LIBRARY)

_MANY = 10_000  # samples of a batch: a bound below is the model's, not torch's own
QUANTIZE, WEIGHT = torch.ops.stq.quantize.default, torch.ops.stq.weight.default


def exported(model: nn.Module, example: Tensor, quantized: bool) -> torch.export.ExportedProgram:
    """The functional ATen graph of ``model`` in evaluation, of free batch size; the model is left as it is.

    example: a batch (N, ...) of at least one sample, whose values do not matter. quantized: False gives the graph
    without quantizers. Raises InputError for a forward that cannot be followed, or has effects outside its result.
    """
    pair = torch.zeros((2, *example.shape[1:]), dtype=example.dtype, device=example.device)
    with modes_put_back(model), _calls(model, quantized), quiet(), torch.no_grad():
        model.eval()
        try:
            program = torch.export.export(model, (pair,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False)
            program = functional(program)
        except InputError:
            raise
        except Exception as error:  # exporting runs the model's own code
            raise InputError(
                f"the model's forward cannot be followed with an input of size {tuple(example.shape[1:])} "
                f"({type(error).__name__}: {_first_line(error)}): is it of that size, and does the forward branch on "
                "the values of its tensors?"
            ) from error
        finally:
            FakeTensorMode.cache_clear()  # keyed by the symbols of this export, it would serve no later one, and grow
    given = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if given and str(given[0].meta["val"].shape[0]).isdigit():  # an int, or a symbol that is one number
        raise InputError("the model's forward takes the size of the batch for a fixed number, as len(x) does")
    for bounds in program.range_constraints.values():
        if bounds.upper < _MANY or bounds.lower > len(pair):
            raise InputError("the model's forward branches on the size of the batch, and a file has one branch")
    changed = sorted(program.graph_signature.buffers_to_mutate.values())
    if changed:
        raise InputError(f"the model's forward changes its buffer '{changed[0]}', an effect that no file can have")
    return program


@contextmanager
def _calls(model: nn.Module, quantized: bool) -> Iterator[None]:
    """Quantizers as calls of the two operators, or as nothing."""
    replaced = {}
    for index, (_, layer) in enumerate(quantized_layers(model)):
        for quantizer, call in ((input_quantizer(layer), QUANTIZE), (weight_quantizer(layer), WEIGHT)):
            if quantizer is not None and not (quantizer in replaced and isinstance(layer, QUANTIZED_TYPES)):
                quantizer.forward = partial(_call, call, index, _gate(quantizer)) if quantized else _nothing
                replaced[quantizer] = True  # a value's quantizer, that layers share, stands for the value
    try:
        yield
    finally:
        for quantizer in replaced:
            del quantizer.forward


def _gate(quantizer: ActivationQuantizer | WeightQuantizer) -> nn.Module | None:
    """What a quantizer's record puts before its codes: operations of the network like any other."""
    if not isinstance(quantizer, ActivationQuantizer) or not quantizer.calibrated:
        return None
    try:
        return quantizer.record().gate
    except ValueError:  # told where the record is read
        return None


def _call(call: object, index: int, gate: nn.Module | None, x: Tensor) -> Tensor:
    return call(x if gate is None else gate(x), index)


def _nothing(x: Tensor) -> Tensor:
    return x


@contextmanager
def quiet() -> Iterator[None]:
    """torch.export logs tracebacks of its own beside the errors that it raises, and warns of its own workings."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
