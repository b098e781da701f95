"""What every quantizer is: bits, a calibration, a fake quantization for training, and a static record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .fused import Kernel, wide
from .record import ActivationRecord, WeightRecord, clip, round_ste

FLOAT_BITS = 32  # the bit width that means "leave this in floating point"
_SMALLEST_PART = 1e-3  # a learned step or clip stays above this part of its calibrated value
_SMALLEST = 1e-30  # what is smaller is nothing: its inverse would overflow
_COMPARATOR_GAIN = 2.0**64


def check_bits(bits: int, what: str = "bits") -> int:
    """Return ``bits`` if it is 1 to 8 or 32 (float); raise ValueError otherwise."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not (1 <= bits <= 8 or bits == FLOAT_BITS):
        raise ValueError(f"{what}={bits} is not a bit width: use 1 to 8, or 32 to leave it in floating point")
    return bits


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Exactly ``value`` in the forward pass, the gradient of ``surrogate`` in the backward pass."""
    return value.detach() + (surrogate - surrogate.detach())


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Exactly ``x``, with its gradient multiplied by ``factor`` (LSQ, arXiv 1902.08153, section 2.2)."""
    return straight_through(x, x * factor)


def sign_ste(v: Tensor) -> Tensor:
    """-1 or +1 (sign(0) = +1), NaN stays NaN; gradient 1 where -1 <= v <= 1, else 0."""
    sign = torch.where(v >= 0, 1.0, torch.where(v < 0, -1.0, v))
    return straight_through(sign, torch.where(v.abs() <= 1, v, v.detach()))


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bound: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(x, bound)
        ctx.factor = factor
        return torch.maximum(x, bound)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, bound = ctx.saved_tensors
        # below the bound only a descent step that leads back up may pass
        return gradient * ctx.factor * ((x >= bound) | (gradient < 0)), None, None


_recomputing = False


@contextmanager
def recomputing() -> Iterator[None]:
    """While quantizers compute for a backward pass what they computed in the forward pass: that counts once."""
    global _recomputing
    previous, _recomputing = _recomputing, True
    try:
        yield
    finally:
        _recomputing = previous


def is_recomputing() -> bool:
    """Whether a forward pass repeats an earlier one, for this library's layers or for gradient checkpointing."""
    return _recomputing or (not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1)


class _Stateful(nn.Module):
    """Keeps bits, the calibrated flag and signedness in ``state_dict``, so a checkpoint needs no calibration."""

    bits: int
    calibrated: bool
    signed: bool | None

    def get_extra_state(self) -> Tensor:
        signed = -1 if self.signed is None else int(self.signed)
        return torch.tensor([self.bits, int(self.calibrated), signed])

    def set_extra_state(self, state: Tensor) -> None:
        bits, calibrated, signed = (int(v) for v in state)
        if bits != self.bits:
            raise ValueError(f"the checkpoint holds a {bits}-bit quantizer where the model has {self.bits} bits")
        self.calibrated = bool(calibrated)
        self.signed = None if signed < 0 else bool(signed)

    def positive(self, name: str, shape: tuple[int, ...] = ()) -> None:
        """Declare a learned quantity that no learning rate can make zero or negative; read it with ``bounded``."""
        self.register_parameter(f"raw_{name}", nn.Parameter(torch.ones(shape)))
        self.register_buffer(f"{name}_floor", torch.full(shape, _SMALLEST_PART))

    @torch.no_grad()
    def set_positive(self, name: str, value: Tensor) -> None:
        """Set a quantity declared with ``positive`` and its lower bound; zeros (an all-zero input) become 1."""
        value = torch.where(value > _SMALLEST, value, torch.ones_like(value))
        getattr(self, f"raw_{name}").copy_(value)
        getattr(self, f"{name}_floor").copy_(value * _SMALLEST_PART)

    def bounded(self, name: str, gradient_scale: float = 1.0) -> Tensor:
        """The current value of a quantity declared with ``positive``, above zero and differentiable.

        gradient_scale: what its gradient is multiplied with (LSQ, arXiv 1902.08153, section 2.2).
        """
        return _LowerBound.apply(getattr(self, f"raw_{name}"), getattr(self, f"{name}_floor"), gradient_scale)

    def lr_factor(self, name: str) -> float:
        """Learning rate of a parameter of this quantizer, as a factor of that of all quantizers."""
        return 1.0

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}, calibrated={self.calibrated}"


