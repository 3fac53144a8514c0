"""Give the adapter unusable models inside ComfyUI, and a CLIP file that it can use.

Usage: python refusals_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER

Prints a line of JSON: what each refusal said, and what a training on the classification term gave.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from in_comfyui import changes, gap, generator, load_checkpoint, snapshot, start, tell
from synthetic_checkpoints import write_clip, write_sd3, write_sd15, write_sd20, write_sdxl

WORDS = "embeddings.token_embedding.weight"
OPEN_CLIP = {
    "vision_model.encoder.layers": "visual.transformer.resblocks",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings": "visual",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}
"""How OpenCLIP names what transformers names."""


def main(comfyui: str, folder: Path) -> None:
    start(comfyui)
    sd15 = load_checkpoint(write_sd15(folder / "sd15.ckpt"))
    found = {**refuse_files(folder, sd15), **use_clip_file(folder, sd15), **compare_layouts(folder)}
    tell({**found, **refuse_models(folder, sd15)})


def said(call: Any, *args: Any) -> str:
    from mcti_core.errors import HostError

    try:
        call(*args)
    except HostError as error:
        return str(error)
    return ""


# -- CLIP files ----------------------------------------------------------------------------------------------------------


def refuse_files(folder: Path, sd15: Any) -> dict[str, str]:
    from mcti_core.hosts.comfy.clip_space import load_clip_file
    from mcti_core.hosts.comfy.host import comfy_host

    write_clip(folder / "whole.bin")
    weights = torch.load(folder / "whole.bin")["state_dict"]
    without = {
        "no vision": [name for name in weights if name.startswith("vision_model.")],
        "no projections": ["visual_projection.weight", "text_projection.weight"],
        "no text projection": ["text_projection.weight"],
    }
    heard = {}
    for name, left_out in without.items():
        torch.save({k: w for k, w in weights.items() if k not in left_out}, folder / f"{name}.bin")
        heard[name] = said(load_clip_file, folder / f"{name}.bin")
    (folder / "broken.safetensors").write_bytes(b"not a model")
    heard["broken"] = said(load_clip_file, folder / "broken.safetensors")
    narrow = {k: w for k, w in weights.items() if not k.startswith(("text_model.", "text_projection."))}
    torch.save({**narrow, "text_projection.weight": torch.zeros(768, 512)}, folder / "narrow.bin")
    for name in ("whole", "narrow"):
        heard[name] = said(comfy_host, sd15[1], None, None, load_clip_file(folder / f"{name}.bin"))
    return {"files": heard}


def use_clip_file(folder: Path, sd15: Any) -> dict[str, Any]:
    """The file whose words are the checkpoint's own, and one without words."""
    from mcti_core.hosts.comfy.clip_space import load_clip_file
    from mcti_core.hosts.comfy.host import comfy_host

    weights = torch.load(folder / "whole.bin")["state_dict"]
    own = torch.load(folder / "sd15.ckpt")["state_dict"][f"cond_stage_model.transformer.text_model.{WORDS}"]
    torch.save({**weights, f"text_model.{WORDS}": own}, folder / "own.bin")
    torch.save({k: w for k, w in weights.items() if not k.startswith("text_model.")}, folder / "wordless.bin")
    with torch.inference_mode():
        file, wordless = load_clip_file(folder / "own.bin"), load_clip_file(folder / "wordless.bin")
    with torch.inference_mode(False), torch.no_grad():
        host = comfy_host(sd15[1], clip_file=file)
        return {
            "without words": said(comfy_host, sd15[1], None, None, wordless),
            "projection": gap(host.clip.project_text(torch.eye(768)).T, weights["text_projection.weight"]),
            **train_a_little(host, sd15[1], file),
        }


