"""Export to C99 for microcontrollers: one header and one source, no allocation, static memory.

Sums of all layers are integers; where a layer's output goes to a quantizer alone, its codes come of one multiplication
and one shift and no floating point is met at all. Floating point is left where the network itself keeps real numbers:
the input (unless pixels are given), residual additions, averages, the scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...errors import InputError
from ..about import About, checksum
from ..integer.inference import evaluate
from ..integer.thresholds import fuse
from ..network import INTEGER_LAYERS, QUANTIZERS, Network, Node
from . import kernels
from .integers import with_tables
from .layers import Layers, threshold_type
from .program import HEADER, MAIN, PIXELS, SOURCE, WITHIN
from .values import CODES, MOVES, REAL, VIEWS


@dataclass(frozen=True)
class Options:
    """prefix: of the public names, by default the file's name. flash, ram: bytes that there are, None: any."""

    prefix: str | None = None
    flash: int | None = None
    ram: int | None = None


def export_c(
    network: Network, input_size: tuple[int, ...], path: Path, about: About, **options: str | int | None
) -> Path:
    """Write ``path`` (a .h) and, beside it, the source of the same name (.c); options: fields of ``Options``.

    Raises InputError for what C lacks, a prefix that is no name in C, or a network that does not fit.
    """
    chosen = Options(**options)
    path = path.with_suffix(".h")
    prefix = chosen.prefix or re.sub(r"\W", "_", path.stem)
    if not re.fullmatch(r"[A-Za-z_]\w*", prefix):
        raise InputError(f"c.prefix={prefix} is not a name in C: use letters, digits and _, no digit first")
    writer = _Writer(fuse(with_tables(network), input_size), input_size, about)
    body, ram = writer.write()
    _check_fit(chosen, writer, ram)
    pixels = writer.pixels
    names = {
        "prefix": prefix,
        "upper": prefix.upper(),
        "stem": path.stem,
        "inputs": math.prod(input_size),
        "outputs": writer.size(network.output),
        "constants": sum(writer.flash.values()),
        "memory": ram,
    }
    facts = {**about.entries(), "stq.checksum": checksum(body.encode())}
    said = "".join(f" * {key}: {value.replace('*/', '* /')}\n" for key, value in facts.items())
    path.write_text(HEADER.substitute(names, about=said, pixels=_declared(prefix) if pixels else ""))
    source = SOURCE.substitute(names, body=body, math="#include <math.h>\n" if "math" in writer.used else "")
    source += PIXELS.substitute(names) if pixels else ""
    path.with_suffix(".c").write_text(source + MAIN.substitute(names))
    return path


def _declared(prefix: str) -> str:
    return (
        "/* the same for an image of pixels 0 to 255, channels first, which is prepared inside */\n"
        f"void {prefix}_predict_pixels(const uint8_t *pixels, float *output);\n"
    )


def _check_fit(options: Options, writer: _Writer, ram: int) -> None:
    """Raise InputError, naming the largest layer, where constants or memory are more than there is."""
    constants = sum(writer.flash.values())
    if options.flash is not None and constants + _CODE > options.flash:
        name, size = max(writer.flash.items(), key=lambda item: item[1])
        raise InputError(
            f"the network takes {constants:,} bytes of flash and about {_CODE:,} for its code, and there are "
            f"{options.flash:,}: '{name}' has the most, {size:,}; fewer bits for weights, or a narrower network, helps"
        )
    if options.ram is not None and ram > options.ram:
        name = max(writer.types, key=lambda name: writer.bytes_of(name))
        raise InputError(
            f"the network takes {ram:,} bytes of RAM, and there are {options.ram:,}: the largest value is that of "
            f"'{name}', {writer.bytes_of(name):,}; smaller images, or residual_bits=8 (additions of codes), helps"
        )


