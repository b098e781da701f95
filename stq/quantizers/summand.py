"""Quantizers of values that are kept as codes: LSQ (arXiv 1902.08153); for two summands with one step for both.

With one step a sum of codes is the code of the sum, so that the addition is an integer one.
"""

from __future__ import annotations

from torch import Tensor

from .lsq import LSQActivation, initial_step


class ValueQuantizer(LSQActivation):
    """Alone, or one of a pair (see ``summand_pair``) with a sign of its own.

    The step of a pair starts at the larger of what the two would start at.
    """

    def __init__(self, bits: int):
        super().__init__(bits=bits, channels=1, channel_axis=-1, signed=None)
        self.start: Tensor | None = None
        self.other: list[ValueQuantizer] = []  # a list, so that it is no module within this one

    def initialize(self, x: Tensor) -> None:
        """The paper's start on a batch, or the other summand's."""
        self.start = initial_step(x, self.high, self.binary)
        starts = [summand.start for summand in (self, *self.other) if summand.start is not None]
        self.set_positive("step", max(starts))


def summand_pair(bits: int) -> tuple[ValueQuantizer, ValueQuantizer]:
    """Quantizers for the two summands of one addition, which share the parameter of their step."""
    first, second = ValueQuantizer(bits), ValueQuantizer(bits)
    first.other, second.other = [second], [first]
    second.raw_step, second.step_floor = first.raw_step, first.step_floor
    return first, second
