"""Made-up run folders for the tests of reports."""

from pathlib import Path

from stq.results.runs.result_file import KEYS, SCHEMA_VERSION, write_result

FLOAT = {"method": "none", "weight_method": None, "weight_bits": 32, "activation_bits": 32, "first_last_bits": 32}


def make_run(folder: Path, lr: float | None = None, **values) -> Path:
    """A run folder with a result, and a config.yaml where ``lr`` is given; the folder's name is its hash."""
    folder.mkdir(parents=True)
    base = dict.fromkeys(KEYS) | {"schema_version": SCHEMA_VERSION, "status": "done", "tags": [], "versions": {}}
    base |= {"method": "lsq", "weight_method": "lsq", "weight_bits": 2, "activation_bits": 2, "first_last_bits": 8}
    base |= {"data": "digits", "model": "resnet8", "seed": 0, "epochs": 3, "test_top1": 50.0, "float_test_top1": 60.0}
    base |= {"parameters": 10, "size_bytes": 100, "float_size_bytes": 400, "config_hash": folder.name}
    write_result(folder, base | values)
    if lr is not None:
        (folder / "config.yaml").write_text(f"optimizer: {{lr: {lr}}}\n")
    return folder
