"""A reader of packed files in NumPy alone, written from docs/shipping/packed.md: decodes every tensor, runs ResNets."""

import base64
import json
import zlib

import numpy as np

KINDS = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1", "BOOL": "?"}


def read(path):
    """The nodes [name, op, inputs, attributes, arrays] of a file, arrays decoded."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:end])
    text = table.pop("__metadata__")["stq"]
    if text.startswith("zlib:"):
        text = zlib.decompress(base64.b64decode(text[5:])).decode()
    tensors = {}
    for name, entry in table.items():
        begin, stop = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[end + begin : end + stop], KINDS[entry["dtype"]]).reshape(entry["shape"])
    nodes, others, at = json.loads(text)["nodes"], tensors.get("arrays", np.zeros(0, np.uint8)).tobytes(), 0
    for name, op, _, attributes, arrays in nodes:
        for key, shape in arrays.items():
            scale, value = 1, tensors.get(f"{name}/{key}", shape)
            if isinstance(shape, list) and shape and isinstance(shape[0], list):
                shape, kind = shape
                kind, scale = (np.dtype(kind).newbyteorder("<"), 1) if isinstance(kind, str) else (np.dtype("i1"), kind)
                value = np.frombuffer(others, kind, int(np.prod(shape)), at).reshape(shape)
                at += value.nbytes
            if key == "weight" and op in ("conv", "linear"):
                bits, count = attributes["weight_bits"], int(np.prod(shape))
                planes = np.unpackbits(value, count=count * bits, bitorder="little").reshape(count, bits).astype(int)
                value = attributes["weight_low"] + attributes["weight_stride"] * (planes @ (1 << np.arange(bits)))
                value = value.reshape(shape)
            elif scale != 1:
                value = value.astype(np.float32) * np.float32(scale)
            arrays[key] = np.asarray(value, np.float32 if op not in ("conv", "linear") or key != "weight" else int)
    return nodes


def windows(x, kernel, strides, pads, fill):
    """(N, C, rows, columns, kernel rows, kernel columns)."""
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(x, kernel, (2, 3))[:, :, :: strides[0], :: strides[1]]


def run(nodes, x):
    """The scores of a batch."""
    values = {}
    for name, op, inputs, at, arrays in nodes:
        a = [values[each] for each in inputs]
        if op == "input":
            y = x.astype(np.float32)
        elif op == "quantize":
            shape = (-1,) + (1,) * (-at["axis"] - 1)
            gain, shift = (arrays[key].reshape(shape) if arrays[key].ndim else arrays[key] for key in ("gain", "shift"))
            y = np.rint(np.clip(gain * a[0] - shift, at["low"], at["high"])).astype(int)
        elif op in ("conv", "linear"):
            codes, weight = at["code_gain"] * a[0] + at["code_offset"], arrays["weight"]
            if op == "linear":
                total = codes @ weight.T
            else:
                total = np.einsum(
                    "ncyxij,ocij->noyx", windows(codes, weight.shape[2:], at["strides"], at["pads"], 0), weight
                )
            after = (1,) * (total.ndim - 2)
            scale, bias = (arrays[key].reshape(-1, *after) for key in ("multiplier", "bias"))
            y = scale * total.astype(np.float32) + bias
        elif op == "affine":
            after = (1,) * (a[0].ndim - 2)
            y = a[0] * arrays["multiplier"].reshape(-1, *after) + arrays["bias"].reshape(-1, *after)
        else:
            y = OPERATIONS[op](at, *a)
        values[name] = y
    return y


OPERATIONS = {
    "relu": lambda at, a: np.maximum(a, 0),
    "add": lambda at, a, b: a + b,
    "max_pool": lambda at, a: windows(a, at["kernel"], at["strides"], at["pads"], -np.inf).max((4, 5)),
    "mean": lambda at, a: a.mean(tuple(at["axes"]), keepdims=at["keepdims"], dtype=np.float32),
    "adaptive_avg_pool": lambda at, a: (
        a if a.shape[2:] == (*at["size"],) else a.mean((2, 3), np.float32, keepdims=True)
    ),
    "flatten": lambda at, a: a.reshape(len(a), -1),
    "slice": lambda at, a: a[tuple(slice(None, None, step) for step in at["steps"])],
    "pad": lambda at, a: np.pad(
        a, [(0, 0)] * (a.ndim - len(at["before"])) + [*zip(at["before"], at["after"], strict=True)]
    ),
}
