"""Names of the network's nodes: those of the model's modules, with a number where one runs again."""

from __future__ import annotations

from torch import fx, nn

from ..network import call_name
from .operations import aten_name

_KEPT = ("input", "output")  # of the network itself


class Names:
    """Gives each name once."""

    def __init__(self, model: nn.Module):
        self._leaves = {
            path for path, module in model.named_modules() if path and not any(True for _ in module.children())
        }
        self._taken: set[str] = set()

    def of_layer(self, path: str) -> str:
        """The layer's path; of a layer that is called again, with the number of the call."""
        call = 0
        while (name := call_name(path, call)) in self._taken:
            call += 1
        self._taken.add(name)
        return name

    def of_operation(self, node: fx.Node) -> str:
        """The path of the module that runs it, with the operation's name where the module runs several."""
        path = place_of(node)
        if path in self._leaves:
            return self.free(path)
        kind = aten_name(node) or node.name
        return self.free(f"{path}.{kind}" if path else kind)

    def free(self, wanted: str) -> str:
        """The name wanted, with a number where it is taken."""
        name, count = wanted, 1
        while name in self._taken or name in _KEPT:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


def place_of(node: fx.Node) -> str:
    """The path of the module that runs the operation."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(stack.values())), "")
