"""``stq.load_float(model, state)``: the weights of a float model into its quantized twin."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

_ORIGINAL = ".parametrizations.weight.original"


def load_float(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a float model's ``state_dict`` into the quantized ``model``; calibrate it next.

    ``load_state_dict`` would not find the weights: a quantized layer keeps its float weight under another name, and
    with ``strict=False`` it would load none and say nothing. Quantizers stay as they are. Raises ValueError that names
    the first key that is missing, not known, or of another shape; then nothing is loaded.
    """
    own = model.state_dict()
    names = {key.replace(_ORIGINAL, ".weight"): key for key in own if not _of_a_quantizer(key)}
    for name in sorted(names.keys() | state.keys()):
        if name not in state:
            raise ValueError(f"the float state has no '{name}', which the model has")
        if name not in names:
            raise ValueError(f"the float state holds '{name}', which the model has not")
        if own[names[name]].shape != state[name].shape:
            shapes = tuple(state[name].shape), tuple(own[names[name]].shape)
            raise ValueError(f"'{name}' is {shapes[0]} in the float state and {shapes[1]} in the model")
    model.load_state_dict({key: state[name] for name, key in names.items()}, strict=False)


def _of_a_quantizer(key: str) -> bool:
    return ".input_quantizer." in f".{key}" or (".parametrizations." in key and not key.endswith(_ORIGINAL))