def train_a_little(host: Any, clip: Any, file: Any) -> dict[str, Any]:
    """On telling two images apart alone."""
    from mcti_core.classifiers.clip import ClipClassifier
    from mcti_core.data.dataset import FewShotDataset
    from mcti_core.data.feature_cache import FeatureCache
    from mcti_core.training.initial import new_tokens
    from mcti_core.training.loop import TrainConfig, train

    images = torch.rand(2, 3, 64, 64, generator=generator(3))
    images[1] = images[1, :1] > 0.5
    dataset = FewShotDataset.from_images({"first": images[:1], "second": images[1:]})
    config = TrainConfig(
        steps=12, lr=0.02, reconstruction_weight=0.0, gamma=1.0, lr_warmup_steps=0, templates=("a photo of a {}",)
    )
    cache = FeatureCache.build(host, dataset, hflip=False, size=64)
    with torch.inference_mode():  # as the host's own node, whose way to scale images is another
        square = torch.nn.functional.interpolate(images, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        stock = file.vision.encode_image(square.movedim(1, -1))["image_embeds"]
    before = snapshot(clip=clip, vision=file.vision)
    result = train(host, cache, new_tokens(host, dataset.classes, initializer_token="random"), config)
    different = changes(before, snapshot(clip=clip, vision=file.vision))
    classifier = ClipClassifier(host, result.tokens)
    return {
        "features": gap(cache.features[:, 0], torch.nn.functional.normalize(stock.float(), dim=-1)),
        "losses": [result.history["loss"][0], result.history["loss"][-1]],
        "recognised": classifier.scores(images).logits.argmax(1).tolist(),
        "different": different,
    }


def compare_layouts(folder: Path) -> dict[str, float]:
    """The same model as transformers writes it and as OpenCLIP does."""
    from mcti_core.hosts.comfy.clip_space import load_clip_file

    files = []
    for name, weights in zip(("theirs.bin", "open.bin"), in_both_layouts(folder), strict=True):
        torch.save(weights, folder / name)
        files.append(load_clip_file(folder / name))
    with torch.inference_mode():
        pixels = torch.rand(1, 224, 224, 3, generator=generator())
        features = [file.vision.encode_image(pixels)["image_embeds"] for file in files]
    return {
        "layouts": {
            "features": gap(*features),
            "projection": gap(*(file.text_projection for file in files)),
            "words": gap(*(torch.stack(list(file.rows.values())) for file in files)),
        }
    }


def in_both_layouts(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """OpenCLIP holds queries, keys and values in one tensor, and projections the other way round."""
    theirs = torch.load(folder / "whole.bin")["state_dict"]
    ours = {
        "token_embedding.weight": theirs[f"text_model.{WORDS}"],
        "text_projection": theirs["text_projection.weight"].T,
        "visual.proj": theirs["visual_projection.weight"].T,
    }
    for name, weight in list(theirs.items()):
        if not name.startswith("vision_model.") or name.split(".")[-2] in ("q_proj", "k_proj", "v_proj"):
            continue
        for old, new in OPEN_CLIP.items():
            name = name.replace(old, new)
        ours[name] = weight
    for layer in range(24):
        for kind in ("weight", "bias"):  # the first layer of the perceptron has enough rows, of the right spread
            rows = theirs[f"vision_model.encoder.layers.{layer}.mlp.fc1.{kind}"][: 3 * 1024]
            ours[f"visual.transformer.resblocks.{layer}.attn.in_proj_{kind}"] = rows
            for name, part in zip(("q_proj", "k_proj", "v_proj"), rows.chunk(3), strict=True):
                theirs[f"vision_model.encoder.layers.{layer}.self_attn.{name}.{kind}"] = part
    return theirs, ours


# -- models --------------------------------------------------------------------------------------------------------------


def refuse_models(folder: Path, sd15: Any) -> dict[str, Any]:
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    from mcti_core.hosts.comfy.host import comfy_host

    model, clip, vae = sd15
    sd20 = load_checkpoint(write_sd20(folder / "sd20.ckpt"))
    sd3 = load_checkpoint(write_sd3(folder / "sd3.ckpt"))
    sdxl = load_checkpoint(write_sdxl(folder / "sdxl.ckpt"))
    pairs = {
        "SD 2's CLIP": (sd20[1], model),
        "SD 1's CLIP": (clip, sd20[0]),
        "SD 1's CLIP for SD 3": (clip, sd3[0]),
        "SDXL's CLIP for SD 3": (sdxl[1], sd3[0]),
        "SD 3's CLIP for SDXL": (sd3[1], sdxl[0]),
        "SD 3's VAE": (clip, model, sd3[2]),
        "SD 1's VAE": (sd3[1], sd3[0], vae),
        "inpainting": (clip, inpainting(folder)),
        "AuraFlow": (clip, auraflow()),
        "x0": (clip, ModelSamplingDiscrete().patch(model, "x0", False)[0]),
        "no tokenizer": (without_tokenizer(), None),
        "deaf encoder": (with_deaf_encoder(), None),
    }
    return {"models": {name: said(comfy_host, *given) for name, given in pairs.items()}}


def inpainting(folder: Path) -> Any:
    weights = torch.load(folder / "sd15.ckpt")["state_dict"]
    weights["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(320, 9, 3, 3)
    torch.save({"state_dict": weights}, folder / "inpainting.ckpt")
    return load_checkpoint(folder / "inpainting.ckpt")[0]


def auraflow() -> Any:
    """A small model of a family that tokens are not trained for; it asks for no width that could be compared."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    shape = {"max_seq": 4, "n_layers": 1, "n_double_layers": 1, "dim": 64, "global_conddim": 64, "n_heads": 1}
    config = comfy.supported_models.AuraFlow({**shape, "cond_seq_dim": 64, "dtype": torch.float32})
    return comfy.model_patcher.ModelPatcher(comfy.model_base.AuraFlow(config), torch.device("cpu"), torch.device("cpu"))


def without_tokenizer() -> Any:
    """A CLIP with an encoder that gets its tokens in another way."""
    clip = with_t5()
    del clip.tokenizer.t5xxl
    return clip


def with_deaf_encoder() -> Any:
    """A CLIP with an encoder that does not get all words of a prompt, as HunyuanImage's of quoted text."""
    clip = with_t5()
    kind = type(clip.tokenizer.t5xxl)
    clip.tokenizer.t5xxl.__class__ = type(
        kind.__name__, (kind,), {"tokenize_with_weights": lambda *_, **__: [[(1, 1.0)]]}
    )
    return clip


def with_t5() -> Any:
    """A CLIP with a small T5 beside CLIP-L."""
    import comfy.sd
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.sd3_clip import SD3Tokenizer, sd3_clip

    few = {"clip_l_model_config": {"num_hidden_layers": 3}}
    few["t5xxl_model_config"] = {"num_layers": 1, "d_model": 64, "d_ff": 64, "num_heads": 1, "vocab_size": 100}
    with torch.inference_mode():
        target = ClipTarget(SD3Tokenizer, sd3_clip(clip_l=True, clip_g=False, t5=True))
        return comfy.sd.CLIP(target, model_options=few)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
