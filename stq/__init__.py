"""stq: low-bit convolutional networks with attention.

What ``__all__`` lists is the public surface; rooms and files below may move. Names are imported when first used, so
start-up stays quick.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    # a model, its quantizers, their bits
    "quantize": "quantization.surgery",
    "calibrate": "quantization.calibration",
    "summary": "quantization.summary",
    "quantized_layers": "quantization.surgery",
    "set_bits": "quantization.surgery",
    "set_progress": "quantization.annealing",
    "load_float": "quantization.float_weights",
    "parameter_groups": "quantization.parameter_groups",
    "Policy": "quantization.policy",
    # the registries, and what a quantizer of one's own is made of
    "list_quantizers": "quantizers",
    "list_weight_quantizers": "quantizers",
    "list_gates": "quantizers",
    "register_quantizer": "quantizers",
    "register_weight_quantizer": "quantizers",
    "register_gate": "quantizers",
    "Gate": "quantizers",
    "ActivationQuantizer": "quantizers",
    "ActivationRecord": "quantizers",
    "WeightQuantizer": "quantizers",
    "WeightRecord": "quantizers",
    # integers
    "freeze": "deploy.integer.freeze",
    "run": "deploy.integer.inference",
    "export": "deploy.export",
    "About": "deploy.about",
    "load_packed": "deploy.packed.packed_file",
    "list_trained": "deploy.packed.trained",
    "load_trained": "deploy.packed.trained",
    "trained_card": "deploy.packed.trained",
    "predict": "deploy.predict",
    "verify": "deploy.verify",
    "cost": "deploy.cost",
    "layers_for_bytes": "deploy.equal_bytes",
    # runs
    "load_run": "training.run_folder",
    "InputError": "errors",
    "low_memory": "quantization.low_memory",
    "set_kernels": "quantizers.fused",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'stq' has no attribute '{name}'")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
