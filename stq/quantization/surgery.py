"""Puts quantizers into any ``nn.Module``: a forward pre-hook for the input, a parametrization for the weight.

The layer keeps its path, its type and its attributes; ``layer.weight`` is the quantized weight (see ``weight_guard``),
``layer.parametrizations.weight.original`` the float one that is trained, ``layer.input_quantizer`` the activation
quantizer. In evaluation it sums codes (see ``integer_forward``).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from ..errors import nearest
from ..quantizers import FLOAT_BITS, ActivationQuantizer, WeightQuantizer, check_bits, get_method, get_weight_quantizer
from ..quantizers.summand import ValueQuantizer, summand_pair
from . import integer_forward, standardized
from .optimizer_check import watch_optimizers
from .policy import LayerPlan, Policy
from .residual import Rounded, rounded_before, with_rounded_sums
from .weight_guard import guard_weight


def quantize(
    model: nn.Module,
    method: str = "double_st",
    *,
    settings: Mapping[str, Any] | None = None,
    weight_settings: Mapping[str, Any] | None = None,
    **policy: Any,
) -> nn.Module:
    """Quantize the convolutions and linear layers of ``model`` in place and return it; calibrate it next.

    With ``residual_bits`` the model that comes back is another: a GraphModule with the same layers, paths and state.

    method: activation quantizer, see ``stq.list_quantizers()``. settings: keyword arguments of that quantizer, for
    instance ``{"t_max": 0.5}``; weight_settings: of the weight quantizer, for instance ``{"per_channel": True}``.
    policy: fields of ``stq.Policy``: weight_bits, activation_bits, first_last_bits, weight_method, layers, skip, ...

    Raises ValueError for an unknown name or setting, a bit width out of range, a pattern that matches no layer, or a
    model that is quantized already.
    """
    if any(True for _ in quantized_layers(model)):
        raise ValueError("the model is quantized already: build a new one, or change its bits with stq.set_bits")
    unknown = set(policy) - set(Policy.__dataclass_fields__)
    if unknown:
        name = sorted(unknown)[0]
        raise ValueError(f"quantize has no argument '{name}'{nearest(name, Policy.__dataclass_fields__)}")
    rules = Policy(method=method, **policy)
    if rules.residual_bits is not None and get_method(method).activation is not None:
        model = with_rounded_sums(model)
    modules = dict(model.named_modules())
    weight_method = rules.weight_method or get_method(method).weights
    built = []  # all of them before the first is attached: what is refused leaves the model as it was
    for plan in rules.plan(model):
        layer, own = modules[plan.path], plan.method == method
        activations = _activation_quantizer(layer, plan, settings if own else None)
        own_weights = own and plan.weight_method == weight_method
        weights = _weight_quantizer(layer, plan, weight_settings if own_weights else None)
        built.append((layer, activations, weights))
    if isinstance(model, GraphModule) and rules.residual_bits is not None:
        built = _with_values(model, modules, built, rules.residual_bits)
    device = next(model.parameters()).device
    for layer, activations, weights in built:
        _attach(layer, None if activations is None else activations.to(device), weights)
    model.quantized_layer_count = len(dict(quantized_layers(model)))
    watch_optimizers(model)
    return model


def _with_values(model: GraphModule, modules: Mapping[str, nn.Module], built: list[tuple], bits: int) -> list[tuple]:
    """Quantizers of the values between layers; a layer of as many bits that reads one needs none of its own."""
    values: dict[str, ActivationQuantizer] = {}
    for path, module in modules.items():
        if isinstance(module, Rounded) and path not in values:
            first, is_pair = path.removesuffix(".0"), path.endswith(".0")
            pair = summand_pair(bits) if is_pair else (ValueQuantizer(bits),)
            values |= dict(zip((f"{first}.0", f"{first}.1") if is_pair else (path,), pair, strict=True))
    sources = {modules[path]: values[source] for path, source in rounded_before(model).items()}
    layers = [
        (layer, sources.get(layer, own) if own is not None and own.bits == bits else own, weights)
        for layer, own, weights in built
    ]
    return [*layers, *((modules[path], quantizer, None) for path, quantizer in values.items())]


def _activation_quantizer(layer: nn.Module, plan: LayerPlan, settings: Mapping | None) -> ActivationQuantizer | None:
    if plan.activation_bits == FLOAT_BITS and get_method(plan.method).rounds:
        return None
    linear = isinstance(layer, nn.Linear)
    channels = layer.in_features if linear else layer.in_channels
    axis = -1 if linear else -1 - len(layer.kernel_size)
    common = {"bits": plan.activation_bits, "channels": channels, "channel_axis": axis, "signed": plan.signed}
    return _build(get_method(plan.method).activation, plan.method, common, settings)


def _weight_quantizer(layer: nn.Module, plan: LayerPlan, settings: Mapping | None) -> WeightQuantizer | None:
    if plan.weight_bits == FLOAT_BITS:
        return None
    common = {"bits": plan.weight_bits, "channels": layer.weight.shape[0]}
    quantizer = _build(get_weight_quantizer(plan.weight_method), plan.weight_method, common, settings)
    weight = layer.weight
    if isinstance(layer, standardized.TYPES):
        weight = standardized.Standardized(layer)(weight)
    quantizer.to(weight.device).calibrate(weight)
    return quantizer


def _build(cls: type, name: str, common: Mapping, settings: Mapping | None) -> nn.Module:
    if not isinstance(settings or {}, Mapping):
        raise ValueError(
            f"settings of quantizer '{name}' are names and values, such as {{'momentum': 0.1}}, not {settings!r}"
        )
    known = {k: p for base in cls.__mro__ for k, p in inspect.signature(base.__init__).parameters.items()}
    names = known.keys() - common.keys() - {"self", "args"}
    for key, value in (settings or {}).items():
        if key in common:
            raise ValueError(f"{key} of quantizer '{name}' is no setting: each layer has its own")
        if key not in names:
            raise ValueError(f"quantizer '{name}' has no setting '{key}'{nearest(key, names)}")
        annotation = known[key].annotation  # a name where annotations are postponed
        kind = _KINDS.get(getattr(annotation, "__name__", annotation))
        if kind is not None and not (isinstance(value, kind[1]) and isinstance(value, bool) == (kind[1] is bool)):
            raise ValueError(f"{key}={value} of quantizer '{name}' is not {kind[0]}")
    return cls(**common, **(settings or {}))


_KINDS = {
    "bool": ("true or false", bool),
    "int": ("a whole number", int),
    "float": ("a number", (int, float)),
    "str": ("a name", str),
}


def _attach(layer: nn.Module, activations: ActivationQuantizer | None, weights: WeightQuantizer | None) -> None:
    if activations is not None:
        layer.input_quantizer = activations.train(layer.training)
        layer.register_forward_pre_hook(_quantize_input, with_kwargs=True)
    if weights is not None:
        if isinstance(layer, standardized.TYPES):
            parametrize.register_parametrization(layer, "weight", standardized.Standardized(layer), unsafe=True)
        parametrize.register_parametrization(layer, "weight", weights.train(layer.training), unsafe=True)
        guard_weight(layer)
        integer_forward.install(type(layer))  # the class that the parametrization has made for this layer


def _quantize_input(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    x = args[0] if args else kwargs["input"]
    if not integer_forward.takes_float_input(layer, x):
        x = layer.input_quantizer(x)
    return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "input": x})


_quantize_input.quantizes_input = True  # by which integer_forward knows it


def input_quantizer(layer: nn.Module) -> ActivationQuantizer | None:
    """The quantizer of the layer's input, or None."""
    return getattr(layer, "input_quantizer", None)


