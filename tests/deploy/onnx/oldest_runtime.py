"""Exported files in the oldest ONNX Runtime that pyproject.toml declares, in an environment of its own.

python tests/deploy/onnx/oldest_runtime.py: exports a few networks, runs them there, and compares with this environment.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import stq

TOP = Path(__file__).parents[3]
sys.path.insert(0, str(TOP))
from tests.small_networks import calibrated, small_network  # noqa: E402

FOLDER = TOP / "build" / "oldest_onnxruntime"
RUN = """
import sys, numpy as np, onnxruntime as ort
x = np.load("x.npy")
for name in sys.argv[1:]:
    session = ort.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
    np.save(f"{name}.npy", session.run(None, {"input": x})[0])
print(ort.__version__)
"""


def main() -> None:
    """Exits with status 1 where a file does not run there or gives other predictions."""
    oldest = re.search(r'"onnxruntime>=([\d.]+)"', (TOP / "pyproject.toml").read_text())[1]
    python = FOLDER / "venv" / "bin" / "python"
    if not python.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", FOLDER / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"onnxruntime=={oldest}.*", "numpy"], check=True)
    torch.manual_seed(0)
    x, expected = torch.randn(200, 1, 8, 8), {}
    np.save(FOLDER / "x.npy", x.numpy())
    for method in ("double_st_frozen", "pact", "lsq_plus"):
        for bits in (1, 2, 3, 4, 8):
            model = calibrated(small_network(), (1, 8, 8), method, bits)
            name = f"{method}_{bits}"
            stq.export(model, x, FOLDER / f"{name}.onnx")
            with torch.no_grad():
                expected[name] = model(x).argmax(1).numpy()
    command = [python, "-c", RUN, *expected]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ONNX Runtime {oldest} does not run the files: {done.stderr.strip().splitlines()[-1]}")
    equal = sum(int((np.load(FOLDER / f"{name}.npy").argmax(1) == found).sum()) for name, found in expected.items())
    print(f"ONNX Runtime {done.stdout.strip()}: {equal} of {200 * len(expected)} predictions equal the models'")
    raise SystemExit(equal != 200 * len(expected))


if __name__ == "__main__":
    main()
