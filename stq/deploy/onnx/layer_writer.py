"""Integer convolutions and linear layers in ONNX: how weights are stored, and the forms in which a layer runs.

A layer whose output goes to a quantizer alone runs on codes: DequantizeLinear - Conv - QuantizeLinear, which runtimes
fuse into one integer convolution. Any other needs its sums as real numbers (before a residual addition): on pictures
that are small for their channels a matrix product of integers on gathered patches, on others ConvInteger, which need
not gather them first but packs its weights at every call. Where a gate takes means over the positions next, channels
come before positions: ONNX Runtime adds and reduces along the last axis, and is up to seven times slower where the
channels are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto, helper

from ..about import About
from ..integer.requantize import Requantization
from ..integer.saturation import INT16_MAX, largest_magnitude
from ..network import INTEGER_LAYERS, QUANTIZERS, Network, Node
from .graph_writer import GraphWriter, geometry

_EXACT_FLOAT32 = 2**24


class LayerWriter(GraphWriter):
    """Writes integer layers. Codes are stored from 0 up: ``gain * (code - low)``, as ``stored_type`` says."""

    def __init__(
        self,
        network: Network,
        input_size: tuple[int, ...],
        about: About,
        requantized: dict[str, Requantization],
    ):
        super().__init__(network, input_size, about)
        self.requantized = requantized
        self.pooled: set[str] = set()  # pooling nodes that are done already

    def storage(self, node: Node) -> tuple[int, int, int]:
        """(gain, largest, zero) of the stored codes of a node; ``zero`` is the stored form of operand 0."""
        reader = self.reader(node)
        gain, offset = (reader["code_gain"], reader["code_offset"]) if reader.op in INTEGER_LAYERS else (1, 0)
        return gain, gain * (node["high"] - node["low"]), -(gain * node["low"] + offset)

    def weight(
        self, layer: Node, codes: np.ndarray, dtype: type = np.int8, factor: np.ndarray | int = 1, zero: int = 0
    ) -> str:
        """``factor * codes + zero``; the codes are stored as int4 where they fit, and widened at load."""
        if layer["weight_bits"] > 4 or codes.min(initial=0) < -8 or codes.max(initial=0) > 7:
            return self.constant(codes * factor + zero, dtype, f"{layer.name}.weight")
        value = f"{layer.name}.weight_{len(self.initializers)}"
        nibbles = np.append(codes.reshape(-1), [0] * (codes.size % 2)).astype(np.int8).view(np.uint8) & 15
        stored = (nibbles[0::2] | nibbles[1::2] << 4).tobytes()
        self.initializers[value] = helper.make_tensor(value, TensorProto.INT4, codes.shape, stored, raw=True)
        value = self.emit("Cast", value, to=TensorProto.INT32)
        if not np.all(np.asarray(factor) == 1):
            value = self.emit("Mul", value, self.constant(factor, np.int32))
        if zero:
            value = self.emit("Add", value, self.constant(zero, np.int32))
        return self.emit("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def safe_weight(self, layer: Node, codes: np.ndarray, factor: np.ndarray | int = 1) -> tuple[str, type, int]:
        """(tensor, dtype, zero point): int8 where no kernel saturates, else uint8, whose kernel adds in 32 bits."""
        _, largest, _ = self.storage(self.source(layer))
        if 2 * largest * largest_magnitude(codes * factor) <= INT16_MAX:
            return self.weight(layer, codes, np.int8, factor), np.int8, 0
        return self.constant(codes * factor + 128, np.uint8, f"{layer.name}.weight"), np.uint8, 128

    def stored_type(self, node: Node) -> tuple[type, int]:
        """Type of the stored codes of a node, and what is taken from each to fit it: uint8, 0; or int8, 0 or 128.

        int8 where they go straight into a ConvInteger that no kernel saturates: kernels take its weights as unsigned,
        and are faster where the other side is signed.
        """
        (_, largest, _), reader = self.storage(node), self.reader(node)
        if node.op == "quantize" and reader.op == "conv" and self._form(reader) == self._conv_integer:
            offset = 128 if largest > 127 else 0
            if self._signed_is_safe(reader, max(largest - offset, offset)):
                return np.int8, offset
        return np.uint8, 0

    @staticmethod
    def _signed_is_safe(layer: Node, magnitude: int) -> bool:
        codes, _ = _without_odd(layer.arrays["weight"])
        return 2 * magnitude * (int(codes.max(initial=0)) - int(codes.min(initial=0))) <= INT16_MAX

    def _conv(self, layer: Node, stored: str) -> str:
        output = self._form(layer)(layer, stored)
        return output if layer.name in self.requantized else self._real(layer, output)

    def _form(self, layer: Node) -> Callable[[Node, str], str]:
        codes = layer.arrays["weight"]
        if layer.name in self.requantized:
            return self._conv_to_codes
        if layer["groups"] > 1 and self.network.bounds[layer.name] < _EXACT_FLOAT32:
            return self._conv_in_float
        # measured: on larger pictures, or with fewer channels in a row, gathering the patches costs more than it saves
        small = np.prod(self.shapes[layer.name][2:]) <= codes.shape[1] ** 2
        if codes[0, 0].size == 1 and layer["groups"] == 1:
            return self._conv_integer if self._is_squeezed(layer) else self._conv_as_product
        return self._conv_as_product if small or layer["groups"] > 1 else self._conv_integer

    def _is_squeezed(self, layer: Node) -> bool:
        """Whether something takes a mean or the like over the positions of its output, before it is quantized."""
        seen, ahead = set(), [*self.users[layer.name]]
        while ahead:
            node = ahead.pop()
            if node.name in seen or node.op in (*QUANTIZERS, *INTEGER_LAYERS):
                continue
            seen.add(node.name)
            shape = self.shapes[node.name]
            if np.prod(shape[2:]) == 1 and np.prod(shape[1:]) < np.prod(self.shapes[node.inputs[0]][1:]):
                return True  # unlike Flatten, which has one position too, but loses none
            ahead += self.users[node.name]
        return False

    def _conv_to_codes(self, layer: Node, stored: str) -> str:
        """Real-valued Conv between DequantizeLinear and the QuantizeLinear of the threshold node after it."""
        found, codes = self.requantized[layer.name], layer.arrays["weight"]
        _, _, zero = self.storage(self.source(layer))
        sign = _sign(self.users, layer)
        scale = self.constant(found.multiplier, np.float32)
        x = self.emit("DequantizeLinear", stored, self.constant(1.0, np.float32), self.constant(zero, np.uint8))
        factor = (found.factor * sign).reshape(-1, *(1,) * (codes.ndim - 1))
        tensor, dtype, middle = self.safe_weight(layer, codes, factor)
        weight = self.emit("DequantizeLinear", tensor, scale, self.constant([middle] * len(sign), dtype), axis=0)
        zeros = self.constant(np.zeros(len(sign)), np.int32)
        bias = self.emit("DequantizeLinear", self.constant(found.bias, np.int32), scale, zeros, axis=0)
        return self.emit("Conv", x, weight, bias, **geometry(layer))

    def _conv_in_float(self, layer: Node, stored: str) -> str:
        """Depthwise and grouped convolutions: a float kernel on integers, whose sums float32 holds exactly."""
        _, _, zero = self.storage(self.source(layer))
        x = self.emit("Cast", stored, to=TensorProto.FLOAT)
        x = x if zero == 0 else self.emit("Sub", x, self.constant(zero, np.float32))
        codes = layer.arrays["weight"]
        if codes.min() < -128 or codes.max() > 127:
            weight = self.constant(codes, np.float32, f"{layer.name}.weight")
        else:
            weight = self.emit("Cast", self.weight(layer, codes), to=TensorProto.FLOAT)
        return self.emit("Conv", x, weight, **geometry(layer))

    def _conv_integer(self, layer: Node, stored: str) -> str:
        """ConvInteger, with unsigned weights."""
        (_, largest, zero), (codes, odd) = self.storage(self.source(layer)), _without_odd(layer.arrays["weight"])
        least, (dtype, offset) = int(codes.min(initial=0)), self.stored_type(self.source(layer))
        if dtype is np.uint8 and largest <= 127 and self._signed_is_safe(layer, largest):
            stored, dtype = self.emit("Cast", stored, to=TensorProto.INT8), np.int8
        weight = self.weight(layer, codes, np.uint8, zero=-least)
        points = self.constant(zero - offset, dtype), self.constant(-least, np.uint8)
        sums = self.emit("ConvInteger", stored, weight, *points, **geometry(layer))
        return self._doubled(sums, len(codes) - 1, 1) if odd else sums

    def _conv_as_product(self, layer: Node, stored: str) -> str:
        """Patches times weights, with channels last; each group is a product of its own."""
        codes, groups = layer.arrays["weight"], layer["groups"]
        dims, outputs = codes.ndim, len(codes)
        x = self.emit("Transpose", stored, perm=[0, *range(2, dims), 1])
        parts = [x] if groups == 1 else self.split(x, [codes.shape[1]] * groups, -1)
        sums = []
        for part, weights in zip(parts, np.split(codes, groups), strict=True):
            matrix = weights.transpose(*range(2, dims), 1, 0).reshape(-1, len(weights))
            sums.append(self._product(layer, self._patches(layer, part), matrix))
        whole = sums[0] if groups == 1 else self.emit("Concat", *sums, axis=-1)
        if self._is_squeezed(layer):  # here, before the Reshape, or the runtime moves it behind all that follows
            whole = self.emit("Transpose", whole, perm=[0, 2, 1])
            return self.emit("Reshape", whole, self.constant([0, outputs, *self.shapes[layer.name][2:]], np.int64))
        whole = self.emit("Reshape", whole, self.constant([0, *self.shapes[layer.name][2:], outputs], np.int64))
        return self.emit("Transpose", whole, perm=[0, dims - 1, *range(1, dims - 1)])

    def _patches(self, layer: Node, x: str) -> str:
        """(N, positions, kernel * C) from (N, *sizes, C), gathered in one go."""
        dims, pads, (_, inputs, *kernel) = layer.arrays["weight"].ndim - 2, layer["pads"], layer.arrays["weight"].shape
        sizes = [*self.shapes[layer.inputs[0]][2:]]
        if any(pads):
            _, _, zero = self.storage(self.source(layer))
            both = [0, *pads[:dims], 0, 0, *pads[dims:], 0]
            x = self.emit("Pad", x, self.constant(both, np.int64), self.constant(zero, np.uint8))
            sizes = [size + pads[axis] + pads[dims + axis] for axis, size in enumerate(sizes)]
        flat = self.emit("Reshape", x, self.constant([0, -1, inputs], np.int64))
        if all(size == 1 for size in (*kernel, *layer["strides"])):
            return flat
        first = _places(self.shapes[layer.name][2:], layer["strides"], sizes).reshape(-1, 1)
        within = _places(kernel, layer["dilations"], sizes)
        places = self.emit("Add", self.constant(first, np.int32), self.constant(within, np.int32))
        patches = self.emit("Gather", flat, places, axis=1)
        return self.emit("Reshape", patches, self.constant([0, 0, len(within) * inputs], np.int64))

    def _product(self, layer: Node, x: str, codes: np.ndarray) -> str:
        """The integer sums ``x @ codes`` for codes (inputs, outputs), int32."""
        _, _, zero = self.storage(self.source(layer))
        transposed, odd = _without_odd(codes.T)
        weight, dtype, middle = self.safe_weight(layer, transposed.T)
        sums = self.emit("MatMulInteger", x, weight, self.constant(zero, np.uint8), self.constant(middle, dtype))
        return self._doubled(sums, codes.shape[1], -1) if odd else sums

    def _doubled(self, sums: str, outputs: int, axis: int) -> str:
        """The sums of the codes that ``_without_odd`` has halved."""
        halves, inputs = self.split(sums, [outputs, 1], axis)
        return self.emit("Add", self.emit("Mul", halves, self.constant(2, np.int32)), inputs)

    def _real(self, layer: Node, sums: str) -> str:
        """``multiplier * sums + bias``, pooled where a pooling comes next."""
        dims = 2 if layer.op == "linear" else layer.arrays["weight"].ndim
        if layer.op == "conv" and self._form(layer) == self._conv_in_float:
            return self._moved(layer, self._scaled_apart(layer, sums), dims)
        real, multiplier = self.emit("Cast", sums, to=TensorProto.FLOAT), layer.arrays["multiplier"]
        pool = None if "offset_multiplier" in layer.arrays else self._pool_after(layer)
        if pool and (multiplier >= 0).all():
            real = self._max_pool(pool, real)
        real = self.emit("Mul", real, self.channels(multiplier, dims))
        if pool and (multiplier < 0).any():
            real = self._max_pool(pool, real)
        if pool:
            self.pooled.add(pool.name)
        return self._moved(layer, real, dims)

    def _moved(self, layer: Node, real: str, dims: int) -> str:
        """``real + bias``, with the input's offset where it has one."""
        if "offset_multiplier" in layer.arrays:
            return self.emit("Add", real, self._offset_map(layer))
        bias = layer.arrays["bias"]
        return self.emit("Add", real, self.channels(bias, dims)) if bias.any() else real

    def _scaled_apart(self, layer: Node, sums: str) -> str:
        """``multiplier * sums``, in another shape: runtimes fold a scale into weights beside it, and round then."""
        _, outputs, *sizes = self.shapes[layer.name]
        flat = self.emit("Reshape", sums, self.constant([0, outputs, -1], np.int64))
        real = self.emit("Mul", flat, self.channels(layer.arrays["multiplier"], 3))
        return self.emit("Reshape", real, self.constant([0, outputs, *sizes], np.int64))

    def _pool_after(self, layer: Node) -> Node | None:
        """The pooling that can run before scale, bias and ReLU, which are increasing and then have fewer values."""
        chain, node = [], layer
        while len(self.users[node.name]) == 1 and (node := self.users[node.name][0]).op == "relu":
            chain.append(node)
        found = chain and node.op == "max_pool" and len(self.users[chain[-1].name]) == 1
        return node if found else None

    def _max_pool(self, node: Node, x: str) -> str:
        return x if node.name in self.pooled else super()._max_pool(node, x)  # where the layer before has pooled

    def _offset_map(self, layer: Node) -> str:
        """Bias plus the input's offset times the weights on valid inputs: the border sees fewer of them.

        Shape (1, O, positions); made of constants, so runtimes compute it once, when they load the model.
        """
        dims = layer.arrays["weight"].ndim
        sums = layer.arrays["weight"].sum(1, keepdims=True).astype(np.float32)
        ones = self.emit(
            "ConstantOfShape",
            self.constant([1, 1, *self.shapes[layer.inputs[0]][2:]], np.int64),
            value=helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        )
        valid = self.emit("Conv", ones, self.constant(sums, np.float32), **{**geometry(layer), "group": 1})
        scaled = self.emit("Mul", valid, self.channels(layer.arrays["offset_multiplier"], dims))
        return self.emit("Add", scaled, self.channels(layer.arrays["bias"], dims))

    def _linear(self, layer: Node, stored: str) -> str:
        return self._real(layer, self._product(layer, stored, layer.arrays["weight"].T))


def _without_odd(codes: np.ndarray) -> tuple[np.ndarray, bool]:
    """Codes that fit int8, and whether they were changed.

    Odd codes beyond int8 are 2 w + 1: the w, and one more output that sums the inputs, which is the + 1 of them all.
    """
    if codes.min(initial=0) >= -128 and codes.max(initial=0) <= 127:
        return codes, False
    halves = (codes - 1) // 2
    return np.concatenate([halves, np.ones_like(halves[:1])]), True


def _places(counts: Sequence[int], steps: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """Places in an array of ``sizes``, flattened, of a grid with so many points and so many steps between them."""
    grid = np.meshgrid(*(np.arange(count) * step for count, step in zip(counts, steps, strict=True)), indexing="ij")
    return np.ravel_multi_index([axis.reshape(-1) for axis in grid], tuple(sizes))


def _sign(users: dict[str, list[Node]], layer: Node) -> np.ndarray:
    node = layer
    while node.op != "threshold":
        (node,) = users[node.name]
    return node.arrays["sign"]
