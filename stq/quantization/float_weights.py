"""``stq.load_float(model, state)``: the weights of a float model into its quantized twin."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

_ORIGINAL = ".parametrizations.weight.original"


def load_float(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a float model's ``state_dict``, with gates or without, into the quantized ``model``; calibrate it next.

    ``load_state_dict`` would not find the weights: a quantized layer keeps its float weight under another name, and
    with ``strict=False`` it would load none and say nothing. Quantizers stay as they are. Raises ValueError that names
    the first key that is missing, not known, or of another shape; then nothing is loaded.
    """
    own, gates = model.state_dict(), gates_of(state)
    if gates:
        check_gates_fit(model, gates)
        state = {key: value for key, value in state.items() if not _of_a_quantizer(key)}
    names = {key.replace(_ORIGINAL, ".weight"): key for key in own if not _of_a_quantizer(key)}
    for name in sorted(names.keys() | state.keys()):
        if name not in state:
            raise ValueError(f"the float state has no '{name}', which the model has")
        if name not in names:
            raise ValueError(f"the float state holds '{name}', which the model has not")
        if own[names[name]].shape != state[name].shape:
            shapes = tuple(state[name].shape), tuple(own[names[name]].shape)
            raise ValueError(f"'{name}' is {shapes[0]} in the float state and {shapes[1]} in the model")
    model.load_state_dict({key: state[name] for name, key in names.items()} | gates, strict=False)


def gates_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the gates of a network learned: their parameters and the statistics that standardize their inputs."""
    return {key: value for key, value in state.items() if re.search(r"\.input_quantizer\.\w+_(gate|standard)\.", key)}


def check_gates_fit(model: nn.Module, gates: Mapping[str, Tensor]) -> None:
    """Raise ValueError where the model's gates are of another form."""
    own = {key: value.shape for key, value in gates_of(model.state_dict()).items()}
    if not own:
        raise ValueError(
            "the float network has gates, and the model has none: quantize it by double_st, with those gates"
        )
    for key in sorted(own.keys() | gates.keys()):
        if own.get(key) != (gates[key].shape if key in gates else None):
            raise ValueError(
                f"the float network has other gates: '{key}' does not fit; give both the same range_gate, "
                "threshold_gate and settings of these"
            )


def _of_a_quantizer(key: str) -> bool:
    return ".input_quantizer." in f".{key}" or (".parametrizations." in key and not key.endswith(_ORIGINAL))
