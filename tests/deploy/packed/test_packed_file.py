import json
import math
import struct

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import stq
import stq.models
from stq.deploy.compact import in_fewer_bytes
from stq.deploy.integer.freeze import freeze
from stq.deploy.integer.inference import run
from stq.deploy.packed import packed_file
from stq.deploy.packed.packed_file import file_checksum, load_packed, pack, unpack
from stq.errors import InputError
from tests.deploy.packed import numpy_reader
from tests.small_networks import calibrated, small_network


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("stride", [1, 2])
def test_packing_against_big_integers(bits, stride):
    rng = np.random.default_rng(bits)
    index = rng.integers(0, 2**bits, 37)
    low = -(2**bits) // 2
    codes = low + stride * index
    packed = pack(codes, bits, low, stride)
    expected = sum(int(value) << (bits * place) for place, value in enumerate(index))
    assert packed.tobytes() == expected.to_bytes(math.ceil(37 * bits / 8), "little")
    assert np.array_equal(unpack(packed, (37,), bits, low, stride), codes)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_trained_network_loads_back_exactly(trained, digits, bits, tmp_path):
    model, images = trained(bits), digits[2]
    path = stq.export(model, images, tmp_path / "model.safetensors", format="packed")
    network, size = load_packed(path)
    assert size == (1, 8, 8)
    original = freeze(model, images)
    for node, loaded in zip(original.nodes, network.nodes, strict=True):
        assert (node.name, node.op, node.inputs, node.attributes) == (
            *(loaded.name, loaded.op, loaded.inputs, loaded.attributes),
        )
        assert all(np.array_equal(array, loaded.arrays[key]) for key, array in node.arrays.items())
    with torch.no_grad():
        assert torch.equal(run(network, images).argmax(1), model(images).argmax(1))


def test_three_bit_codes_take_three_bits_and_the_file_is_nine_times_smaller(tmp_path):
    model = timm.create_model("resnet18")
    calibrated(model, (3, 32, 32), "double_st_frozen", 3, first_last_bits=8)
    path = stq.export(model, torch.zeros(1, 3, 32, 32), tmp_path / "model.safetensors", format="packed")
    tensors = load_file(path)
    assert tensors["layer1.0.conv1/weight"].nbytes == 64 * 64 * 9 * 3 // 8
    assert tensors["conv1/weight"].nbytes == 64 * 3 * 49
    assert stq.cost(model, (3, 32, 32)).float_size_bytes / path.stat().st_size > 9


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet18", "vgg_small"])
def test_a_reader_written_from_the_page_runs_networks(name, tmp_path):
    torch.manual_seed(0)
    model = calibrated(timm.create_model(name, num_classes=10), (3, 32, 32), "double_st_frozen", 3)
    x = torch.randn(8, 3, 32, 32)
    path = stq.export(model, x, tmp_path / "m.safetensors", "packed")
    scores = run(freeze(model, x), x).numpy()
    assert np.array_equal(numpy_reader.run(numpy_reader.read(path), x.numpy()).argmax(1), scores.argmax(1))


def test_what_is_no_weight_takes_little(tmp_path):
    torch.manual_seed(0)
    gates = {"range_gate": "low_rank", "threshold_gate": "low_rank", "inference": "dynamic"}
    for method, settings, most in (("double_st_frozen", {}, 0.01), ("double_st", gates, 0.03)):
        model = stq.quantize(timm.create_model("resnet18"), method, weight_bits=3, activation_bits=3, settings=settings)
        stq.calibrate(model, torch.randn(2, 3, 64, 64))
        path = stq.export(model.eval(), torch.zeros(1, 3, 64, 64), tmp_path / "m.safetensors", "packed")
        network, _ = load_packed(path)
        pure = sum(-(-n.arrays["weight"].size * n["weight_bits"] // 8) for n in network.of("conv", "linear"))
        assert 0 < path.stat().st_size / pure - 1 < most


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([0.5, 1.25, -3.0, 1e-7 * 0], ["float16"]),
        (np.float32(0.37) * np.arange(-127, 128, dtype=np.float32), ["int8", "float32"]),
        ([0.1, 0.2, 0.35, 0.47], ["float32"]),
        ([0.0, 0.0, 0.0, 0.0], ["int8", "float32"]),
    ],
)
def test_numbers_are_the_same_in_fewer_bytes(values, kinds):
    array = np.array(values, np.float32)
    found = in_fewer_bytes(array)
    assert [value.dtype.name for value in found.values()] == kinds
    back = found[""].astype(np.float32) * found.get(".scale", np.ones(1, np.float32))
    assert np.array_equal(back, array)


