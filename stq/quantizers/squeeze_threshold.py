"""Squeeze-and-Threshold: an attention block adjusts the activations and learns the thresholds that quantize them.

Wu, Waschneck, Mayr: single stage, EANN 2021; double stage, Int. J. Neural Systems 2022 (arXiv 2209.15317,
DOI 10.1142/S0129065722500514). Published: the block is inserted before the convolution, stage one adjusts the
activations, stage two learns the thresholds, and thresholds for inference are learned by momentum. The equations here
are our reconstruction, for the papers' layer sizes and activation functions are not available to us:

    v = g * x / s          g = 2 sigmoid(MLP1(z1)),  z1 = squeeze(x) over the mean of its magnitude   stage 1, range
    q = round(clip(v - t)) t = t_max tanh(MLP2(z2)), z2 = squeeze(clip(v)) / L                        stage 2, threshold
    y = s * q              the step s is learned as in LSQ; at the start g = 1 and t = 0, which is LSQ
                           (for signed inputs too, so s starts and learns with LSQ's Qp = 2^(k-1) - 1, not with L)

In code: channel c gives code i where x crosses ``s (i - 1/2 + t_c) / g_c``.

With ``intervals`` the L segments between levels, each one step wide otherwise, have learned widths a_1 ... a_L (in
steps, 1 at the start), shared by the channels: ``q = low + round(sum_i clip((v - t - b_i) / a_i, 0, 1))`` with
``b_i = low + a_1 + ... + a_{i-1}``. The output levels stay uniform, the thresholds do not; so does N2UQ (arXiv
2111.14826), from which the gradient through the segments is taken too.

Found on small networks (experiments/component_ablation): frozen, the block does what learned constants do. Attention
that stays ("dynamic") pays where it sees standardized statistics and learns faster than the step, at 8 bits as much as
at 3; without that its outputs hardly differ from one image to the next.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import SQUEEZES, Attention, Standardize, batch_mean, is_distributed
from .base import is_recomputing, sign_ste
from .fused import Kernel, fused, fused_mean
from .lsq import LSQActivation
from .record import ActivationRecord, clip, round_ste
from .registry import register_quantizer


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


@register_quantizer("double_st", weights="lsq")
class DoubleStageST(LSQActivation):
    """Double-stage ST: attention sets a range gain g and a threshold shift t for each channel.

    reduction: channels over hidden units of each attention block. momentum: of the running means of g and t.
    t_max: largest threshold shift, in codes. anneal: part of training over which per-sample g and t turn into their
    batch means (0: per sample throughout). squeeze: statistic over the positions (``SQUEEZES``). standardize: give the
    attention how far that statistic is from its mean over the samples, in standard deviations. attention_lr_factor:
    learning rate of the attention as a factor of that of the step. inference: "static" evaluates with the running
    means, "dynamic" with the attention, which is an ablation and has no static record.
    range_stage, threshold_stage: whether stage one and stage two are there. intervals: learn the widths of the
    intervals as well, which has no static record yet.
    """

    def __init__(
        self,
        *args,
        reduction: int = 4,
        momentum: float = 0.02,
        t_max: float = 1.0,
        anneal: float = 0.7,
        squeeze: str = "mean",
        standardize: bool = False,
        attention_lr_factor: float = 1.0,
        inference: str = "static",
        range_stage: bool = True,
        threshold_stage: bool = True,
        intervals: bool = False,
        **common,
    ):
        super().__init__(*args, **common)
        if inference not in ("static", "dynamic"):
            raise ValueError(f"inference='{inference}' must be 'static' or 'dynamic'")
        if squeeze not in SQUEEZES:
            raise ValueError(f"squeeze='{squeeze}' must be one of {', '.join(SQUEEZES)}")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum={momentum} must be above 0 and at most 1")
        if reduction < 1:
            raise ValueError(f"reduction={reduction} must be 1 or more")
        if not 0 <= anneal <= 1:
            raise ValueError(f"anneal={anneal} must be a part of training, from 0 to 1")
        for name, value in (("t_max", t_max), ("attention_lr_factor", attention_lr_factor)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value} must be 0 or more")
        self.momentum, self.t_max, self.anneal, self.inference = momentum, t_max, anneal, inference
        self.squeeze, self.attention_lr_factor = squeeze, attention_lr_factor
        self.range_attention = Attention(self.channels, reduction) if range_stage else None
        self.threshold_attention = Attention(self.channels, reduction) if threshold_stage else None
        self.range_standard, self.threshold_standard = (
            Standardize(self.channels, momentum) if standardize and stage else nn.Identity()
            for stage in (range_stage, threshold_stage)
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
        """Not where the mean over all processes would be asked for again in the middle of their backward passes."""
        return not is_distributed()

    def lr_factor(self, name: str) -> float:
        """Steps learn at their own rate, attention at ``attention_lr_factor`` times that."""
        return self.attention_lr_factor if "attention" in name else 1.0

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
        if self._told or self.anneal == 0 or self.inference != "static" or bool(self.mix):
            return False
        return bool((self.running_gain != 1).any() or (self.running_threshold != 0).any())

    def kernel(self, x: Tensor) -> tuple[Kernel, tuple] | None:
        """The equations above, per-sample g and t annealed towards their batch means; updates the running means."""
        if self.intervals:
            return None
        step = self.step(x)
        ratio = self._per_sample(self._annealed(self._gain(x), self.running_gain) / step, x)
        shift = self._annealed(self._threshold_of(x, ratio), self.running_threshold)
        return rounded_at_thresholds, (ratio, self._per_sample(shift, x), step, self.low, self.high, self.binary)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """``kernel``, or for learned intervals the same operation by operation."""
        if not self.intervals:
            return super().fake_quantize(x)
        gain = self._annealed(self._gain(x), self.running_gain)
        return self._quantize(
            x, self.step(x), gain, lambda v: self._annealed(self._threshold(v), self.running_threshold)
        )

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and threshold shift (in codes) that the attention gives an input of the layer, each (N, C).

        Those of each sample, whatever the annealing and the kind of inference.
        """
        gain = self._gain(x)
        return gain, self._threshold(self._in_steps(x, gain, self.bounded("step")))

    def evaluate(self, x: Tensor) -> Tensor:
        """Static evaluation is that of every quantizer; dynamic evaluation keeps the attention."""
        if self.inference == "dynamic":
            return self._quantize(x, self.bounded("step"), self._gain(x), self._threshold)
        if self.intervals:  # no static record
            gain, threshold = self.running_gain.unsqueeze(0), self.running_threshold.unsqueeze(0)
            return self._quantize(x, self.bounded("step"), gain, lambda _: threshold)
        return super().evaluate(x)

    def _quantize(self, x: Tensor, step: Tensor, gain: Tensor, threshold: Callable[[Tensor], Tensor]) -> Tensor:
        """y of x; gain and ``threshold(v)`` are of shape (samples, C), or (1, C) for all samples."""
        v = self._in_steps(x, gain, step)
        return step * self._code(v - self._per_sample(threshold(v), x))

    def _in_steps(self, x: Tensor, gain: Tensor, step: Tensor) -> Tensor:
        return self._per_sample(gain / step, x) * x

    def record(self) -> ActivationRecord:
        """Gain g/s and shift t from the running means, scale s. Raises ValueError for dynamic or learned intervals."""
        if self.inference == "dynamic":
            raise ValueError("inference='dynamic' has no static record: use inference='static' to freeze or export")
        if self.intervals:
            raise ValueError("intervals=True has no static record yet: use intervals=False to freeze or export")
        step = self.bounded("step")
        return self.make_record(self.running_gain / step, self.running_threshold, step)

    def _code(self, v: Tensor) -> Tensor:
        """Integer code of v, in steps."""
        if not self.intervals or self.binary:
            return self.round(v)
        widths = self.bounded("widths", self.gradient_scale(v))
        begins = self.low + widths.cumsum(0) - widths
        parts = [clip((v - begin) / width, 0, 1) for begin, width in zip(begins, widths, strict=True)]
        return round_ste(sum(parts)) + self.low

    def _gain(self, x: Tensor) -> Tensor:
        if self.range_attention is None:
            return torch.ones_like(self._positions(x)[..., 0])
        z = SQUEEZES[self.squeeze](self._positions(x))
        z = z / (z.abs().mean(-1, keepdim=True) + 1e-6)
        return 2 * torch.sigmoid(self.range_attention(self.range_standard(z)))

    def _threshold(self, v: Tensor) -> Tensor:
        if self.threshold_attention is None:
            return torch.zeros_like(self._positions(v)[..., 0])
        z = SQUEEZES[self.squeeze](self._positions(clip(v, self.low, self.high))) / self.levels
        return self.t_max * torch.tanh(self.threshold_attention(self.threshold_standard(z)))

    def _threshold_of(self, x: Tensor, ratio: Tensor) -> Tensor:
        """``_threshold`` of ``ratio * x``, which is not kept."""
        if self.threshold_attention is None:
            return torch.zeros_like(self._positions(x)[..., 0])
        if self.squeeze != "mean" or x.dim() < 3 or self.channel_axis != 1 - x.dim():
            return self._threshold(ratio * x)
        z = mean_of_clipped.recomputed(x, ratio, self.low, self.high) / self.levels
        return self.t_max * torch.tanh(self.threshold_attention(self.threshold_standard(z)))

    def _annealed(self, value: Tensor, running: Tensor) -> Tensor:
        mean = batch_mean(value)
        if not is_recomputing():
            with torch.no_grad():
                running.lerp_(mean.to(running.dtype), self.momentum)
        return value + self.mix * (mean - value)

    def _positions(self, x: Tensor) -> Tensor:
        """x as (samples, C, positions); a Linear input (N, C) has one position."""
        return x.movedim(self.channel_axis, 1).flatten(2) if x.dim() > 2 else x.unsqueeze(-1)

    def _per_sample(self, value: Tensor, x: Tensor) -> Tensor:
        """View (samples, C) so that it broadcasts over x."""
        before, after = x.dim() + self.channel_axis - 1, -self.channel_axis - 1
        return value.reshape(len(value), *(1,) * before, value.shape[1], *(1,) * after)


@register_quantizer("st", weights="lsq")
class SingleStageST(DoubleStageST):
    """Single-stage ST: stage one alone, the thresholds stay where the step puts them (t = 0)."""

    def __init__(self, *args, **settings):
        super().__init__(*args, threshold_stage=False, **settings)
