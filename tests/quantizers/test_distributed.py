"""Two data-parallel processes on the CPU compute what one process computes on the whole batch."""

from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import stq
from stq.quantizers import get_method

SPLIT = 5  # of 8 samples go to the first process: unequal shares, so that a mean of means would show


def one_step(batch_slice, wrap):
    """One training step half-way through annealing: running means, gradients and outputs, by name."""
    torch.manual_seed(0)
    x, target = torch.rand(8, 4, 3, 3, dtype=torch.float64), torch.rand(8, 4, 3, 3, dtype=torch.float64)
    quantizer = get_method("double_st_frozen").activation(bits=3, channels=4, anneal=1.0, momentum=0.1)
    quantizer.calibrate(x)
    quantizer.double().set_progress(0.5)
    with torch.no_grad():
        for name, p in quantizer.named_parameters():
            if "gate" in name:
                p.copy_(torch.randn_like(p) * 0.4)
    x, target = x[batch_slice], target[batch_slice]
    network = wrap(quantizer)
    y = network(x)
    # DDP averages the gradients of its processes, so their losses sum to the whole batch's times their number
    ((y - target).square().sum() / 8 * (dist.get_world_size() if dist.is_initialized() else 1)).backward()
    gradients = {f"gradient of {name}": p.grad.clone() for name, p in quantizer.named_parameters()}
    lean = {f"{name}, lean": value for name, value in lean_layer(x, wrap).items()}
    return {"gain": quantizer.running_gain, "threshold": quantizer.running_threshold, **gradients, **lean}


def lean_layer(x, wrap):
    """Gradients and running means of a convolution whose quantizers are computed again in the backward pass."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Conv2d(4, 3, 3))
    policy = {"weight_bits": 3, "activation_bits": 3, "first_last_bits": None, "settings": {"anneal": 1.0}}
    stq.quantize(model, "double_st_frozen", **policy)
    torch.manual_seed(2)
    stq.calibrate(model, torch.rand(8, 4, 3, 3))
    model.double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "gate" in name:
                p.copy_(torch.randn_like(p) * 0.4)
    stq.set_progress(model, 0.5)
    stq.set_kernels("lean")
    try:
        network = wrap(model.train())
        loss = network(x).square().sum() / 8 * (dist.get_world_size() if dist.is_initialized() else 1)
        assert "KernelLayer" in str(backward_nodes(loss))
        loss.backward()
    finally:
        stq.set_kernels("plain")
    return {name: p.grad.clone() for name, p in model.named_parameters()} | dict(model.named_buffers())


def backward_nodes(loss):
    found, waiting = [], [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        found.append(node.name())
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    return set(found)


def process(rank, folder):
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", rendezvous, timeout=timedelta(seconds=60), rank=rank, world_size=2)
    try:
        part = slice(0, SPLIT) if rank == 0 else slice(SPLIT, None)
        torch.save(one_step(part, DistributedDataParallel), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_running_thresholds_and_gradients_of_two_processes_are_those_of_the_whole_batch(tmp_path):
    other = mp.get_context("spawn").Process(target=process, args=(1, tmp_path), daemon=True)
    other.start()
    try:
        process(0, tmp_path)
        other.join(60)
    finally:
        other.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    whole = one_step(slice(None), lambda module: module)
    assert whole["threshold"].abs().min() > 0
    for name, value in whole.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], value, rtol=1e-9, atol=1e-12), name