def weight_quantizer(layer: nn.Module) -> WeightQuantizer | None:
    """The quantizer of the layer's weight, or None."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    found = [p for p in layer.parametrizations.weight if isinstance(p, WeightQuantizer)]
    return found[0] if found else None


def float_weight(layer: nn.Module) -> nn.Parameter:
    """The trained float weight behind a layer's (possibly quantized) weight."""
    return layer.parametrizations.weight.original if weight_quantizer(layer) is not None else layer.weight


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, layer) of every layer whose input or weight is quantized, in the model's order."""
    for path, module in model.named_modules():
        if input_quantizer(module) is not None or weight_quantizer(module) is not None:
            yield path, module


def quantizers(model: nn.Module) -> Iterator[ActivationQuantizer | WeightQuantizer]:
    """Every quantizer in the model."""
    return (module for module in model.modules() if isinstance(module, ActivationQuantizer | WeightQuantizer))


def adopt_bits(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give each quantizer the bits that it has in a ``state_dict`` of the model, which can be loaded then."""
    for name, module in model.named_modules():
        extra = state.get(f"{name}._extra_state")
        if extra is not None and isinstance(module, ActivationQuantizer | WeightQuantizer):
            module.bits = check_bits(int(extra[0]))


def set_bits(model: nn.Module, weight_bits: int | None, activation_bits: int | None, only: set[str]) -> None:
    """Change the bit widths of the layers whose paths are in ``only`` (progressive quantization); calibrate next."""
    for path, layer in quantized_layers(model):
        if path not in only:
            continue
        for quantizer, bits in ((input_quantizer(layer), activation_bits), (weight_quantizer(layer), weight_bits)):
            if quantizer is not None and bits is not None:
                quantizer.bits = check_bits(bits)
