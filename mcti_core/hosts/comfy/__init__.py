"""ComfyUI's loaded models as a host. Only what needs no ComfyUI can be imported outside of it."""
