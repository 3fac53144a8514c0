"""ComfyUI's loaded models as a host. Outside of ComfyUI, only modules that do not need it can be imported."""
