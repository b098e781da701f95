"""Export to C99 for microcontrollers: a header with const arrays and ``predict``, and a small program around it.

Multiplications and additions of all layers are integer; where a layer's output goes to a quantizer alone, it is
compared with integer thresholds and no floating point is met at all. Floating point is left where the network itself
keeps real numbers: the input, residual additions, averages, the scores. Nothing is allocated at run time.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from ...errors import InputError
from ..about import About, checksum
from ..integer.thresholds import fuse
from ..network import CARRIED, INTEGER_LAYERS, Network, Node
from .layer_writer import LayerWriter
from .templates import HEAD, PROGRAM

_REASONS = {
    "constant": "the network holds constant tensors",
    "mul": "products of two activations, as in squeeze-and-excitation, are not integer thresholds",
    "compare": "its thresholds are no even ladder",
    **dict.fromkeys(CARRIED, "it is one of torch's own operations"),
    "concat": "C has no concatenation of tensors here",
    **dict.fromkeys(
        ("silu", "sigmoid", "tanh", "gelu", "hardswish", "hardsigmoid"),
        "only piecewise linear activations without a product are",
    ),
    **dict.fromkeys(("float_conv", "float_linear", "dequantize"), "the layer has float weights or inputs"),
}


def export_c(network: Network, input_size: tuple[int, ...], path: Path, about: About) -> Path:
    """Write ``path`` (a .h) and, beside it, the program of the same name (.c). Raises InputError for what C lacks."""
    path = path.with_suffix(".h")
    writer = _Writer(fuse(network, input_size), input_size)
    body = writer.write()
    sizes = {"inputs": math.prod(input_size), "outputs": math.prod(writer.shape(network.output))}
    names = {"stem": path.stem, "guard": re.sub(r"\W", "_", path.stem).upper(), **sizes}
    facts = {**about.entries(), "stq.checksum": checksum(body.encode())}
    said = "".join(f" * {key}: {value.replace('*/', '* /')}\n" for key, value in facts.items())
    path.write_text(HEAD.format(about=said, **names) + body + "\n#endif\n")
    path.with_suffix(".c").write_text(PROGRAM.format(**names))
    return path


class _Writer(LayerWriter):
    """Writes the blocks of all nodes, in order, into one function."""

    def write(self) -> str:
        blocks = []
        left = {name: len(readers) for name, readers in self.users.items()}
        left[self.network.output] += 1
        held: dict[str, int] = {}  # node -> buffer
        for node in self.network.nodes:
            writer = getattr(self, f"_{node.op}", None)
            if writer is None:
                raise InputError(
                    f"'{node.name}' ({node.attributes.get('target', node.op)}) has no C form: {_REASONS[node.op]}"
                )
            if node.op in ("flatten", "adaptive_avg_pool") and self._is_view(node):
                self._alias(node, held, left)
                continue
            if node.op == "input":
                self.places[node.name], self.types[node.name] = "input", "float"
                continue
            if node.op in INTEGER_LAYERS and node.attributes.get("fused"):
                continue  # written with its thresholds
            inputs = self._read_by(node)
            kind = self._type(node)
            held[node.name] = self._buffer(kind, math.prod(self.shape(node.name)))
            self.places[node.name], self.types[node.name] = f"buffer_{held[node.name]}", kind
            blocks.append(f"    /* {node.name}: {node.op} */\n" + _indent(writer(node)))
            for name in inputs:
                self._release(name, held, left)
        output = self.places[self.network.output]
        count = math.prod(self.shape(self.network.output))
        blocks.append(f"    for (int i = 0; i < {count}; i++) output[i] = {output}[i];\n")
        static = [f"static {kind} buffer_{i}[{size}];" for i, (kind, size) in enumerate(self.buffers)]
        function = "static void predict(const float *input, float *output)\n{\n" + "\n".join(blocks) + "}\n"
        return "\n" + "\n".join([*self.arrays, *static]) + "\n\n" + function

    def _flatten(self, node: Node) -> str:
        raise AssertionError("a view")

    _input = _flatten


def _indent(text: str) -> str:
    return "".join(f"    {line}\n" if line.strip() else "" for line in text.splitlines())
