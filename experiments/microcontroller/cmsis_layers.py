"""A program with the layers of a network in CMSIS-NN's int8 functions, one after the other, for benchmark.py.

What CMSIS-NN would take for the same layers: random weights, requantization by its own multipliers, nothing between
layers (no additions, pools or copies), so that what it takes for a whole network is more.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from stq.deploy.integer.inference import shapes
from stq.deploy.network import Network, Node

_HEAD = """\
#include <string.h>
#include "network.h"
#include "arm_nnfunctions.h"

static int8_t values[2][{size}], scratch[{scratch}];

"""


def write_layers(network: Network, size: tuple[int, ...], folder: Path, scratch: int = 65536) -> None:
    """Write network.h and network.c, which ``start.c`` runs; the scores mean nothing."""
    sizes = {name: tuple(shape[1:]) for name, shape in shapes(network, size).items()}
    rng, arrays, calls, largest = np.random.default_rng(0), [], [], 0
    for index, layer in enumerate(network.of("conv", "linear")):
        before, after = ((*sizes[name], 1, 1)[:3] for name in (layer.inputs[0], layer.name))
        largest = max(largest, math.prod(before), math.prod(after))
        weight = rng.integers(-127, 128, layer.arrays["weight"].size)
        outputs = after[0]
        for kind, name, numbers in (
            ("int8_t", "w", weight),
            ("int32_t", "b", rng.integers(-1000, 1000, outputs)),
            ("int32_t", "m", rng.integers(2**30, 2**31 - 1, outputs)),
            ("int32_t", "s", np.full(outputs, -8)),
        ):
            listed = ", ".join(map(str, numbers))
            arrays.append(f"static const {kind} {name}{index}[{len(numbers)}] = {{{listed}}};\n")
        calls.append(_call(layer, index, before, after))
    head = _HEAD.format(size=largest, scratch=scratch)
    text = head + "".join(arrays) + "\nvoid network_predict_pixels(const uint8_t *input, float *output)\n{\n"
    text += "    for (unsigned i = 0; i < sizeof values[0]; i++) "
    text += "values[0][i] = (int8_t)(input[i % NETWORK_INPUTS] - 128);\n"
    text += "".join(calls) + "    for (int i = 0; i < NETWORK_OUTPUTS; i++) output[i] = values[0][i];\n}\n"
    (folder / "network.c").write_text(text)
    counts = f"#include <stdint.h>\n#define NETWORK_INPUTS {math.prod(size)}\n#define NETWORK_OUTPUTS 10\n"
    (folder / "network.h").write_text(counts + "void network_predict_pixels(const uint8_t *input, float *output);\n")


def _call(layer: Node, i: int, before: tuple[int, ...], after: tuple[int, ...]) -> str:
    clamp, quant = ".activation = {-128, 127}", f"{{(int32_t *)m{i}, (int32_t *)s{i}"
    x, y = f"values[{i % 2}]", f"values[{(i + 1) % 2}]"
    if layer.op == "linear":
        body = f"""\
        const cmsis_nn_fc_params p = {{.input_offset = 0, {clamp}}};
        const cmsis_nn_per_tensor_quant_params q = {{m{i}[0], -8}};
        const cmsis_nn_dims in = {{1, 1, 1, {before[0]}}}, f = {{{before[0]}, 1, 1, {after[0]}}};
        const cmsis_nn_dims b = {{1, 1, 1, {after[0]}}}, out = b;
        arm_fully_connected_s8(&context, &p, &q, &in, {x}, &f, w{i}, &b, b{i}, &out, {y});
"""
    else:
        weight, at = layer.arrays["weight"], layer.attributes
        (sy, sx), (dy, dx), (top, left) = at["strides"], at["dilations"], at["pads"][:2]
        tiles = f".stride = {{{sx}, {sy}}}, .padding = {{{left}, {top}}}, .dilation = {{{dx}, {dy}}}"
        depthwise = at["groups"] > 1
        kind, name = ("dw_conv", "depthwise_conv") if depthwise else ("conv", "convolve")
        rows, columns = weight.shape[2:]
        filters = (
            f"{{1, {rows}, {columns}, {after[0]}}}" if depthwise else f"{{{after[0]}, {rows}, {columns}, {before[0]}}}"
        )
        multiple = ".ch_mult = 1, " if depthwise else ""
        body = f"""\
        const cmsis_nn_{kind}_params p = {{.input_offset = 0, {multiple}{tiles}, {clamp}}};
        const cmsis_nn_per_channel_quant_params q = {quant}}};
        const cmsis_nn_dims in = {{1, {before[1]}, {before[2]}, {before[0]}}}, f = {filters};
        const cmsis_nn_dims b = {{1, 1, 1, {after[0]}}}, out = {{1, {after[1]}, {after[2]}, {after[0]}}};
        arm_{name}_wrapper_s8(&context, &p, &q, &in, {x}, &f, w{i}, &b, b{i}, &out, {y});
"""
    return f"    {{\n        cmsis_nn_context context = {{scratch, sizeof scratch}};\n{body}    }}\n"
