"""Every file says what is in it, and an ONNX file can prepare uint8 images itself."""

import json

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open

import stq
from stq.errors import InputError
from tests.deploy.runtimes import onnx_scores
from tests.small_networks import calibrated, small_network

SIZE = (1, 8, 8)
ABOUT = {"mean": [0.3], "std": [0.25], "class_names": list("abcdefghij"), "facts": {"method": "lsq", "bits": 4}}


@pytest.mark.parametrize("format", ["onnxruntime", "qdq", "openvino", "finn", "hls4ml", "qonnx"])
def test_onnx_metadata_and_names_of_layers(format, tmp_path):
    model = calibrated(small_network(), SIZE, "lsq", 4)
    path = stq.export(model, torch.zeros(1, *SIZE), tmp_path / "m.onnx", format=format, about=stq.About(**ABOUT))
    written = onnx.load(path)
    said = {entry.key: entry.value for entry in written.metadata_props}
    assert all(key.startswith("stq.") for key in said)
    assert json.loads(said["stq.preprocessing"]) == {
        **{"mean": [0.3], "std": [0.25], "range": 255, "layout": "NCHW"},
        "inside": False,
    }
    assert json.loads(said["stq.class_names"]) == list("abcdefghij")
    assert (said["stq.method"], said["stq.bits"]) == ("lsq", "4")
    assert len(said["stq.checksum"]) == 64
    names = [node.name for node in written.graph.node]
    assert len(set(names)) == len(names)
    for layer in ("0", "3.conv1", "9", "15"):
        assert any(name.startswith(f"{layer}/") for name in names)


def test_packed_and_c_say_it_too(tmp_path):
    model = calibrated(small_network(), SIZE, "lsq", 4)
    for format in ("packed", "c"):
        path = stq.export(model, torch.zeros(1, *SIZE), tmp_path / "m", format=format, about=stq.About(**ABOUT))
        if format == "packed":
            with safe_open(str(path), framework="numpy") as file:
                assert json.loads(file.metadata()["stq.class_names"]) == list("abcdefghij")
        else:
            assert " * stq.method: lsq\n" in path.read_text()


@pytest.mark.parametrize("format", ["onnxruntime", "qdq"])
@pytest.mark.parametrize("torch_part", [False, True])
def test_pixels_go_in(format, torch_part, tmp_path):
    torch.manual_seed(0)
    network = small_network()
    if torch_part:
        network.insert(0, torch.nn.ChannelShuffle(1))
    model = calibrated(network, SIZE, "lsq", 4)
    images = torch.randint(0, 256, (32, *SIZE), dtype=torch.uint8)
    prepared = (images.float() / 255 - 0.3) / 0.25
    with torch.no_grad():
        expected = model(prepared).numpy()
    about = stq.About(mean=[0.3], std=[0.25], pixels=True)
    path = stq.export(model, prepared, tmp_path / "m.onnx", format=format, about=about)
    assert np.array_equal(onnx_scores(path, images).argmax(1), expected.argmax(1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": [0.5]}, "given together"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "given together, one of each a channel"),
        ({"mean": [0.5], "std": [0.0]}, "not above 0"),
        ({"pixels": True}, "need the mean and std"),
    ],
)
def test_slips(given, message):
    with pytest.raises(InputError, match=message):
        stq.About(**given)
