"""Remove names from a running ComfyUI, and report the errors of a session.

Usage: python private_names_in_comfyui.py COMFYUI_FOLDER
"""

import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from in_comfyui import start, tell


def main(comfyui: str) -> None:
    start(comfyui)
    from comfyui_version import __version__

    from mcti_core.hosts.comfy.private_names import MODULES, check_host, check_patcher

    missing = {}
    for module, names in MODULES.items():
        found = import_module(module)
        for name in names:
            kept = getattr(found, name)
            delattr(found, name)
            missing[f"{module}.{name}"] = said(check_host)
            setattr(found, name, kept)
    tell(
        {
            "version": __version__,
            "missing": missing,
            "all there": said(check_host),
            "dynamic": said(lambda: check_patcher(moving_in_another_way())),
        }
    )


def moving_in_another_way() -> Any:
    """A patcher of a version to come, whose weights come and go by means that nobody here knows."""
    import comfy.ops
    from torch import nn

    from mcti_core.hosts.comfy.private_names import PATCHER

    model = nn.Sequential(comfy.ops.manual_cast.Linear(8, 8))
    return SimpleNamespace(**{**dict.fromkeys(PATCHER), "model": model, "is_dynamic": lambda: True})


def said(check: Any) -> str:
    from mcti_core.errors import HostError

    getattr(check, "cache_clear", lambda: None)()
    try:
        check()
        return ""
    except HostError as error:
        return str(error)


if __name__ == "__main__":
    main(sys.argv[1])
