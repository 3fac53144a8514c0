"""Load the pack as ComfyUI does and report the packages that it imports beyond ComfyUI's own.

Usage: python imports_in_comfyui.py COMFYUI_FOLDER

Prints a line of JSON: names of packages, seconds of the processor, and how many nodes there are.
"""

import asyncio
import json
import logging
import sys
import time
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]


def main(comfyui: Path) -> None:
    sys.path[:] = [
        str(comfyui),
        *(path for path in sys.path if Path(path).resolve() not in (PACK, Path(__file__).parent)),
    ]
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    logging.disable(logging.WARNING)
    import utils.extra_config  # noqa: F401 - first, as in the host's main.py, or another "utils" is found

    # isort: split
    import server  # noqa: F401

    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())  # what the host imports before it loads packs is not ours

    before, known = set(sys.modules), set(nodes.NODE_CLASS_MAPPINGS)
    started = time.process_time()
    assert asyncio.run(nodes.load_custom_node(str(PACK)))
    seconds = time.process_time() - started
    added = {name.split(".")[0] for name in set(sys.modules) - before if not name.startswith(str(PACK))}
    packages = sorted(added - set(sys.stdlib_module_names))
    told = {"packages": packages, "seconds": round(seconds, 3), "nodes": len(set(nodes.NODE_CLASS_MAPPINGS) - known)}
    print(json.dumps(told))


main(Path(sys.argv[1]).resolve())
