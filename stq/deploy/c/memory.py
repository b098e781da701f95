"""Where the values of a network lie in one block of memory: those that are alive at the same time do not overlap."""

from __future__ import annotations

from dataclasses import dataclass

_ALIGNED = 4


@dataclass
class Value:
    """A value of so many bytes, alive from the step that writes it to the last step that reads it."""

    name: str
    bytes: int
    first: int
    last: int


def place(values: list[Value]) -> tuple[dict[str, int], int]:
    """The offset of each value in bytes, multiples of 4, and the bytes of the whole block.

    Largest first, each at the lowest place that is free while it is alive.
    """
    offsets: dict[str, int] = {}
    placed: list[tuple[Value, int]] = []
    for value in sorted(values, key=lambda value: (-value.bytes, value.first)):
        size = -(-value.bytes // _ALIGNED) * _ALIGNED
        busy = sorted(
            (offset, offset + -(-other.bytes // _ALIGNED) * _ALIGNED)
            for other, offset in placed
            if other.first <= value.last and value.first <= other.last
        )
        start = 0
        for begin, end in busy:
            if start + size <= begin:
                break
            start = max(start, end)
        offsets[value.name] = start
        placed.append((value, start))
    total = max((offset + -(-value.bytes // _ALIGNED) * _ALIGNED for value, offset in placed), default=0)
    return offsets, total
