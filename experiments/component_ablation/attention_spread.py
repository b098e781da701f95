"""How much attention attends: python attention_spread.py RUN_FOLDER...

For each layer of a trained double_st run: the mean gain, and the standard deviation over channels (of the means over
samples) and over samples (mean over channels) of gains and thresholds, on 500 test images. Thresholds in codes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import stq
from stq.training import load_run


@torch.no_grad()
def spread(run: Path) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """(layer, gains, thresholds), each (samples, channels), of a run's selected checkpoint."""
    model, data, _ = load_run(run)
    data.setup("test")
    images = next(iter(data.test_dataloader()))[0][:500]
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for path, layer in stq.quantized_layers(model.cpu().eval()):
        quantizer = layer.input_quantizer
        if getattr(quantizer, "range_gate", None) is None or quantizer.threshold_gate is None:
            continue
        quantizer.inference = "dynamic"  # also where attention was frozen: what it would have said
        quantizer.register_forward_pre_hook(lambda q, x, path=path: found.update({path: q.attend(x[0])}))
    model(images)
    return [(path, *both) for path, both in found.items()]


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(folder)
        for path, gain, threshold in spread(Path(folder)):
            (gc, gs), (tc, ts) = ((v.mean(0).std().item(), v.std(0).mean().item()) for v in (gain, threshold))
            print(
                f"  {path:16} gain {gain.mean():.2f}, over channels {gc:.3f}, samples {gs:.3f};"
                f"  threshold over channels {tc:.3f}, samples {ts:.3f}"
            )
