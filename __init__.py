"""MC-TI for ComfyUI: teach a loaded Stable Diffusion checkpoint many unnamed things at once, then generate and classify them."""

from importlib.util import find_spec

__all__: list[str] = []

if (
    __package__ and find_spec("comfy_api") is not None
):  # ComfyUI loads the folder as a package; test runners may import this file alone
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
