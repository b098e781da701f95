"""What ``stq`` itself offers: every name is there, documented, and on the page for Python."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import stq

NAMES = [name for name in stq.__all__ if name != "__version__"]
PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
WANTED = """quantize calibrate summary quantized_layers set_bits parameter_groups Policy list_quantizers
list_weight_quantizers register_quantizer register_weight_quantizer freeze run export load_packed predict verify cost
load_run InputError"""


@pytest.mark.parametrize("name", NAMES)
def test_name_is_documented(name):
    thing = getattr(stq, name)
    assert inspect.getdoc(thing)
    assert f"{thing.__module__}.{name}" in PAGE


def test_nothing_promised_is_missing():
    assert set(WANTED.split()) <= set(NAMES)
    assert set(NAMES) <= set(dir(stq))
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        stq.quantise  # noqa: B018


def test_importing_stq_imports_nothing_slow():
    code = "import stq, sys; print([name for name in ('torch', 'timm', 'hydra') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