class ActivationQuantizer(_Stateful, ABC):
    """Quantizes the input of a layer. Subclasses write three methods: ``initialize``, ``fake_quantize``, ``record``.

    bits: 1 to 8. channels: input channels C of the layer. channel_axis: the channel axis counted from the end (-3 for
    (N, C, H, W), -2 for (N, C, L), -1 for (..., C)). signed: whether the input can be negative; None lets calibration
    find out. decay: weight decay of the quantizer's own parameters.
    """

    decay: float = 0.0
    rounds = True  # False: a method that leaves its layers in float (``float_gates``)
    # whether fake_quantize, where no kernel stands for it, may be computed again in the backward pass; None: found out,
    # not for one that changes its buffers each time (unless it asks ``is_recomputing()`` before, and says True here)
    lean: bool | None = None

    def __init__(self, bits: int, channels: int, channel_axis: int = -3, signed: bool | None = None):
        super().__init__()
        if check_bits(bits) == FLOAT_BITS:
            raise ValueError("a quantizer has 1 to 8 bits; leave the layer alone for float")
        self.bits, self.channels, self.channel_axis = bits, channels, channel_axis
        self.signed = self.requested_signed = signed
        self.calibrated = False

    @property
    def levels(self) -> int:
        """L = 2**bits - 1, the number of thresholds."""
        return 2**self.bits - 1

    @property
    def binary(self) -> bool:
        """True for 1-bit signed codes, which are -1 and +1."""
        return self.bits == 1 and bool(self.signed)

    @property
    def low(self) -> int:
        """Smallest code: 0, -1 (binary) or -2**(bits - 1)."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code: 2**bits - 1, +1 (binary) or 2**(bits - 1) - 1."""
        return max(1, 2 ** (self.bits - 1) - 1) if self.signed else self.levels

    def round(self, v: Tensor) -> Tensor:
        """Integer code of an input in units of codes: round(clip(v, low, high)), or the sign where binary."""
        return sign_ste(v) if self.binary else round_ste(clip(v, self.low, self.high))

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set signedness (if not given) and the start of every learned quantity from a batch of inputs."""
        if not torch.isfinite(x).all():
            raise ValueError("cannot calibrate on a batch that holds NaN or infinity")
        self.signed = bool((x < 0).any()) if self.requested_signed is None else self.requested_signed
        self.initialize(x.float())
        self.calibrated = True

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x`` (any float dtype, computed in float32): in evaluation exactly through the record."""
        if not self.calibrated:
            raise RuntimeError("not calibrated: call stq.calibrate(model, batch) or load a trained checkpoint first")
        if x.dim() == -self.channel_axis:  # unbatched, as convolutions allow
            return self(x.unsqueeze(0)).squeeze(0)
        with torch.autocast(x.device.type, enabled=False):  # a code must not depend on the precision of the network
            return (self.fake_quantize(wide(x)) if self.training else self.evaluate(wide(x))).to(x.dtype)

    def evaluate(self, x: Tensor) -> Tensor:
        """The forward pass in evaluation: through the static record, so what is measured is what is deployed."""
        return self.record().fake_quantize(x)

    def set_progress(self, fraction: float) -> None:
        """Told before each training step which part of training is done, 0 to 1."""

    def make_record(self, gain: Tensor, shift: Tensor, scale: Tensor, offset: Tensor | None = None) -> ActivationRecord:
        """The record of ``code = round(clip(gain * x - shift, low, high))``, ``value = scale * code + offset``."""
        low, high = self.low, self.high
        gain, shift, scale = gain.detach(), shift.detach(), scale.detach()
        offset = torch.zeros_like(scale) if offset is None else offset.detach()
        if self.binary:
            # One comparator with codes 0 and 1. Only the place of its threshold matters, so a huge gain makes the
            # comparison exact, and the constant puts an input on the threshold on the upper side: sign(0) = +1.
            gain, shift = gain * _COMPARATOR_GAIN, shift * _COMPARATOR_GAIN - 0.75
            low, high, scale, offset = 0, 1, 2 * scale, offset - scale
        return ActivationRecord(self.bits, low, high, gain, shift, scale, offset, self.channel_axis)

    @abstractmethod
    def initialize(self, x: Tensor) -> None:
        """Set the start of every learned quantity from a float32 batch of the layer's inputs."""

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The training forward pass, differentiable as the method's paper says; or ``kernel``, which is quicker."""
        function, arguments = self.kernel(x)
        return function(x, *arguments)

    def kernel(self, x: Tensor) -> tuple[Kernel, tuple] | None:
        """What ``fake_quantize`` is: a ``fused`` function and its arguments after x, small tensors and numbers.

        x may be in half precision; the tensors among the arguments are float32 all the same.
        """
        return None

    @abstractmethod
    def record(self) -> ActivationRecord:
        """What the quantizer is at inference."""


