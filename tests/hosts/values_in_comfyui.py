"""Give every input of every node values of all kinds, as links may, and record the results.

Usage: python values_in_comfyui.py COMFYUI_FOLDER COUNT

Prints a line of JSON: how many values of each kind of input were taken and refused, and what broke the law.
"""

import asyncio
import json
import logging
import math
import os
import re
import sys
import time
import unicodedata
from collections import Counter
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

PACK = Path(__file__).resolve().parents[2]
TEXTS = (
    "", "x", "both", "object", "a\nb", "a\0b", "\ud800", "\x1b[2J", "x" * 5001, "x" * 100_001, "../..", "猫", "a\u202eb", "nan", "{}", "\x85", "\u2028", "x" + "\u0301\u0316" * 2000, "y" * 4000,
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 8, 64, 65, 257, 4096, 2**31, 2**40, 2**64, -(2**62), 10**5000, 0.5, 1.0, -0.1, 1e300, math.nan, math.inf, -math.inf, 1e-9,
)  # fmt: skip


def main(comfyui: Path, count: int) -> None:
    sys.path[:] = [
        str(comfyui),
        *(path for path in sys.path if Path(path).resolve() not in (PACK, Path(__file__).parent)),
    ]
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    logging.disable(logging.WARNING)
    import utils.extra_config  # noqa: F401 - first, as in the host's main.py, or another "utils" is found

    # isort: split
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(PACK)))
    kinds = {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("MCTI_")}
    (checking,) = [
        module
        for name, module in sys.modules.items()
        if name.endswith("mcti.nodes.checking") or name.endswith(".nodes.checking")
    ]
    print(
        json.dumps(
            {
                **held(kinds, checking, count),
                "looked for": looked_for(sys.modules[checking.Node.__module__[:-8] + "folders"]),
            }
        )
    )


def looked_for(folders: Any) -> list[str]:
    """Of folders outside that a graph names, those that are looked for: on Windows that is a log-in at somebody's server."""
    found: list[str] = []
    follow = os.path.realpath
    os.path.realpath = lambda path: found.append(str(path)) or follow(path)
    for name in ("/elsewhere/share", "//elsewhere/share", "../../elsewhere/share", "x/../../../elsewhere"):
        with suppress(folders.ExamplesError):
            folders.example_folder(name)
    os.path.realpath = follow
    return [path for path in found if "elsewhere" in path]


def held(kinds: dict[str, Any], checking: Any, count: int) -> dict[str, Any]:
    random, found, broken = Random("links"), Counter[str](), []
    inputs = [
        (name, node, each, node.define_schema().is_input_list)
        for name, node in kinds.items()
        for each in node.define_schema().inputs
    ]
    slowest = 0.0
    for _ in range(count):
        name, node, each, lists = random.choice(inputs)
        value = any_value(random, each, lists)
        kind, begun = str(each.get_io_type()), time.perf_counter()
        try:
            taken = (checking._checked_list if lists else checking._checked)(each, value, node)
        except sys.modules[checking.ConfigError.__module__].MCTIError as error:
            found[f"{kind} refused"] += 1
            if len(str(error)) > 1000 or not str(error).isprintable():
                broken.append(f"{name}.{each.id}: {error!r:.300}")
        except Exception as error:
            broken.append(f"{name}.{each.id} with {type(value).__name__}: {error!r:.300}")
        else:
            found[f"{kind} taken"] += 1
            broken += [
                f"{name}.{each.id} took {item!r:.100}"
                for item in (taken if isinstance(taken, list) else [taken])
                if not right(each, item, node)
            ]
        slowest = max(slowest, time.perf_counter() - begun)
    return {
        "found": found,
        "broken": broken[:20],
        "slowest": slowest,
        "nothing": nothing(checking),
    }


def nothing(checking: Any) -> list[str]:
    """Train's advanced widgets for which nothing, through a link, is not the default."""
    train_settings = import_module(f"{checking.__package__}.train_settings")
    widgets = train_settings.setting_inputs()

    class Widgets(checking.Node):
        @classmethod
        def define_schema(cls) -> Any:
            return SimpleNamespace(inputs=widgets, is_input_list=False)

        @classmethod
        def execute(cls, **values: Any) -> Any:
            return train_settings.settings_of(**values)

    by_default = Widgets.execute(**{each.id: each.default for each in widgets})
    return [each.id for each in widgets if Widgets.execute(**{each.id: None}) != by_default]


def any_value(random: Random, each: Any, lists: bool) -> Any:
    import torch

    own = [each.min, each.max, each.min - 1, each.max + 1] if getattr(each, "max", None) is not None else []
    own += list(getattr(each, "options", None) or [])
    choices = [
        *NUMBERS, *TEXTS, *own, None, True, False, [], ["x"], {}, b"x", object(), 1 + 2j, torch.ones(1, 8, 8, 3), torch.ones(1, 8, 8, 2), torch.ones(8, 8, 3),
        torch.full((1, 8, 8, 3), math.nan), torch.ones(0, 8, 8, 3), torch.tensor(3), torch.ones(1, 8, 8, 3, dtype=torch.int64), torch.full((1, 8, 8, 3), 255.0), torch.full((1, 8, 8, 3), -1.0), torch.full((1, 8, 8, 3), 1.1),
        torch.full((1, 8, 8, 3), 255, dtype=torch.uint8),
    ]  # fmt: skip
    value = random.choice(own) if own and random.random() < 0.3 else random.choice(choices)
    return [value] * random.choice((0, 1, 3)) if lists and random.random() < 0.8 else value


def right(each: Any, value: Any, node: Any) -> bool:
    """Whether a value is one that the schema allows, said in other words than those that are tested."""
    import torch

    kind = str(each.get_io_type())
    if value is None:
        return bool(each.optional)
    if kind in ("INT", "FLOAT"):
        low, high = (-math.inf if each.min is None else each.min), (math.inf if each.max is None else each.max)
        return type(value) is {"INT": int, "FLOAT": float}[kind] and low <= value <= high
    if kind == "BOOLEAN":
        return value is True or value is False
    if kind == "COMBO":
        return value in each.options or (each.id in node.LOOKED_UP and isinstance(value, str) and "\0" not in value)
    if kind == "STRING":
        allowed = "\n\r\t" if each.multiline or each.id == "wanted" else ""
        if re.search("[\u0301\u0316]{31}", value):
            return False
        plain = all(c in allowed or unicodedata.category(c) not in ("Cc", "Cs") for c in value)
        return isinstance(value, str) and len(value) <= 100_000 and (plain or bool(each.force_input))
    if kind == "IMAGE":
        return (
            isinstance(value, torch.Tensor)
            and value.ndim == 4
            and value.numel() > 0
            and bool(((value >= -0.5) & (value <= 1.5)).all())
            and value.is_floating_point()
        )
    return not isinstance(value, (str, int, float, list, dict, torch.Tensor))


main(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
