"""Squeeze-and-Threshold: an attention block adjusts the activations and learns the thresholds that quantize them.

Wu, Waschneck, Mayr: single stage, EANN 2021; double stage, Int. J. Neural Systems 2022 (arXiv 2209.15317,
DOI 10.1142/S0129065722500514). Published: the block is inserted before the convolution, stage one adjusts the
activations, stage two learns the thresholds, and thresholds for inference are learned by momentum. The equations here
are our reconstruction, for the papers' layer sizes and activation functions are not available to us:

    v = g * x / s          g = 2 sigmoid(gate1(z1)), z1 = squeeze(x) over the mean of its magnitude   stage 1, range
    q = round(clip(v - t)) t = t_max tanh(gate2(z2)), z2 = squeeze(clip(v)) / L                       stage 2, threshold
    y = s * q              the step s is learned as in LSQ; at the start g = 1 and t = 0, which is LSQ
                           (for signed inputs too, so s starts and learns with LSQ's Qp = 2^(k-1) - 1, not with L)

In code: channel c gives code i where x crosses ``s (i - 1/2 + t_c) / g_c``.

With ``intervals`` the L segments between levels, each one step wide otherwise, have learned widths a_1 ... a_L (in
steps, 1 at the start), shared by the channels: ``q = low + round(sum_i clip((v - t - b_i) / a_i, 0, 1))`` with
``b_i = low + a_1 + ... + a_{i-1}``. The output levels stay uniform, the thresholds do not; so does N2UQ (arXiv
2111.14826), from which the gradient through the segments is taken too.

A gate is two small linear layers (``mlp``), or one of those in ``gates`` that cost less. Each stage is frozen (g and t
are their running means at inference) or kept (they follow the input there too, see ``kept_gates``); both are our
readings. Removal at inference is published for the single stage.

Found on small networks (experiments/component_ablation): frozen, the block does what learned constants do. Attention
that stays pays where it sees standardized statistics and learns faster than the step, at 8 bits as much as at 3;
without that its outputs hardly differ from one image to the next.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from .attention import SQUEEZES, Standardize, batch_mean, is_distributed, update
from .base import FLOAT_BITS, is_recomputing, sign_ste
from .fused import Kernel, fused, fused_mean, wide_type
from .gates import Gate
from .kept_gates import KeptGates, StoredGate, per_sample, positions, relative
from .lsq import LSQActivation, initial_step
from .record import ActivationRecord, clip, round_ste
from .registry import get_gate, register_quantizer

# what stays at inference: stage one, stage two
INFERENCE = {"static": (False, False), "range": (True, False), "dynamic": (True, True)}


@fused
def rounded_at_thresholds(
    x: Tensor, ratio: Tensor, shift: Tensor, step: Tensor, low: int, high: int, binary: bool
) -> Tensor:
    """``s * round(clip(g x / s - t))``; ratio g / s and shift t broadcast over x."""
    v = ratio * x - shift
    return step * (sign_ste(v) if binary else round_ste(clip(v, low, high)))


@fused_mean
def mean_of_clipped(x: Tensor, ratio: Tensor, low: int, high: int) -> Tensor:
    """The mean over all positions of ``clip(g x / s)``, (N, C) of (N, C, ...)."""
    return clip(ratio * x, low, high)


@fused
def shifted(x: Tensor, ratio: Tensor, shift: Tensor, step: Tensor) -> Tensor:
    """``s * (g x / s - t)``: what rounds at thresholds, without clipping and rounding."""
    return step * (ratio * x - shift)


@fused
def shifted_above_zero(x: Tensor, ratio: Tensor, shift: Tensor, step: Tensor) -> Tensor:
    """``s * max(g x / s - t, 0)``."""
    return step * (ratio * x - shift).relu()


@register_quantizer("double_st", weights="lsq")
class DoubleStageST(LSQActivation):
    """Double-stage ST: attention sets a range gain g and a threshold shift t for each channel.

    range_gate, threshold_gate: the gate of each stage, see ``stq.list_gates()``; "none" leaves the stage out. reduction
    (of "mlp"): channels over hidden units. rank (of "low_rank"), kernel_size (of "eca"): as their names say.
    momentum: of the running means of g and t.
    t_max: largest threshold shift, in codes. anneal: part of training over which per-sample g and t turn into their
    batch means (0: per sample throughout). squeeze: statistic over the positions (``SQUEEZES``). standardize: give the
    attention how far that statistic is from its mean over the samples, in standard deviations. attention_lr_factor:
    learning rate of the gates as a factor of that of the step. inference: "static" freezes both stages (evaluation has
    the running means), "range" keeps stage one, "dynamic" keeps both; frozen stages alone are annealed.
    range_stage, threshold_stage: False is another word for the gate "none". intervals: learn the widths of the
    intervals as well, which has no static record yet.
    """

    def __init__(
        self,
        *args,
        range_gate: str = "low_rank",
        threshold_gate: str = "low_rank",
        reduction: int = 4,
        rank: int = 4,
        kernel_size: int = 5,
        momentum: float = 0.02,
        t_max: float = 1.0,
        anneal: float = 0.7,
        squeeze: str = "mean",
        standardize: bool = False,
        attention_lr_factor: float = 3.0,
        inference: str = "dynamic",
        range_stage: bool = True,
        threshold_stage: bool = True,
        intervals: bool = False,
        **common,
    ):
        super().__init__(*args, **common)
        if inference not in INFERENCE:
            raise ValueError(f"inference='{inference}' must be one of {', '.join(INFERENCE)}")
        _check_squeeze(squeeze)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum={momentum} must be above 0 and at most 1")
        for name, value in (("reduction", reduction), ("rank", rank), ("kernel_size", kernel_size)):
            if value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
        if not 0 <= anneal <= 1:
            raise ValueError(f"anneal={anneal} must be a part of training, from 0 to 1")
        for name, value in (("t_max", t_max), ("attention_lr_factor", attention_lr_factor)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value} must be 0 or more, and finite")
        self.momentum, self.t_max, self.anneal, self.inference = momentum, t_max, anneal, inference
        self.squeeze, self.attention_lr_factor = squeeze, attention_lr_factor
        known = {"mlp": {"reduction": reduction}, "low_rank": {"rank": rank}, "eca": {"kernel_size": kernel_size}}
        self.range_gate, self.threshold_gate = (
            build(self.channels, **known.get(name, {})) if there and (build := get_gate(name)) is not None else None
            for name, there in ((range_gate, range_stage), (threshold_gate, threshold_stage))
        )
        for gate in (self.range_gate, self.threshold_gate):
            _check_squeeze(squeeze if gate is None else gate.squeeze or squeeze)
        self.range_standard, self.threshold_standard = (
            Standardize(self.channels, momentum) if _standardized(gate, standardize) else nn.Identity()
            for gate in (self.range_gate, self.threshold_gate)
        )
        self.keeps_range, self.keeps_threshold = (
            kept and gate is not None
            for kept, gate in zip(INFERENCE[inference], (self.range_gate, self.threshold_gate), strict=True)
        )
        self.intervals = intervals
        if intervals:
            self.positive("widths", (self.levels,))
        self.register_buffer("running_gain", torch.ones(self.channels))
        self.register_buffer("running_threshold", torch.zeros(self.channels))
        self._told = False  # how far training is
        self.register_buffer("mix", torch.zeros(()))  # lambda of the annealing: 0 per sample, 1 batch mean

    @property
    def lean(self) -> bool:
        """Of what is no kernel: not where the mean over all processes would be asked for again in backward passes."""
        return not is_distributed()

    def lr_factor(self, name: str) -> float:
        """Steps learn at their own rate, gates at ``attention_lr_factor`` times that."""
        return self.attention_lr_factor if "gate" in name else 1.0

    def set_progress(self, fraction: float) -> None:
        """Anneal: the share of the batch mean goes linearly from 0 to 1 over the first ``anneal`` of training."""
        self._told = True
        if self.anneal > 0:
            self.mix.fill_(min(1.0, fraction / self.anneal))

    def train(self, mode: bool = True) -> DoubleStageST:
        """As every module's; warns once, after training, that nobody has told how far it is."""
        if self.training and not mode and self._was_never_told():
            self._told = True
            warnings.warn(
                "the attention was trained without annealing: nobody called stq.set_progress(model, fraction) before "
                "each step: per-sample attention in training and fixed thresholds in evaluation are not the same "
                "function (anneal=0 says that it is meant so)",
                stacklevel=2,
            )
        return super().train(mode)

    def _was_never_told(self) -> bool:
        frozen = (self.range_gate and not self.keeps_range) or (self.threshold_gate and not self.keeps_threshold)
        if self._told or self.anneal == 0 or not frozen or bool(self.mix):
            return False
        return bool((self.running_gain != 1).any() or (self.running_threshold != 0).any())

    def kernel(self, x: Tensor) -> tuple[Kernel, tuple] | None:
        """The equations above, per-sample g and t annealed towards their batch means; updates the running means."""
        if self.intervals:
            return None
        step = self.step(x)
        ratio = self._per_sample(self._annealed_gain(self._gain(x)) / step, x)
        shift = self._annealed_threshold(self._threshold_of(x, ratio))
        return rounded_at_thresholds, (ratio, self._per_sample(shift, x), step, self.low, self.high, self.binary)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """``kernel``, or for learned intervals the same operation by operation."""
        if not self.intervals:
            return super().fake_quantize(x)
        gain = self._annealed_gain(self._gain(x))
        return self._quantize(x, self.step(x), gain, lambda v: self._annealed_threshold(self._threshold(v)))

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and threshold shift (in codes) that the attention gives an input of the layer, each (N, C).

        Those of each sample, whatever the annealing and the kind of inference.
        """
        gain = self._gain(x)
        return gain, self._threshold(self._in_steps(x, gain, self.bounded("step")))

    def evaluate(self, x: Tensor) -> Tensor:
        """As every quantizer's, through the record where there is one."""
        if not self.has_no_record:
            return super().evaluate(x)
        gain = self._gain(x) if self.keeps_range else self.running_gain.unsqueeze(0)
        fixed = self.running_threshold.unsqueeze(0)
        threshold = self._threshold if self.keeps_threshold else lambda _: fixed
        return self._quantize(x, self.bounded("step"), gain, threshold)

    def _quantize(self, x: Tensor, step: Tensor, gain: Tensor, threshold: Callable[[Tensor], Tensor]) -> Tensor:
        """y of x; gain and ``threshold(v)`` are of shape (samples, C), or (1, C) for all samples."""
        v = self._in_steps(x, gain, step)
        return step * self._code(v - self._per_sample(threshold(v), x))

    def _in_steps(self, x: Tensor, gain: Tensor, step: Tensor) -> Tensor:
        return self._per_sample(gain / step, x) * x

    @property
    def has_no_record(self) -> str:
        """Why there is no static record, and what to do instead; empty where there is one."""
        return "intervals=True has no static record yet: use intervals=False" if self.intervals else ""

    def record(self) -> ActivationRecord:
        """Gain g/s and shift t, scale s: the running means, and for stages that stay the gates before them.

        Raises ValueError for learned intervals.
        """
        if self.has_no_record:
            raise ValueError(f"{self.has_no_record} to freeze or export")
        step = self.bounded("step").detach()
        if not (self.keeps_range or self.keeps_threshold):
            return self.make_record(self.running_gain / step, self.running_threshold, step)
        one, none = torch.ones_like(step), torch.zeros_like(step)
        gates = KeptGates(
            self._stored("range") if self.keeps_range else None,
            self._stored("threshold") if self.keeps_threshold else None,
            (self.running_gain if self.range_gate and not self.keeps_range else one) / step,
            self.low,
            self.high,
            self.levels,
            self.t_max,
            self.channel_axis,
            self.running_gain if self.keeps_range else torch.ones_like(self.running_gain),
            self.running_threshold if self.keeps_threshold else torch.zeros_like(self.running_threshold),
        )
        shift = self.running_threshold if self.threshold_gate and not self.keeps_threshold else none
        return replace(self.make_record(one, shift, step), gate=gates)

    def _stored(self, stage: str) -> StoredGate:
        gate, standard = getattr(self, f"{stage}_gate"), getattr(self, f"{stage}_standard")
        return StoredGate(gate, gate.squeeze or self.squeeze, standard)

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        """Checkpoints from before there was a choice of gates call the two MLPs attention."""
        for stage in ("range", "threshold"):
            old = f"{prefix}{stage}_attention."
            for key in [key for key in state_dict if key.startswith(old)]:
                state_dict[f"{prefix}{stage}_gate.{key.removeprefix(old)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _code(self, v: Tensor) -> Tensor:
        """Integer code of v, in steps."""
        if not self.intervals or self.binary:
            return self.round(v)
        widths = self.bounded("widths", self.gradient_scale(v))
        begins = self.low + widths.cumsum(0) - widths
        parts = [clip((v - begin) / width, 0, 1) for begin, width in zip(begins, widths, strict=True)]
        return round_ste(sum(parts)) + self.low

    def _gain(self, x: Tensor) -> Tensor:
        if self.range_gate is None:
            return x.new_ones(self._positions(x).shape[:2], dtype=wide_type(x.dtype))
        z = relative(SQUEEZES[self.range_gate.squeeze or self.squeeze](self._positions(x)))
        return 2 * torch.sigmoid(self.range_gate(self.range_standard(z)))

    def _threshold(self, v: Tensor) -> Tensor:
        if self.threshold_gate is None:
            return v.new_zeros(self._positions(v).shape[:2], dtype=wide_type(v.dtype))
        squeeze = SQUEEZES[self.threshold_gate.squeeze or self.squeeze]
        return self._shift(squeeze(self._positions(clip(v, self.low, self.high))))

    def _threshold_of(self, x: Tensor, ratio: Tensor) -> Tensor:
        """``_threshold`` of ``ratio * x``, which is not kept."""
        if self.threshold_gate is None:
            return x.new_zeros(self._positions(x).shape[:2], dtype=wide_type(x.dtype))
        is_mean = (self.threshold_gate.squeeze or self.squeeze) == "mean"
        if not is_mean or x.dim() < 3 or self.channel_axis != 1 - x.dim():
            return self._threshold(ratio * x)
        return self._shift(mean_of_clipped.recomputed(x, ratio, self.low, self.high))

    def _shift(self, squeezed: Tensor) -> Tensor:
        z = self.threshold_standard(squeezed / self.levels)
        return self.t_max * torch.tanh(self.threshold_gate(z))

    def _annealed_gain(self, gain: Tensor) -> Tensor:
        return self._annealed(gain, self.running_gain, self.keeps_range)

    def _annealed_threshold(self, threshold: Tensor) -> Tensor:
        return self._annealed(threshold, self.running_threshold, self.keeps_threshold)

    def _annealed(self, value: Tensor, running: Tensor, kept: bool) -> Tensor:
        mean = batch_mean(value)
        if not is_recomputing():
            with torch.no_grad():
                update(running, mean, self.momentum)
        return value if kept else value + self.mix * (mean - value)

    def _positions(self, x: Tensor) -> Tensor:
        return positions(x, self.channel_axis)

    def _per_sample(self, value: Tensor, x: Tensor) -> Tensor:
        return per_sample(value, x, self.channel_axis)


def _check_squeeze(name: str) -> None:
    if name not in SQUEEZES:
        raise ValueError(f"squeeze='{name}' must be one of {', '.join(SQUEEZES)}")


def _standardized(gate: Gate | None, wanted: bool) -> bool:
    """Whether a gate is given standardized statistics: as it is made for, or else as wanted."""
    if gate is None:
        return False
    return wanted if gate.standardized is None else gate.standardized


# two MLPs whose thresholds are learned by momentum
_PUBLISHED = {"range_gate": "mlp", "threshold_gate": "mlp", "attention_lr_factor": 1.0, "inference": "static"}


@register_quantizer("st", weights="lsq")
class SingleStageST(DoubleStageST):
    """Single-stage ST: stage one alone, the thresholds stay where the step puts them (t = 0).

    Raises ValueError for a threshold gate.
    """

    def __init__(self, *args, threshold_gate: str = "none", **settings):
        if threshold_gate != "none":
            raise ValueError(f"threshold_gate='{threshold_gate}': st has no stage two; double_st has")
        super().__init__(*args, **_PUBLISHED | {"threshold_gate": "none"} | settings)


@register_quantizer("double_st_frozen", weights="lsq")
class FrozenDoubleStageST(DoubleStageST):
    """Double-stage ST with both stages frozen: what every target carries. Raises ValueError for another inference."""

    def __init__(self, *args, inference: str = "static", **settings):
        if inference != "static":
            raise ValueError(f"inference='{inference}': double_st_frozen is 'static'; double_st keeps stages")
        super().__init__(*args, **_PUBLISHED | settings)


@register_quantizer("double_st_dynamic", weights="lsq")
class DynamicDoubleStageST(DoubleStageST):
    """Double-stage ST with two MLPs that stay, on standardized statistics. Raises ValueError for another inference."""

    def __init__(self, *args, inference: str = "dynamic", **settings):
        if inference != "dynamic":
            raise ValueError(f"inference='{inference}': double_st_dynamic is 'dynamic'; double_st has a choice")
        chosen = {"range_gate": "mlp", "threshold_gate": "mlp", "inference": "dynamic", "anneal": 0.0}
        super().__init__(*args, **chosen | {"standardize": True, "attention_lr_factor": 3.0} | settings)


@register_quantizer("float_gates", weights="lsq")
class FloatGates(DoubleStageST):
    """The gates of double-stage ST in a float network: ``g x - t s``, s the step of a quantizer of 3 bits.

    That step is not learned, for a float network would make it what it likes: it is a running mean of the step that a
    quantizer starts with, so that shifts of so many codes are about as large once the network is quantized.
    Of a non-negative input, what falls below zero is zero, as it is when it is quantized: a network that had learned to
    use it would lose it then.

    A float baseline that has what the quantized network has, so that what attention gives the network and what it
    gives quantization are told apart. bits: 32. Raises ValueError where asked for a record: there is no code.
    """

    rounds = False
    has_no_record = "float_gates rounds nothing: use double_st"
    _codes_of = 3  # bits of the codes that a shift is measured in

    def __init__(self, bits: int, *args, **settings):
        if bits != FLOAT_BITS:
            raise ValueError(f"bits={bits}: float_gates leaves its layers in float: use bits=32")
        super().__init__(self._codes_of, *args, **settings)
        self.bits = FLOAT_BITS
        self.raw_step.requires_grad_(False)

    def step(self, x: Tensor) -> Tensor:
        """The running mean; updated in training."""
        if self.training and not is_recomputing():
            with torch.no_grad():
                step = self.bounded("step").clone()
                update(
                    step, batch_mean(initial_step(x, self.high, binary=False).reshape(1, 1)).squeeze(0), self.momentum
                )
                self.set_positive("step", step)
        return self.bounded("step")

    @property
    def levels(self) -> int:
        """Of the codes that a shift is measured in."""
        return 2**self._codes_of - 1

    @property
    def low(self) -> int:
        """Smallest of those codes."""
        return -(2 ** (self._codes_of - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest of those codes."""
        return self.low + self.levels

    def kernel(self, x: Tensor) -> tuple[Kernel, tuple] | None:
        """As in double-stage ST, without clipping and rounding."""
        found = super().kernel(x)
        return found and (shifted if self.signed else shifted_above_zero, found[1][:3])

    def _code(self, v: Tensor) -> Tensor:
        return v if self.signed else v.relu()
