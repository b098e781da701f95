"""The quantizers: one file a method, pure torch, on ``base`` (what a quantizer is) and ``registry`` (names)."""

from . import dorefa, lsq, lsq_plus, pact, sawb, squeeze_threshold
from .base import FLOAT_BITS, ActivationQuantizer, WeightQuantizer, check_bits
from .gates import Gate
from .record import ActivationRecord, WeightRecord
from .registry import (
    get_method,
    get_weight_quantizer,
    list_gates,
    list_quantizers,
    list_weight_quantizers,
    register_gate,
    register_quantizer,
    register_weight_quantizer,
)

__all__ = [
    "FLOAT_BITS",
    "ActivationQuantizer",
    "ActivationRecord",
    "Gate",
    "WeightQuantizer",
    "WeightRecord",
    "check_bits",
    "dorefa",
    "get_method",
    "get_weight_quantizer",
    "list_gates",
    "list_quantizers",
    "list_weight_quantizers",
    "lsq",
    "lsq_plus",
    "pact",
    "register_gate",
    "register_quantizer",
    "register_weight_quantizer",
    "sawb",
    "squeeze_threshold",
]
