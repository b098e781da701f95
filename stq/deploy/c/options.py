"""What a user chooses of a C export."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError, nearest


@dataclass(frozen=True)
class Options:
    """prefix: of the public names, by default the file's name. flash, ram: bytes that there are, None: any.

    backend: what multiplies, "c99" or "cmsis_nn". container: the least bits that a weight takes (1, 2, 3, 4 or 8).
    pack: whether codes of 1, 2 and 4 bits share bytes in RAM. float: False: no floating point, from pixels to whole
    scores (see ``fixed.py``).
    """

    prefix: str | None = None
    flash: int | None = None
    ram: int | None = None
    backend: str = "c99"
    container: int = 1
    pack: bool = False
    float: bool = True

    def check(self) -> None:
        """Raise InputError for what is not one of the choices, or no number of bytes."""
        for key, size in (("flash", self.flash), ("ram", self.ram)):
            if size is not None and (not isinstance(size, int) or size < 0):
                raise InputError(f"c.{key}={size!r} is not a number of bytes")
        for key, value, choices in (
            ("backend", self.backend, BACKENDS),
            ("container", self.container, CONTAINERS),
            ("pack", self.pack, (True, False)),
            ("float", self.float, (True, False)),
        ):
            if value not in choices:
                raise InputError(f"c.{key}={value!r} is unknown{nearest(value, choices)}: there are {_listed(choices)}")


def _listed(choices: tuple[object, ...]) -> str:
    return ", ".join(map(repr, choices))


BACKENDS, CONTAINERS = ("c99", "cmsis_nn"), (1, 2, 3, 4, 8)
