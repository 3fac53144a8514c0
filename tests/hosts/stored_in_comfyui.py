"""Train with weights that are stored in eight or four bits, and with models that are loaded part by part.

Usage: python stored_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER

Stable Diffusion 1.5, and parts of 3, with random weights. Prints a line of JSON: by way of storing, how far the tokens are from
those of the same numbers stored plainly, the slope of the loss over what its gradient says, and whether answers are numbers.
"""

import json
import sys
from pathlib import Path
from typing import Any

import dynamic_vram_in_comfyui
import torch
from dynamic_vram_in_comfyui import classify
from families_in_comfyui import check_gradients
from in_comfyui import gap, load_checkpoint, start, tell
from synthetic_checkpoints import write_sd3, write_sd15
from torch import Tensor

FORMATS = ("float8_e4m3fn", "int8_tensorwise", "nvfp4", "mxfp8")
STEPS = 3
UNET = "model.diffusion_model."
STORED = (".to_q.weight", "attn1.to_k.weight", ".to_v.weight", ".to_out.0.weight", ".ff.net.2.weight")
"""Not what the host tells the family of a checkpoint by."""


def main(comfyui: str, folder: Path) -> None:
    start(comfyui)
    import comfy.utils

    path = write_sd15(folder / "sd15.ckpt")
    weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    plain = load_checkpoint(path)
    tell(
        {
            "quantised": {name: quantised(weights, plain, name) for name in FORMATS},
            "stored": {"float8_e4m3fn": eight_bits(weights, plain)},
            "split": {"sd15": split_sd15(weights, folder), "sd3": split_sd3(folder)},
        }
    )


def train(*parts: Any) -> dict[str, Tensor]:
    return dynamic_vram_in_comfyui.train(*parts, steps=STEPS)


def quantised(weights: dict[str, Tensor], plain: Any, name: str) -> dict[str, Any]:
    """A UNet whose matrices ComfyUI has quantised, against one of the numbers that they stand for."""
    import comfy.sd
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    if name not in QUANT_ALGOS:
        return {"lacking": f"this ComfyUI has no {name}"}
    layout, stored, meant = QUANT_ALGOS[name]["comfy_tensor_layout"], dict(weights), dict(weights)
    try:
        for key in [key for key in weights if key.startswith(UNET) and key.endswith(STORED)]:
            tensor = QuantizedTensor.from_float(weights[key].float().contiguous(), layout)
            prefix = key.removesuffix("weight")
            stored.pop(key)
            stored |= {part: value for part, value in tensor.state_dict(key).items()}
            stored[f"{prefix}comfy_quant"] = torch.tensor(
                list(json.dumps({"format": name}).encode()), dtype=torch.uint8
            )
            meant[key] = tensor.dequantize()
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return {"lacking": f"{type(error).__name__}: {error}"[:300]}
    found: dict[str, Any] = {}
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(unprefixed(stored, UNET), {"dtype": torch.float32})
        right = comfy.sd.load_diffusion_model_state_dict(unprefixed(meant, UNET), {"dtype": torch.float32})
    quantised_modules = [m for m in model.model.modules() if isinstance(getattr(m, "weight", None), QuantizedTensor)]
    found["matrices"] = len(quantised_modules)
    expected = train(right, *plain[1:], None)
    for whole, kind in ((False, "apart, where the card multiplies in few bits"), (True, "apart")):
        for module in quantised_modules:
            module._full_precision_mm = whole
        found[kind] = apart(train(model, *plain[1:], None), expected)
    return {**found, **checked(model, plain)}


def eight_bits(weights: dict[str, Tensor], plain: Any) -> dict[str, Any]:
    """A UNet whose weights are stored as they are in eight bits, as UNETLoader's weight_dtype does."""
    import comfy.sd

    few = torch.float8_e4m3fn
    unet = unprefixed(weights, UNET)
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(dict(unet), {"dtype": few})
        meant = {
            name: w.to(few).float() if name in set(model.model.diffusion_model.state_dict()) else w
            for name, w in unet.items()
        }
        right = comfy.sd.load_diffusion_model_state_dict(meant, {"dtype": torch.float32})
    found = {"matrices": sum(p.dtype == few for p in model.model.parameters())}
    found["apart"] = apart(train(model, *plain[1:], None), train(right, *plain[1:], None))
    return {**found, **checked(model, plain)}


def checked(model: Any, plain: Any) -> dict[str, Any]:
    from mcti_core.hosts.comfy.host import comfy_host

    with torch.inference_mode(False), torch.no_grad():
        slope = check_gradients(comfy_host(plain[1], model, plain[2]))["slope"]
    scores = classify(model, *plain[1:], None)
    return {"slope": slope["clip_l"], "classified": bool(scores.isfinite().all())}


def split_sd15(weights: dict[str, Tensor], folder: Path) -> float:
    """UNETLoader, CLIPLoader and VAELoader, against the checkpoint that the parts are of."""
    import comfy.sd
    import comfy.utils

    parts = {
        "unet": unprefixed(weights, UNET),
        "clip": unprefixed(weights, "cond_stage_model.transformer."),
        "vae": unprefixed(weights, "first_stage_model."),
    }
    for name, part in parts.items():
        torch.save(part, folder / f"{name}.ckpt")
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model(str(folder / "unet.ckpt"))
        clip = comfy.sd.load_clip([str(folder / "clip.ckpt")])
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(folder / "vae.ckpt"), safe_load=True))
    return apart(train(model, clip, vae, None), train(*whole(folder / "sd15.ckpt")))


def split_sd3(folder: Path) -> float:
    """UNETLoader, DualCLIPLoader and VAELoader."""
    import comfy.sd
    import comfy.utils

    path = write_sd3(folder / "sd3.ckpt")
    weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    for name in ("clip_l", "clip_g"):
        torch.save(unprefixed(weights, f"text_encoders.{name}.transformer."), folder / f"{name}.ckpt")
    torch.save(unprefixed(weights, UNET), folder / "mmdit.ckpt")
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model(str(folder / "mmdit.ckpt"))
        files = [str(folder / f"{name}.ckpt") for name in ("clip_l", "clip_g")]
        clip = comfy.sd.load_clip(files, clip_type=comfy.sd.CLIPType.SD3)
        vae = comfy.sd.VAE(sd=unprefixed(weights, "first_stage_model."))
    return apart(train(model, clip, vae, None), train(*whole(path)))


def whole(path: Path) -> Any:
    """By the checkpoint loader, with text towers as deep as they are."""
    import comfy.sd

    with torch.inference_mode():
        return (*comfy.sd.load_checkpoint_guess_config(str(path))[:3], None)


def unprefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(gap(a[name], b[name]) / float(b[name].abs().max()) for name in b)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