class _Writer(Layers):
    """Writes the blocks of all nodes, in order, into one function."""

    def __init__(self, network: Network, input_size: tuple[int, ...], about: About):
        super().__init__(network, input_size)
        self.used: set[str] = set()
        self.dots: set[int] = set()
        self.layers: list[str] = []
        self.factors: list[tuple[Node, np.ndarray]] = []
        self.tables: list[tuple[Node, np.ndarray, int]] = []
        self.paddings: dict[int, int] = {}
        self.constants: dict[str, str] = {}
        self.in_place: dict[str, str] = {}
        self.convolutions: set[str] = set()  # how layers finish, those with sums of many channels
        self.depthwise: set[tuple[str, bool]] = set()  # and those with one, with wide weights or not
        self.words = self.ones = self.taps = 0
        self.narrow = True
        self.about = about
        readers = self.users[network.input]
        channels = self.shape(network.input)[0]
        known = about.mean is not None and len(about.mean) in (1, channels)
        quantized = all(node.op in QUANTIZERS for node in readers)
        self.pixels = known and quantized
        self.copies_input = not quantized and min(channels, self.size(network.input) // channels) > 1

    def write(self) -> tuple[str, int]:
        """The source's own text, and the bytes of static memory."""
        blocks: list[tuple[str, str]] = []
        steps: list[tuple[str, tuple[str, ...]]] = []
        for node in self.network.nodes:
            if node.op in INTEGER_LAYERS and node.attributes.get("fused"):
                continue  # written with its thresholds
            if self.is_inside(node):
                self.types[node.name] = ""
                continue
            text, inputs = self._block(node)
            steps.append((node.name, inputs))
            if not text:  # nothing is done for it: a constant, the input, another name of a value
                continue
            blocks.append((f"{node.name}: {node.attributes.get('target', node.op)}", text))
        steps.append((self.network.output, ()))
        self.aliases |= self.in_place
        places, total = self.placed(steps)
        places |= self.constants
        if not self.copies_input:
            places[self.network.input] = "input"
        text = "\n".join(f"    /* {name.replace('*/', '')} */\n{_indent(block)}" for name, block in blocks)
        text += self._scores()
        text = self.with_scales(re.sub(r"§([^§\n]+)§", lambda found: self._place(found[1], places), text))
        words = max(self.words, 1)
        head = self._head(max(total // 4, 1), words)
        ram = max(total, 4) + 4 * words * bool(self.dots)
        return head + _FUNCTION.format(body=text), ram

    def bytes_of(self, name: str) -> int:
        """Of a value in memory."""
        return (1 if self.types.get(name) == CODES else 4) * self.size(name)

    def pixel_codes(self, node: Node) -> np.ndarray:
        """What is stored for each of 256 pixels in each channel, (C, 256)."""
        channels = self.shape(self.network.input)[0]
        mean, std = (torch.tensor(list(each), dtype=torch.float32) for each in (self.about.mean, self.about.std))
        levels = torch.arange(256, dtype=torch.float32).reshape(-1, 1) / 255
        prepared = ((levels - mean) / std).expand(256, channels).reshape(256, channels, 1, 1)
        codes = evaluate(self.network, node, [prepared]).reshape(256, channels).numpy()
        gain, first = self.stored(node)
        return (gain * (codes - node["low"]) + first).T

    def _place(self, name: str, places: Mapping[str, str]) -> str:
        while name not in places and name in self.aliases:
            name = self.aliases[name]
        return places[name]

    def _block(self, node: Node) -> tuple[str, tuple[str, ...]]:
        """The text of a node, and the values that it reads."""
        inputs = tuple(self.network[node.inputs[0]].inputs) if node.op == "threshold" else self.read_by(node)
        if node.op == "input" and self.copies_input:
            self.types[node.name] = REAL
            return self._each(node, f"§{node.name}§[at] = {self._place_of_input('input', node.name)};"), inputs
        if node.op in ("input", "constant"):
            self.types[node.name] = ""  # no place in memory
            return (self._constant(node) if node.op == "constant" else ""), inputs
        is_codes = node.op in ("threshold", "table", *QUANTIZERS) or (
            node.op in MOVES and self.types.get(inputs[0]) == CODES
        )
        if self._is_view(node):
            self.aliases[node.name] = node.inputs[0]
            self.types[node.name] = self.types[node.inputs[0]] or REAL
            if node.inputs[0] in self.constants or self.network[self.root(node.inputs[0])].op == "input":
                self.types[node.name] = ""
            return "", inputs
        self.types[node.name] = CODES if is_codes else REAL
        if self._is_element(node):
            self._in_place(node, inputs)
            return self.by_element(node), inputs
        if _reshapes(node):
            return self._reshaped(node), inputs
        if node.op == "aten":
            return self.aten(node), inputs
        writer = getattr(self, f"_{node.op}", None)
        if writer is None:
            raise InputError(f"'{node.name}' ({node.op}) has no C form")
        return writer(node), inputs

    def _in_place(self, node: Node, inputs: tuple[str, ...]) -> None:
        """An element-by-element operation writes where it reads, if nothing else reads that."""
        for name in inputs:
            chain = [name]
            while chain[-1] in self.aliases:
                chain.append(self.aliases[chain[-1]])
            alone = all(len(self.users[each]) == 1 for each in chain)
            if alone and self.types[chain[-1]] == REAL and self.size(chain[-1]) == self.size(node.name):
                self.in_place[node.name] = name
                return

    def _is_view(self, node: Node) -> bool:
        """Whether a node's value lies in memory as what it reads does."""
        if _reshapes(node):
            before, after = self.shape(node.inputs[0]), self.shape(node.name)
            places = (
                np.moveaxis(np.arange(math.prod(shape)).reshape(shape), 0, -1).reshape(-1) for shape in (before, after)
            )
            return np.array_equal(*places)
        return node.op == "adaptive_avg_pool" and self.shape(node.name) == self.shape(node.inputs[0])

    def _scores(self) -> str:
        output = self.network.output
        channels, rows, columns = self.shape(output)
        plane = rows * columns
        place = f"i % {plane} * {channels} + i / {plane}" if plane > 1 else "i"
        return f"\n    for (int i = 0; i < {channels * plane}; i++) output[i] = §{output}§[{place}];\n"

    def _head(self, memory: int, words: int) -> str:
        """Everything before the function: types, kernels that are used, constant arrays, layers, memory."""
        factor = "int16_t" if self.narrow else "int32_t"
        table = threshold_type(self.tables)
        lines = [f"typedef {factor} stq_factor;\ntypedef {table} stq_threshold;\n", kernels.LAYER]
        for place, (node, values) in enumerate(self.factors):
            self._name(f"%factor{place}%", self.array(node, "factor", values, "stq_factor"))
            self.flash[node.name] -= (2 if self.narrow else 0) * values.size
        for place, (node, values, bound) in enumerate(self.tables):
            values = np.minimum(values, bound + 1) if table == "int16_t" else values
            self._name(f"%table{place}%", self.array(node, "thresholds", values, "stq_threshold"))
            self.flash[node.name] -= (2 if table == "int16_t" else 0) * values.size
        for key, text in (("sum", kernels.SUM), ("round", kernels.ROUND), ("mean", kernels.MEAN), ("within", WITHIN)):
            if key in self.used or (key == "sum" and "round" in self.used):
                lines.append(text)
        finishes = self.convolutions | {kind for kind, _ in self.depthwise}
        texts = {"shifted": kernels.SHIFT, "wide": kernels.WIDE_SHIFT, "counted": kernels.STEPS}
        if "corrected" in finishes:
            lines.append(kernels.CORRECT)
            finishes |= {"wide"}
        lines += [text for kind, text in texts.items() if kind in finishes]
        for stored, channels in sorted(self.paddings.items()):
            listed = ", ".join([str(stored)] * channels)
            lines.append(f"static const uint8_t stq_padding_{stored}[{channels}] = {{{listed}}};\n")
        if self.dots:
            ones, choice = "", ""
            if self.ones:
                listed = ", ".join(["1"] * self.ones + ["0"] * self.ones)
                ones = kernels.ONES.substitute(twice=2 * self.ones, ones=listed)
                choice = kernels.IN_ONES.format(half=self.ones)
            lines.append(ones + kernels.COLUMNS.substitute(words=words, ones=choice))
            lines += [kernels.dot_bytes() if bits == 0 else kernels.dot(bits) for bits in sorted(self.dots)]
            for kind in sorted(self.convolutions):
                once, code = kernels.FINISH.get(kind, ("", ""))
                text = kernels.CONV_CODES.substitute(name=kind, once=once, code=code, locals=kernels.LOCALS)
                lines.append(kernels.CONV_REAL if kind == "real" else text)
        for kind, wide in sorted(self.depthwise):
            lines.append(self._depthwise_kernel(kind, wide))
        return "\n".join([*lines, *self.arrays, "", *self.layers, "", f"static float stq_memory[{memory}];", ""])

    def _name(self, token: str, name: str) -> None:
        self.layers = [line.replace(token, name) for line in self.layers]

    def _depthwise_kernel(self, kind: str, wide: bool) -> str:
        once, code = kernels.FINISH.get(kind, ("", ""))
        real = "stq_real(acc + (l->bias ? l->bias[o] : 0), l->scale[o], l->offset[o])"
        return kernels.DEPTHWISE.substitute(
            name=kind + ("_wide" if wide else ""),
            type=REAL if kind == "real" else CODES,
            weight="int16_t" if wide else "int8_t",
            taps=self.taps,
            once=once,
            locals="" if kind == "real" else kernels.LOCALS,
            finish=real if kind == "real" else f"(uint8_t)(gain * {code.replace('acc[j]', 'acc')} + first)",
        )


_CODE = 5_000  # bytes of the instructions of a common network on a Cortex-M

_FUNCTION = """
static void stq_run(const float *input, const uint8_t *pixels, float *output)
{{
    (void)input;
    (void)pixels;
{body}}}
"""


def _reshapes(node: Node) -> bool:
    return node.op == "flatten" or (node.op == "aten" and node["target"] in VIEWS)


def _indent(text: str) -> str:
    return "".join(f"    {line}\n" if line.strip() else "" for line in text.splitlines())
