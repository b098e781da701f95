"""Export to C99 for microcontrollers: one header and one source, no allocation, static memory.

Sums of all layers are integers; where a layer's output goes to a quantizer alone, its codes come of one multiplication
and one shift and no floating point is met at all. Floating point is left where the network itself keeps real numbers:
the input (unless pixels are given), residual additions, averages, the scores.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from ...errors import InputError
from ..about import About, checksum
from ..integer.thresholds import fuse
from ..network import Network
from .integers import with_tables
from .options import Options
from .program import HEADER, MAIN, PIXELS, PREPARED, SOURCE
from .writer import FixedWriter, Writer

_CODE = 5_000  # bytes of the instructions of a common network on a Cortex-M


def export_c(
    network: Network, input_size: tuple[int, ...], path: Path, about: About, **options: str | int | None
) -> Path:
    """Write ``path`` (a .h) and, beside it, the source of the same name (.c); options: fields of ``Options``.

    Raises InputError for what C lacks, a prefix that is no name in C, or a network that does not fit.
    """
    chosen = Options(**options)
    chosen.check()
    path = path.with_suffix(".h")
    prefix = str(chosen.prefix or re.sub(r"\W", "_", path.stem))
    if re.search(r'["\\\n]', path.name):
        raise InputError(f"{path.name!r} cannot be included by a source in C: leave quotes and backslashes out")
    if not re.fullmatch(r"[A-Za-z_]\w*", prefix):
        raise InputError(f"c.prefix={prefix} is not a name in C: use letters, digits and _, no digit first")
    kind = Writer if chosen.float else FixedWriter
    writer = kind(fuse(with_tables(network, input_size), input_size), input_size, about, chosen)
    body, ram = writer.write()
    _check_fit(chosen, writer, ram)
    names = {
        "prefix": prefix,
        "upper": prefix.upper(),
        "stem": path.stem,
        "inputs": math.prod(input_size),
        "outputs": writer.size(network.output),
        "constants": sum(writer.flash.values()),
        "memory": ram,
    }
    facts = {**about.entries(), "stq.checksum": checksum(body.encode())}
    said = "".join(f" * {key}: {value.replace('*/', '* /')}\n" for key, value in facts.items())
    names |= {"real": writer.real, "about": said}
    doors = [door for door, there in ((PREPARED, chosen.float), (PIXELS, writer.pixels)) if there]
    declared = "\n".join(door.declaration.substitute(names, scores=writer.scores()) for door in doors)
    path.write_text(HEADER.substitute(names, declared=declared))
    source = SOURCE.substitute(names, body=body, math="#include <math.h>\n" if "math" in writer.used else "")
    source += "".join(door.definition.substitute(names) for door in doors)
    path.with_suffix(".c").write_text(source + MAIN.substitute(names, door=doors[0].suffix, input=doors[0].input))
    return path


def _check_fit(options: Options, writer: Writer, ram: int) -> None:
    """Raise InputError, naming the largest layer, where constants or memory are more than there is."""
    constants = sum(writer.flash.values())
    if options.flash is not None and constants + _CODE > options.flash:
        name, size = max(writer.flash.items(), key=lambda item: item[1])
        raise InputError(
            f"the network takes {constants:,} bytes of flash and about {_CODE:,} for its code, and there are "
            f"{options.flash:,}: '{name}' has the most, {size:,}; fewer bits for weights, or a narrower network, helps"
        )
    if options.ram is not None and ram > options.ram:
        name = max(writer.types, key=lambda name: writer.bytes_of(name))
        raise InputError(
            f"the network takes {ram:,} bytes of RAM, and there are {options.ram:,}: the largest value is that of "
            f"'{name}', {writer.bytes_of(name):,}; smaller images, residual_bits=8 (additions of codes) or c.pack=true "
            "helps"
        )
