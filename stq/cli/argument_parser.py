"""Command lines without Hydra: their mistakes are told as everywhere, in one sentence with the nearest valid name."""

from __future__ import annotations

import argparse
import re
import sys
from typing import NoReturn

from ..errors import nearest


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are one line on stderr and exit status 2."""

    def __init__(self, program: str, **options: object):
        super().__init__(program, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """argparse's sentence, without the usage and with the nearest valid name."""
        if found := re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message):
            option, given, choices = found.groups()
            choices = [choice.strip("'") for choice in choices.split(", ")]
            message = f"{option} {given} is not an option{nearest(given, choices)}: there are {', '.join(choices)}"
        elif found := re.fullmatch(r"unrecognized arguments: (--\w\S*).*", message):
            given = found.group(1).split("=")[0]
            message = f"there is no option {given}{nearest(given, self._option_string_actions)}: see {self.prog} --help"
        else:
            message = f"{message}: see {self.prog} --help"
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)
