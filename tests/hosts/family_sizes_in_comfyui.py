"""Build families at their real sizes, without data, with ComfyUI's own classes.

Usage: python family_sizes_in_comfyui.py COMFYUI_FOLDER

Prints a line of JSON by family: whether ComfyUI detects the denoiser's configuration in its weights, the number of its weights, and the
widths of the text encoders' token tables.
"""

import sys

from in_comfyui import start, tell


def main(comfyui: str) -> None:
    start(comfyui)
    import torch
    from comfy.model_detection import detect_unet_config

    from benchmarks.families import FAMILIES, build

    found = {}
    for name, family in FAMILIES.items():
        denoiser, encoders = build(family, torch.bfloat16)
        weights = denoiser.state_dict()
        detected = detect_unet_config(weights, "")
        found[name] = {
            "differences": [key for key in family.denoiser if detected.get(key) != family.denoiser[key]],
            "billions": sum(weight.numel() for weight in weights.values()) / 1e9,
            "widths": {key: e.transformer.get_input_embeddings().weight.shape[1] for key, e in encoders.items()},
        }
    tell(found)


if __name__ == "__main__":
    main(sys.argv[1])
