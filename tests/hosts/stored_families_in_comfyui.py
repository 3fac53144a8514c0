"""Train with text encoders and diffusion models of other families whose weights are stored in eight bits.

Usage: python stored_families_in_comfyui.py COMFYUI_FOLDER NAME

NAME is a key of ``small_families.FAMILIES`` without CLIP. Prints a line of JSON: how far the tokens are from those of the same numbers
in float32, and the slope of the loss over what its gradient says.
"""

import json
import sys
from typing import Any

import torch
from families_in_comfyui import check_gradients
from in_comfyui import start, tell
from stored_in_comfyui import apart, train

FEW = torch.float8_e4m3fn
MATRICES = (
    ".q.weight",
    ".k.weight",
    ".v.weight",
    ".o.weight",
    ".wi_0.weight",
    ".wi_1.weight",
    ".wo.weight",
    "_proj.weight",
)
"""Of the blocks of T5 and of Qwen."""


def main(comfyui: str, name: str) -> None:
    start(comfyui)
    from small_families import small_family

    found = {"stored": compared(small_family(name, dtype=FEW), small_family(name, dtype=FEW, stored=False))}
    found["stored"]["weights"] = found["stored"].pop("of few bits")
    tell({**found, "quantised": quantised(name)})


def compared(model_clip_vae: Any, right: Any) -> dict[str, Any]:
    from mcti_core.hosts.comfy.host import comfy_host

    model, clip, vae = model_clip_vae
    with torch.inference_mode(False), torch.no_grad():
        slope = check_gradients(comfy_host(clip, model, vae), length=1e-3)["slope"]
    return {
        "apart": apart(train(model, clip, vae, None), train(*right, None)),
        "slope": slope,
        "of few bits": sum(weight.dtype == FEW for weight in clip.cond_stage_model.parameters()),
    }


def quantised(name: str) -> dict[str, Any]:
    """A CLIP whose matrices are scaled and in eight bits, as most files of T5 and Qwen for small cards."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
    from small_families import small_family

    model, clip, vae = small_family(name)
    stored = dict(clip.cond_stage_model.state_dict())
    meant = dict(clip.cond_stage_model.named_parameters())
    layout = QUANT_ALGOS["float8_e4m3fn"]["comfy_tensor_layout"]
    for key in [key for key in stored if key.endswith(MATRICES)]:
        tensor = QuantizedTensor.from_float(stored[key].float().contiguous(), layout)
        stored.pop(key)
        stored |= dict(tensor.state_dict(key).items())
        note = json.dumps({"format": "float8_e4m3fn"}).encode()
        stored[f"{key.removesuffix('weight')}comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
        with torch.inference_mode():
            meant[key].copy_(tensor.dequantize())
    few = small_family(name, text=stored)
    quantised_modules = [
        m for m in few[1].cond_stage_model.modules() if isinstance(getattr(m, "weight", None), QuantizedTensor)
    ]
    return {**compared(few, (model, clip, vae)), "matrices": len(quantised_modules)}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
