"""Run a synthetic checkpoint through ComfyUI's stock nodes, and print the detected model and its outputs.

Usage: python synthetic_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER NAME

NAME is a key of CHECKPOINTS or CLIPS. Prints a line of JSON. A process of its own, because ComfyUI reads its command
line, warns as it likes and has modules with names as common as ours.
"""

import json
import logging
import re
import sys
from pathlib import Path

import torch
from synthetic_checkpoints import CLIPS, write_clip, write_sd3, write_sd15, write_sd20, write_sdxl

CHECKPOINTS = {
    "sd15": write_sd15,
    "sd15 full": lambda path: write_sd15(path, full=True),
    "sd20": write_sd20,
    "sd20 base": lambda path: write_sd20(path, v_prediction=False),
    "sdxl": write_sdxl,
    "sd3": write_sd3,
}
PROMPTS = ("a photo of a cat on a red chair", "two boats at night")


def main(comfyui: Path, folder: Path, name: str) -> None:
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import nodes  # noqa: F401 - what it says of packages that are missing is not wanted below

    messages = Messages()
    logging.getLogger().addHandler(messages)
    logging.getLogger().setLevel(logging.DEBUG)
    with torch.inference_mode():  # as the server runs every node
        told = describe_clip(folder, name) if name in CLIPS else describe_checkpoint(folder, name)
    print(json.dumps({**told, "messages": messages.about_weights}))


class Messages(logging.Handler):
    """Keeps what the loaders say of weights that lack or are too many; some of it they say at debug level only."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.about_weights: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if re.search("missing|unexpected|left ?over|uninitialized", text, re.IGNORECASE):
            self.about_weights.append(text)


def describe_checkpoint(folder: Path, name: str) -> dict:
    import nodes

    file = CHECKPOINTS[name](folder / "checkpoint.ckpt")
    offer("checkpoints", folder)
    model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint(file.name)
    conditions = [nodes.CLIPTextEncode().encode(clip, prompt)[0] for prompt in PROMPTS]
    (context, first), (other, second) = conditions[0][0], conditions[1][0]
    latent = {"samples": torch.zeros(1, vae.latent_channels, 8, 8)}
    samples = [sample(model, condition, latent) for condition in conditions]
    images = [nodes.VAEDecode().decode(vae, found)[0] for found in samples]
    noise = torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    encoded = nodes.VAEEncode().encode(vae, noise)[0]["samples"]
    early, late = (evaluate(model, context, first["pooled_output"], timestep) for timestep in (900.0, 100.0))
    return {
        "class": type(model.model.model_config).__name__,
        "type": model.model.model_type.name,
        "context": list(context.shape),
        "pooled": list(first["pooled_output"].shape),
        "own storage": has_own_storage(model.model.diffusion_model) and has_own_storage(clip.cond_stage_model),
        "differences": {
            "context": difference(context, other),
            "pooled": difference(first["pooled_output"], second["pooled_output"]),
            "tokens": difference(context[:, 1:4], context[:, 2:5]),
            "timestep": difference(early, late),
            "samples": difference(samples[0]["samples"], samples[1]["samples"]),
            "images": difference(images[0], images[1]),
        },
        "spreads": {"encoded": model.model.process_latent_in(encoded).std().item(), "image": images[0].std().item()},
    }


def offer(kind: str, folder: Path) -> None:
    """Lets the loader nodes find the folder's files."""
    import folder_paths

    folder_paths.add_model_folder_path(kind, str(folder))


def sample(model, condition, latent: dict) -> dict:
    import nodes

    return nodes.KSampler().sample(model, 0, 2, 1.0, "euler", "normal", condition, condition, latent)[0]


def evaluate(model, context: torch.Tensor, pooled: torch.Tensor, timestep: float) -> torch.Tensor:
    """What the network itself answers, without the wrapping that depends on the timestep in any case."""
    noise = torch.randn(1, model.model.latent_format.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    classes = torch.zeros(1, model.model.adm_channels) if model.model.adm_channels else None
    return model.model.diffusion_model(noise, torch.tensor([timestep]), context=context, y=classes)


def describe_clip(folder: Path, name: str) -> dict:
    import nodes

    file = write_clip(folder / "clip.bin", name)
    offer("clip_vision", folder)
    vision = nodes.CLIPVisionLoader().load_clip(file.name)[0]
    images = torch.rand(2, 64, 48, 3, generator=torch.Generator().manual_seed(0))
    features = vision.encode_image(images)
    return {
        "class": type(vision.model).__name__,
        "embeds": list(features["image_embeds"].shape),
        "hidden": list(features["last_hidden_state"].shape),
        "own storage": has_own_storage(vision.model),
        "differences": {"image": difference(*features["image_embeds"])},
    }


def has_own_storage(module: torch.nn.Module) -> bool:
    """Overlapping windows must not get into the model: it could not be patched in place."""
    return all(p.untyped_storage().nbytes() == p.nbytes and p.is_contiguous() for p in module.parameters())


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two answers, beside their own size; not a number where either is not finite."""
    return ((a - b).norm() / (a.norm() * b.norm()).sqrt()).item()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
