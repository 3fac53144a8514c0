"""Memory of a server on the card: a custom node for tests, with one route and no nodes.

``GET /memory_probe`` returns the peaks since the last request, in bytes: of PyTorch's allocator, of what dynamic VRAM maps, and
of all that is taken on the card; what is free now; and whether dynamic VRAM is on. The card is read every 20 ms.
"""

import sys
import threading
import time

import torch
from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

NODE_CLASS_MAPPINGS = {}
_peaks = {"mapped": 0, "card": 0}


def _mapped():
    try:
        import comfy_aimdo.control

        return comfy_aimdo.control.get_total_vram_usage()
    except (ImportError, AttributeError):
        return 0


def _watch():
    while True:
        free, whole = torch.cuda.mem_get_info()
        for name, now in (("card", whole - free), ("mapped", _mapped())):
            _peaks[name] = max(_peaks[name], now)
        time.sleep(0.02)


@PromptServer.instance.routes.get("/memory_probe")
async def memory_probe(request):
    management = sys.modules.get("comfy.memory_management")  # since v0.16.0
    found = {"dynamic": bool(getattr(management, "aimdo_enabled", False)), **_peaks}
    if torch.cuda.is_available() and not args.cpu:
        free, whole = torch.cuda.mem_get_info()
        found |= {"torch": torch.cuda.max_memory_allocated(), "free": free, "device": torch.cuda.get_device_name()}
        torch.cuda.reset_peak_memory_stats()
        _peaks.update(card=whole - free, mapped=_mapped())
        if not any(thread.name == "memory_probe" for thread in threading.enumerate()):
            threading.Thread(target=_watch, name="memory_probe", daemon=True).start()
    return web.json_response(found)
