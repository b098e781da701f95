"""stq: low-bit convolutional networks with attention. Names are imported when first used, so start-up stays quick."""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "calibrate": "calibration",
    "cost": "deploy.cost",
    "export": "deploy.export",
    "freeze": "deploy.frozen",
    "quantize": "surgery",
    "quantized_layers": "surgery",
    "set_bits": "surgery",
    "summary": "model_summary",
    "Policy": "policy",
    "ActivationQuantizer": "quantizers",
    "ActivationRecord": "quantizers",
    "WeightQuantizer": "quantizers",
    "WeightRecord": "quantizers",
    "list_quantizers": "quantizers",
    "list_weight_quantizers": "quantizers",
    "register_quantizer": "quantizers",
    "register_weight_quantizer": "quantizers",
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
