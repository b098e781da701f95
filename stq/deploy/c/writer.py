"""Writes a network as C: the blocks of its nodes in one function, and before it what they use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import torch

from ...errors import InputError
from ..about import About
from ..integer.inference import evaluate
from ..network import INTEGER_LAYERS, QUANTIZERS, Network, Node
from . import arithmetic, gather, kernels, products
from .fixed import COUNT, REAL_OF_SUM, FixedOperations, fraction_bits
from .layers import Convolution, Depthwise, Layers, threshold_type
from .options import Options
from .program import WITHIN
from .values import CODES, MOVES, REAL, VIEWS


class Writer(Layers):
    """Writes the blocks of all nodes, in order, into one function."""

    numbers_are: Mapping[str, str] = kernels.FLOAT
    helpers: Mapping[str, str] = {
        "sum": arithmetic.SUM,
        "round": arithmetic.ROUND,
        "mean": arithmetic.MEAN,
        "within": WITHIN,
    }

    def __init__(self, network: Network, input_size: tuple[int, ...], about: About, options: Options):
        super().__init__(network, input_size)
        self.pack = options.pack
        self.cmsis, self.container = options.backend == "cmsis_nn", options.container
        self.used: set[str] = set()
        self.dots: dict[str, str] = {}
        self.layouts: set[int] = set()
        self.layers: list[str] = []
        self.factors: list[tuple[Node, np.ndarray]] = []
        self.tables: list[tuple[Node, np.ndarray, int]] = []
        self.paddings: dict[int, int] = {}
        self.constants: dict[str, str] = {}
        self.in_place: dict[str, str] = {}
        self.convolutions: set[Convolution] = set()
        self.depthwise: set[Depthwise] = set()
        self.words = self.matrix = self.ones = self.line = 0
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
        text = self._packed(text)
        text = self.with_scales(re.sub(r"§([^§\n]+)§", lambda found: self._place(found[1], places), text))
        words = max(self.words, 1)
        head = self._head(max(total // 4, 1), words, text)
        ram = max(total, 4) + 4 * words * bool(self.convolutions) + 4 * self.matrix + self.line
        return head + _FUNCTION.format(body=text, real=self.real), ram

    def scores(self) -> str:
        """What a score is."""
        return f"{self.size(self.network.output)} scores"

    def pixel_codes(self, node: Node) -> np.ndarray:
        """What is stored for each of 256 pixels in each channel, (C, 256)."""
        channels = self.shape(self.network.input)[0]
        mean, std = (torch.tensor(list(each), dtype=torch.float32) for each in (self.about.mean, self.about.std))
        levels = torch.arange(256, dtype=torch.float32).reshape(-1, 1) / 255
        prepared = ((levels - mean) / std).expand(256, channels)
        prepared = prepared.reshape(256, channels, *(1,) * (len(self.shapes[self.network.input]) - 1))
        codes = evaluate(self.network, node, [prepared]).reshape(256, channels).numpy()
        gain, first = self.stored(node)
        return (gain * (codes - node["low"]) + first).T

    def _packed(self, text: str) -> str:
        """Text in which codes that share bytes are stored and read by functions."""

        def write(found: re.Match) -> str:
            width = self.width(found[1])
            stored = f"stq_put(§{found[1]}§, {found[2]}, {width}, {found[3]});"
            return stored if self.types.get(found[1]) == CODES and width < 8 else found[0]

        def read(found: re.Match) -> str:
            width = self.width(found[1])
            packed = self.types.get(found[1]) == CODES and width < 8
            return f"stq_get(§{found[1]}§, {found[2]}, {width})" if packed else found[0]

        text = re.sub(r"§([^§\n]+)§\[([^\[\]§]*)\] = (.*);$", write, text, flags=re.M)
        return re.sub(r"§([^§\n]+)§\[([^\[\]§]*)\]", read, text)

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

    def _head(self, memory: int, words: int, body: str) -> str:
        """Everything before the function: types, kernels that are used, constant arrays, layers, memory."""
        factor = "int16_t" if self.narrow else "int32_t"
        table = threshold_type(self.tables)
        lines = [
            f"typedef {factor} stq_factor;\ntypedef {table} stq_threshold;\n",
            kernels.LAYER.substitute(self.numbers_are),
        ]
        for place, (node, values) in enumerate(self.factors):
            self._name(f"%factor{place}%", self.array(node, "factor", values, "stq_factor"))
            self.flash[node.name] -= (2 if self.narrow else 0) * values.size
        for place, (node, values, bound) in enumerate(self.tables):
            values = np.minimum(values, bound + 1) if table == "int16_t" else values
            self._name(f"%table{place}%", self.array(node, "thresholds", values, "stq_threshold"))
            self.flash[node.name] -= (2 if table == "int16_t" else 0) * values.size
        for key, text in self.helpers.items():
            if key in self.used or (key == "sum" and "round" in self.used):
                lines.append(text)
        finishes = {form.kind for form in self.convolutions} | {form.kind for form in self.depthwise}
        texts = {"shifted": kernels.SHIFT, "wide": kernels.WIDE_SHIFT, "counted": kernels.STEPS}
        if "corrected" in finishes:
            lines.append(kernels.CORRECT)
            finishes |= {"wide"}
        lines += [text for kind, text in texts.items() if kind in finishes]
        for stored, channels in sorted(self.paddings.items()):
            listed = ", ".join([str(stored)] * channels)
            lines.append(f"static const uint8_t stq_padding_{stored}[{channels}] = {{{listed}}};\n")
        if self.line or "stq_get(" in body:
            lines.append(gather.GET)
        if "stq_put(" in body or any(form.packed for form in (*self.convolutions, *self.depthwise)):
            lines.append(gather.PUT)
        if self.line:
            lines.append(gather.LINE.substitute(bytes=self.line))
        if self.convolutions:
            lines.append(self._gather_kernel(words))
            lines += [self.dots[key] for key in sorted(self.dots)]
            for dot in sorted({form.dot for form in self.convolutions}):
                sums = products.MATRIX if dot == "matrix" else products.DOT.format(name=dot)
                lines.append(products.SUMS.substitute(name=dot, sums=sums))
            lines += [self._convolution_kernel(form) for form in sorted(self.convolutions)]
        lines += [self._depthwise_kernel(form) for form in sorted(self.depthwise)]
        return "\n".join([*lines, *self.arrays, "", *self.layers, "", f"static {self.real} stq_memory[{memory}];", ""])

    def _gather_kernel(self, words: int) -> str:
        """What lays positions side by side, with the pieces of the layouts that are used."""
        parts = dict.fromkeys(("before", "declared", "ones", "inside", "after"), "")
        if self.ones:
            listed = ", ".join(["1"] * self.ones + ["0"] * self.ones)
            parts["before"] += gather.ONES.substitute(twice=2 * self.ones, ones=listed)
            parts["ones"] = gather.IN_ONES.format(half=self.ones)
        if gather.BITS in self.layouts:
            parts["before"] += gather.ONES_OF
            parts["declared"] = gather.DECLARED_BITS
            parts["inside"] += gather.IN_BITS
            parts["after"] += gather.AFTER_BITS
        if gather.CMSIS in self.layouts:
            parts["before"] += gather.CMSIS_BEFORE.substitute(matrix=self.matrix)
            parts["inside"] += gather.IN_CMSIS
            parts["after"] += gather.AFTER_CMSIS
        codes = "stq_codes(l, x, place, l->inputs, j)" if self.line else "x + place"
        return gather.COLUMNS.substitute(parts, words=words, codes=codes)

    def _name(self, token: str, name: str) -> None:
        self.layers = [line.replace(token, name) for line in self.layers]

    def _convolution_kernel(self, form: Convolution) -> str:
        if form.kind == "real":
            return kernels.CONV_REAL.substitute(self.numbers_are, dot=form.dot)
        once, code = kernels.FINISH[form.kind]
        store = kernels.PACKED_CODE if form.packed else kernels.CODE
        each = [store.format(j=j, code=code.replace("acc[j]", f"acc[{j}]")) for j in range(4)]
        return kernels.CONV_CODES.substitute(
            name=form.name,
            dot=form.dot,
            once=once,
            to="" if form.packed else kernels.TO,
            store=store.format(j="j", code=code),
            codes="\n            ".join(each),
            locals=kernels.LOCALS,
        )

    def _depthwise_kernel(self, form: Depthwise) -> str:
        once, code = kernels.FINISH.get(form.kind, ("", ""))
        shift = self.numbers_are["shift"]
        real = f"stq_real(acc + (l->bias ? l->bias[o] : 0), l->scale[o], l->offset[o]{shift})"
        taps, place = form.rows * form.columns, "inner[k] + first_of"
        code = f"gain * {code.replace('acc[j]', 'acc')} + first"
        store = f"y[place++] = {real if form.kind == 'real' else f'(uint8_t)({code})'};"
        if form.packed:
            store = f"stq_put(y, place++, l->out_bits, {code});"
        return kernels.DEPTHWISE.substitute(
            name=form.name,
            type=self.real if form.kind == "real" else CODES,
            weight="int16_t" if form.wide else "int8_t",
            rows=form.rows,
            columns=form.columns,
            taps=taps,
            products=" + ".join(f"w[{k}] * from[{k}][o]" for k in range(taps)),
            once=once,
            locals="" if form.kind == "real" else kernels.LOCALS,
            from_codes=f"stq_codes(l, x, {place}, l->groups, k)" if self.line else f"x + {place}",
            store=store,
        )


class FixedWriter(FixedOperations, Writer):
    """The same without floating point."""

    numbers_are = kernels.FIXED
    helpers: Mapping[str, str] = {"sum": REAL_OF_SUM, "reached": COUNT, "within": WITHIN}

    def __init__(self, network: Network, input_size: tuple[int, ...], about: About, options: Options):
        super().__init__(network, input_size, about, options)
        self.fraction = fraction_bits(network)
        if not self.pixels:
            raise InputError(
                "c.float=false reads pixels: the data must have a mean and a deviation, and every reader of the input "
                "must quantize it"
            )

    def scores(self) -> str:
        """What a score is."""
        return f"{self.size(self.network.output)} scores, each times 2^{self.fraction}"


_FUNCTION = """
static void stq_run(const {real} *input, const uint8_t *pixels, {real} *output)
{{
    (void)input;
    (void)pixels;
{body}}}
"""


def _reshapes(node: Node) -> bool:
    return node.op == "flatten" or (node.op == "aten" and node["target"] in VIEWS)


def _indent(text: str) -> str:
    return "".join(f"    {line}\n" if line.strip() else "" for line in text.splitlines())