def test_damage_is_found_before_anything_is_read(packed, tmp_path, monkeypatch):
    data = bytearray(packed.read_bytes())
    data[-3] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(data)
    monkeypatch.setattr(packed_file, "_read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(InputError, match=r"damaged\.safetensors is not .*: it is damaged: its checksum is another"):
        load_packed(tmp_path / "damaged.safetensors")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_of_older_versions_are_read(packed, tmp_path, version):
    network, size = load_packed(packed)
    tensors, nodes = {}, []
    for each in network.nodes:  # as they were written: every array a tensor; in version 1 all of them float32
        for key, array in each.arrays.items():
            codes = each.op in ("conv", "linear") and key == "weight"
            about = (each["weight_bits"], each["weight_low"], each["weight_stride"]) if codes else ()
            stored = {"": pack(array, *about)} if codes else {"": array} if version == 1 else in_fewer_bytes(array)
            tensors |= {
                f"{each.name}/{key}{end}": np.ascontiguousarray(value).reshape(value.shape)
                for end, value in stored.items()
            }
        arrays = {key: list(array.shape) for key, array in each.arrays.items()}
        if version == 3:  # scales stand in the description
            for key, shape in arrays.items():
                if (scale := tensors.pop(f"{each.name}/{key}.scale", None)) is not None:
                    arrays[key] = [shape, float(scale[0])]
        nodes.append([each.name, each.op, list(each.inputs), each.attributes, arrays])
    header = {"format": "stq-packed", "version": version, "input_size": list(size), "nodes": nodes}
    described, old = json.dumps(header, separators=(",", ":")), tmp_path / "old.safetensors"
    save_file(tensors, old, metadata={"stq": described, "stq.checksum": "0" * 64})
    if version > 1:
        assert any(name.endswith(".scale") for name in tensors) == (version == 2)
        save_file(tensors, old, metadata={"stq": described, "stq.checksum": file_checksum(old, described)})
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(run(load_packed(tmp_path / "old.safetensors")[0], x), run(network, x))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    torch.manual_seed(0)
    model = calibrated(small_network(), (1, 8, 8), "lsq_plus", 3)
    return stq.export(model, torch.zeros(1, 1, 8, 8), tmp_path_factory.mktemp("packed") / "m.safetensors", "packed")


def rewrite(path, change, target):
    """The file with its description changed by ``change(header, tensors)``."""
    with safe_open(str(path), framework="numpy") as file:
        header = json.loads(file.metadata()["stq"])
    tensors = load_file(path)
    change(header, tensors)
    described = json.dumps(header)
    save_file(tensors, target, metadata={"stq": described})
    told = {"stq": described, "stq.checksum": file_checksum(target, described)}
    save_file(tensors, target, metadata=told)
    return target


def node(header, op):
    return next(entry for entry in header["nodes"] if entry[1] == op)


def shorten(header, tensors):
    key = next(key for key in tensors if key.endswith("/weight"))
    tensors[key] = tensors[key][:-1].copy()


CHANGES = {
    "another version": lambda header, tensors: header.update(version=5),
    "wrong bit width": lambda header, tensors: node(header, "conv")[3].update(weight_bits=4),
    "bit width zero": lambda header, tensors: node(header, "conv")[3].update(weight_bits=0),
    "huge shape": lambda header, tensors: node(header, "conv")[4].update(weight=[2**23, 2**23, 3, 3]),
    "huge input": lambda header, tensors: header.update(input_size=[1, 2**20, 2**20]),
    "huge padding": lambda header, tensors: node(header, "conv")[3].update(pads=[4096] * 4),
    "another input": lambda header, tensors: header.update(input_size=[2, 8, 8]),
    "missing weight": lambda header, tensors: tensors.pop("0/weight"),
    "missing arrays": lambda header, tensors: tensors.pop("arrays"),
    "short arrays": lambda header, tensors: tensors.update(arrays=tensors["arrays"][:-1].copy()),
    "long arrays": lambda header, tensors: tensors.update(arrays=np.append(tensors["arrays"], np.uint8(0))),
    "arrays of another type": lambda header, tensors: tensors.update(arrays=tensors["arrays"].astype(np.float32)),
    "a type that is none": lambda header, tensors: node(header, "conv")[4]["bias"].__setitem__(1, "object"),
    "no type": lambda header, tensors: node(header, "conv")[4].update(bias=[8]),
    "a larger type": lambda header, tensors: node(header, "conv")[4]["bias"].__setitem__(1, "int64"),
    "tensor of nobody": lambda header, tensors: tensors.update(more=np.zeros(3)),
    "short weights": shorten,
    "no numbers": lambda header, tensors: tensors["arrays"].fill(255),
    "unknown operation": lambda header, tensors: node(header, "relu").__setitem__(1, "eval"),
    "reads itself": lambda header, tensors: node(header, "relu").__setitem__(2, [node(header, "relu")[0]]),
    "levels beyond the bits": lambda header, tensors: node(header, "quantize")[3].update(high=255, bits=2),
    "groups": lambda header, tensors: node(header, "conv")[3].update(groups=5),
    "padding of two sides": lambda header, tensors: node(header, "max_pool")[3].update(pads=[1, 0]),
    "uneven padding": lambda header, tensors: node(header, "max_pool")[3].update(pads=[1, 0, 0, 0]),
    "no strides": lambda header, tensors: node(header, "max_pool")[3].update(strides=[]),
    "no axes": lambda header, tensors: node(header, "mean")[3].update(axes=[]),
    "mean of the batch": lambda header, tensors: node(header, "mean")[3].update(axes=[0]),
    "flat batch": lambda header, tensors: node(header, "flatten")[3].update(start=0),
    "limits turned round": lambda header, tensors: node(header, "clip")[3].update(low=6.5),
    "a limit beyond all floats": lambda header, tensors: node(header, "clip")[3].update(high=10**400),
    "no nodes": lambda header, tensors: header.update(nodes=[]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_wrong_descriptions_are_refused(packed, tmp_path, name):
    broken = rewrite(packed, CHANGES[name], tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match=r"broken\.safetensors is not a packed file of version 1 to 4: .{10,}"):
        load_packed(broken)


def test_mutated_files_give_an_input_error_or_a_network(packed, tmp_path):
    rng, data = np.random.default_rng(0), packed.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]  # of the tensors
    broken, messages = tmp_path / "broken.safetensors", []
    for trial in range(150):
        mutated = bytearray(data)
        if trial % 3 == 0:
            mutated = mutated[: rng.integers(len(data))]
        else:
            for place in rng.integers(0, start if trial % 3 == 1 else len(data), rng.integers(1, 6)):
                mutated[place] = rng.integers(256)
        broken.write_bytes(mutated)
        try:
            network, _ = load_packed(broken)
        except InputError as error:
            messages.append(str(error))
            continue
        assert torch.isfinite(run(network, torch.zeros(1, 1, 8, 8))).all()
    assert len(messages) >= 145  # a byte that nobody reads may change
    assert all("\n" not in message for message in messages)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_packed(tmp_path / "none.safetensors")
    save_file({"a": np.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="not a packed file"):
        load_packed(tmp_path / "foreign.safetensors")


def _edited(path, target, change):
    """A packed file with one aten node changed."""
    tensors = load_file(path)
    with safe_open(str(path), framework="numpy") as file:
        header = json.loads(file.metadata()["stq"])
    node = next(node for node in header["nodes"] if node[3].get("target") == target)
    change(node[3])
    save_file(tensors, str(path), metadata={"stq": json.dumps(header)})
    return path


HOSTILE = {
    "a type as a number": lambda node: node["arguments"].__setitem__(2, -1),
    "true for a number": lambda node: node["arguments"].__setitem__(1, True),
    "an axis far away": lambda node: node["arguments"].__setitem__(1, 10**9),
    "too many arguments": lambda node: node["arguments"].append(1),
    "another function": lambda node: node.update(target="aten._softmax.default"),
    "a function that saves": lambda node: node.update(target="aten.save.default", arguments=[{"input": 0}, "none"]),
    "a function that reads": lambda node: node.update(target="aten.from_file.default", arguments=["none"]),
    "random numbers": lambda node: node.update(target="aten.rand_like.default", arguments=[{"input": 0}, *[None] * 5]),
    "in place": lambda node: node.update(target="aten.relu_.default", arguments=[{"input": 0}]),
    "an input that is not there": lambda node: node["arguments"].__setitem__(0, {"input": 7}),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_calls_of_torch_are_refused(change, tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Softmax(1), torch.nn.Conv2d(4, 2, 3))
    model = calibrated(model, (1, 8, 8), "lsq", 4)
    path = stq.export(model, torch.zeros(1, 1, 8, 8), tmp_path / "m.safetensors", format="packed")
    _edited(path, "aten.softmax.int", HOSTILE[change])
    with pytest.raises(InputError) as told:
        run(load_packed(path)[0], torch.zeros(1, 1, 8, 8))
    assert "\n" not in str(told.value)