def own_kernel(quantizer: ActivationQuantizer | WeightQuantizer, x: Tensor) -> tuple[Kernel, tuple] | None:
    """The quantizer's kernel, unless a subclass has changed what it stands for without changing it."""
    stands_for = "fake_quantize" if isinstance(quantizer, ActivationQuantizer) else "encode"
    order = [kind for kind in type(quantizer).__mro__ if "kernel" in vars(kind) or stands_for in vars(kind)]
    first = next(kind for kind in order if kind not in (ActivationQuantizer, WeightQuantizer)) if order else None
    return quantizer.kernel(x) if first is not None and "kernel" in vars(first) else None


class WeightQuantizer(_Stateful, ABC):
    """Quantizes a weight of shape (O, ...). Subclasses write ``encode``, and ``initialize`` where something is learned.

    bits: 1 to 8. channels: output channels O of the layer.
    """

    decay: float = 0.0
    signed = True

    def __init__(self, bits: int, channels: int):
        super().__init__()
        if check_bits(bits) == FLOAT_BITS:
            raise ValueError("a quantizer has 1 to 8 bits; leave the layer alone for float")
        self.bits, self.channels, self.calibrated = bits, channels, False

    @property
    def levels(self) -> int:
        """L = 2**bits - 1."""
        return 2**self.bits - 1

    @property
    def low(self) -> int:
        """Smallest code."""
        return -self.levels

    @property
    def high(self) -> int:
        """Largest code."""
        return self.levels

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        """Set the start of every learned quantity from the float weight."""
        if not torch.isfinite(weight).all():
            raise ValueError("cannot calibrate on a weight that holds NaN or infinity")
        self.initialize(weight.float())
        self.calibrated = True

    def kernel(self, weight: Tensor) -> tuple[Kernel, tuple] | None:
        """What ``forward`` is: a ``fused`` function, and its arguments after the weight; None: what ``encode`` says."""
        return None

    def forward(self, weight: Tensor) -> Tensor:
        """Fake-quantize ``weight``, the same shape and dtype; training and evaluation use the same arithmetic."""
        if (found := self.kernel(wide(weight))) is not None:
            function, arguments = found
            return function(weight, *arguments).to(weight.dtype)
        codes, scale = self.encode(wide(weight))
        return (scale * codes).to(weight.dtype)

    @torch.no_grad()
    def record(self, weight: Tensor) -> WeightRecord:
        """Integer codes and scales of ``weight``. Raises ValueError where it is NaN."""
        codes, scale = self.encode(weight.float())
        if torch.isnan(codes).any():
            raise ValueError("the weight holds NaN, which has no integer code")
        return WeightRecord(self.bits, self.low, self.high, codes.to(torch.int32), scale.reshape(-1).squeeze())

    def initialize(self, weight: Tensor) -> None:
        """Set the start of every learned quantity from the float32 weight."""

    @abstractmethod
    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (straight-through gradient, the shape of ``weight``) and scale (broadcasts over it)."""


def smallest_error(x: Tensor, candidates: Tensor, quantize: Callable[[Tensor], Tensor]) -> Tensor:
    """The candidate (a scalar of ``candidates``) for which ``quantize(candidate)`` is nearest to ``x`` in square."""
    errors = torch.stack([(quantize(candidate) - x).square().mean() for candidate in candidates])
    return candidates[errors.argmin()]
