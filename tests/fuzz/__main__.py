"""Feed damaged and hostile inputs to every reader of files, settings, names, prompts and options and every writer of outputs; stop at the first that is not refused properly.

    python -m tests.fuzz --token-files 10000 --images 2000 --settings 1000 --prompts 2000 --folders 1000 --options 2000 --outputs 2000

Every input must give a result or an ``MCTIError`` (at the command line also exit code 2), within five seconds of the processor and a bound of memory, run
nothing, and write nothing outside its folder. Inputs are read in a process of their own, so that a hang or a crash is seen too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .properties import KINDS
from .runner import fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    for kind, count in zip(KINDS, (10_000, 2_000, 1_000, 2_000, 1_000, 2_000, 2_000), strict=True):
        parser.add_argument(f"--{kind.replace(' ', '-')}", type=int, default=count)
    parser.add_argument(
        "--seed",
        default="0",
        help="another seed makes other inputs; the one of a failure makes that one alone, with --only",
    )
    parser.add_argument("--only", type=int, help="this input of each kind alone")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-failure"), help="where an input that breaks the law is kept"
    )
    given = parser.parse_args()
    for kind in KINDS:
        count = getattr(given, kind.replace(" ", "_"))
        numbers = [given.only] if given.only is not None else list(range(count))
        if count and not fuzz(kind, given.seed, numbers, given.keep):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
