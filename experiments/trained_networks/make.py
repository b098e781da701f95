"""Packs the networks of finished runs into stq/trained, each with its result: ``python make.py RUN_FOLDER ...``

A run's network is packed as it is; of each run that started from a float baseline, the float network is packed too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import stq
from stq.cli.export_run import about_run
from stq.results.runs.result_file import read_result
from stq.training import load_run

TRAINED = Path(stq.__file__).parent / "trained"


def pack(run: Path) -> Path:
    """Write the packed file of a run, named by network, width, data, pixels and bits."""
    model, data, _ = load_run(run)
    data.setup("test")
    images = next(iter(data.test_dataloader()))[0]
    result = read_result(run)
    quantized = result["weight_bits"] < 32
    bits = f"w{result['weight_bits']}a{result['activation_bits']}_{result['method']}" if quantized else "float"
    name = f"{result['model']}_{result['data'].lower().replace('-', '')}_{data.image_size}px_{bits}"
    network = stq.freeze(model.cpu().eval(), images, quantized=quantized)
    return stq.export(network, images, TRAINED / f"{name}.safetensors", format="packed", about=about_run(run, data))


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(pack(Path(folder)))
