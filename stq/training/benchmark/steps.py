"""Training steps of one network in float and quantized, in turns in one process: median times and memory.

A step is forward, backward and an update of SGD, so that parameters change and nothing can be kept from the step
before. Memory is what is alive between forward and backward, by the allocator's own count.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ... import models  # noqa: F401 (registers the small networks)
from ...errors import InputError, nearest
from ...quantization.calibration import calibrate
from ...quantization.low_memory import low_memory
from ...quantization.surgery import quantize
from ...quantizers import list_quantizers
from ...quantizers.fused import KERNELS, set_kernels
from . import peers

PEERS: dict[str, Callable[[nn.Module, int], nn.Module | None]] = {
    "torch": peers.with_torch,
    "brevitas": peers.with_brevitas,
}
FORMS = (*KERNELS, "lean-low", "compiled-low")  # low: in ``low_memory``
_WARM_UP = 3


@dataclass(frozen=True)
class Setting:
    """What is measured: a timm name, batch, pixels, bit width, device, threads of a processor; whole: torch.compile."""

    network: str
    batch: int
    pixels: int
    bits: int
    device: str
    whole: bool = False
    precision: str = "32"


@dataclass
class _Candidate:
    name: str
    form: str
    model: nn.Module
    run: nn.Module
    optimizer: torch.optim.Optimizer


def measure(setting: Setting, methods: Sequence[str], forms: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """A row for float, and for each method in each form: ``step`` and ``memory`` are ratios to float.

    ``low`` and ``high`` are the quartiles of the ratios of single rounds. Names must have passed ``check``.
    """
    x = _input(setting)
    candidates = list(_candidates(setting, methods, forms, x))
    times: dict[int, list[float]] = {index: [] for index in range(len(candidates))}
    first: list[float] = []
    for turn in range(rounds + _WARM_UP):
        for index, candidate in enumerate(candidates):
            seconds = _timed(candidate, setting, x)
            if turn == 0:
                first.append(seconds)
            if turn >= _WARM_UP:
                times[index].append(seconds)
    base = np.array(times[0])
    rows = []
    bytes_of_float = None
    for index, candidate in enumerate(candidates):
        alive, peak = _memory(candidate, setting, x)
        bytes_of_float = bytes_of_float or (alive, peak)
        low, high = np.percentile(np.array(times[index]) / base, (25, 75))
        rows.append(
            {
                "method": candidate.name,
                "form": candidate.form,
                "ms": round(float(np.median(times[index])) * 1e3, 2),
                "step": round(float(np.median(times[index]) / np.median(base)), 3),
                "low": round(float(low), 3),
                "high": round(float(high), 3),
                "bytes": alive,
                "memory": round(alive / bytes_of_float[0], 3),
                "peak": None if peak is None else round(peak / bytes_of_float[1], 3),
                "first_seconds": round(first[index], 1),
            }
        )
    return rows


def _input(setting: Setting) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(setting.batch, 3, setting.pixels, setting.pixels, device=setting.device)


def _candidates(setting: Setting, methods: Sequence[str], forms: Sequence[str], x: Tensor):
    torch.manual_seed(0)
    model = timm.create_model(setting.network, num_classes=10).to(setting.device).train()
    yield _candidate("float", "", model, setting)
    for method in methods:
        if method in PEERS:
            found = PEERS[method](model, setting.bits)
            if found is not None:
                yield _candidate(method, "", found.to(setting.device).train(), setting)
            continue
        for form in forms:
            bits = {"weight_bits": setting.bits, "activation_bits": setting.bits}
            quantized = quantize(copy.deepcopy(model), method, **bits)
            calibrate(quantized, x)
            yield _candidate(method, form, quantized.train(), setting)


def check(networks: Sequence[str], methods: Sequence[str], forms: Sequence[str]) -> None:
    """Raise InputError for a name that is none, before anything is built."""
    known = [*(name for name in list_quantizers() if name != "none"), *PEERS]
    for given, names, what in ((methods, known, "method"), (forms, FORMS, "form")):
        for name in given:
            if name not in names:
                raise InputError(f"there is no {what} '{name}'{nearest(name, names)}: there are {', '.join(names)}")
    for name in networks:
        if not timm.is_model(name):
            raise InputError(f"timm has no network '{name}'{nearest(name, timm.list_models())}")


def _candidate(name: str, form: str, model: nn.Module, setting: Setting) -> _Candidate:
    run = torch.compile(model) if setting.whole else model
    return _Candidate(name, form, model, run, torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9))


def _loss(candidate: _Candidate, setting: Setting, x: Tensor) -> Tensor:
    kernels, _, memory = candidate.form.partition("-")
    set_kernels(kernels or "plain")
    around = low_memory(candidate.model) if memory else nullcontext()
    with around, torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bf16"):
        return candidate.run(x).float().logsumexp(1).sum()


def _timed(candidate: _Candidate, setting: Setting, x: Tensor) -> float:
    _wait(setting)
    start = time.perf_counter()
    candidate.optimizer.zero_grad()
    _loss(candidate, setting, x).backward()
    candidate.optimizer.step()
    _wait(setting)
    return time.perf_counter() - start


def _wait(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.synchronize()


def _memory(candidate: _Candidate, setting: Setting, x: Tensor) -> tuple[int, int | None]:
    """Bytes alive between forward and backward, and the most that a step took (where the device counts it)."""
    candidate.optimizer.zero_grad(set_to_none=True)
    if setting.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = _loss(candidate, setting, x)
        alive = torch.cuda.memory_allocated() - before
        loss.backward()
        return alive, torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
        loss = _loss(candidate, setting, x)
    alive = sum(event.self_cpu_memory_usage for event in found.key_averages())
    loss.backward()
    return alive, None
