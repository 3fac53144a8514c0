"""Tokens in memory compared with embedding files in a folder, in prompts of ComfyUI's CLIP Text Encode.

Usage: python prompts_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER

With the pocket checkpoint, and with two text encoders (SDXL's). Prints a line of JSON.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from in_comfyui import changes, gap, generator, load_checkpoint, patched, snapshot, start, tell
from synthetic_checkpoints import write_sdxl

PROMPTS = {
    "alone": "embedding:cat-1",
    "in the middle": "a drawing of embedding:cat-1 on paper",
    "weighted": "a (embedding:cat-1:1.3) on (paper:0.7)",
    "twice": "embedding:cat-1 beside embedding:dog and embedding:cat-1",
    "in lines": "a drawing of\nembedding:dog\nembedding:cat-1",
    "comma": "a embedding:cat-1, on paper",
    "weighted, comma": "a (embedding:cat-1, red:1.2) embedding:dog, blue",
    "not a token": "a embedding:nobody on paper",
    "not a token, comma": "a embedding:nobody, on paper",
    "long": "a embedding:cat-1 " + "on paper " * 50 + "embedding:dog",
}
SPACED = {  # what a file's name would swallow
    "full stop": ("a embedding:cat-1. Red", "a embedding:cat-1 . Red"),
    "apostrophe": ("a embedding:cat-1's paper", "a embedding:cat-1 's paper"),
    "end": ("a embedding:cat-1!", "a embedding:cat-1 !"),
    "bracket": ("a (embedding:cat-1) paper", "a (embedding:cat-1:1.1) paper"),
    "any case": ("a embedding:CAT-1 paper", "a embedding:cat-1 paper"),
    "a word begun": ("a embedding:cats paper", "a embedding:nobody paper"),
}


def main(comfyui: str, folder: Path) -> None:
    start(comfyui)
    from mcti_core.hosts.comfy.pocket import load_pocket_parts
    from mcti_core.pocket import POCKET_FOLDER

    def pocket(embeddings: Any) -> Any:
        return load_pocket_parts(POCKET_FOLDER, embeddings).clip

    def sdxl(embeddings: Any) -> Any:
        return load_checkpoint(folder / "sdxl.ckpt", embeddings)[1]

    write_sdxl(folder / "sdxl.ckpt")
    with torch.inference_mode():
        tell({"clip_l": compare(pocket, folder / "one"), "clip_l and clip_g": compare(sdxl, folder / "two")})


def compare(load: Any, folder: Path) -> dict[str, Any]:
    from mcti_core.hosts.comfy.prompt_tokens import clip_with_tokens
    from mcti_core.tokens.io import export_embeddings

    folder.mkdir()
    (folder / "empty").mkdir()
    clip, without = load(str(folder / "empty")), load(None)
    tokens, others = make_tokens(clip, ("cat 1", "dog"), 0), make_tokens(clip, ("dog", "bird"), 1)
    export_embeddings(tokens, folder)
    reading = load(str(folder))
    before = snapshot(clip=clip, without=without)
    knowing = clip_with_tokens(clip, tokens)
    found = {
        "as files": {name: distance(knowing, reading, prompt) for name, prompt in PROMPTS.items()},
        "as spaced": {name: distance(knowing, reading, *pair) for name, pair in SPACED.items()},
        "without a folder": {
            name: distance(clip_with_tokens(without, tokens), reading, PROMPTS[name])
            for name in ("comma", "not a token")
        },
        "moved": {name: distance(knowing, clip, prompt) for name, prompt in PROMPTS.items()},
        **compare_sets(clip, tokens, others, reading),
        "copy": is_a_copy(knowing, tokens),
        "refused": refusals(clip, tokens),
    }
    different = changes(before, snapshot(clip=clip, without=without))
    used = "cond_stage_model"  # by the host itself
    return {**found, "different": [key for key in different if used not in key]}


def make_tokens(clip: Any, labels: tuple[str, ...], seed: int) -> Any:
    """Two vectors each, about as long as the model's own."""
    from mcti_core.hosts.comfy.host import comfy_host
    from mcti_core.tokens.token_set import TokenSet

    random, encoders = generator(seed), comfy_host(clip).text
    scales = {name: encoder.embed(torch.arange(100)).std() for name, encoder in encoders.items()}
    with torch.inference_mode(False):
        vectors = {n: torch.randn(len(labels), 2, e.width, generator=random) * scales[n] for n, e in encoders.items()}
        return TokenSet(labels, vectors)


def distance(a: Any, b: Any, prompt: str, other: str | None = None) -> float:
    """Between what two CLIPs make of a prompt, or of two that should mean the same: context and pooled."""
    return max(map(gap, encoded(a, prompt), encoded(b, other or prompt)))


@cache
def encoded(clip: Any, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    context, more = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0]
    return context, more["pooled_output"]


def compare_sets(clip: Any, tokens: Any, others: Any, reading: Any) -> dict[str, Any]:
    from mcti_core.hosts.comfy.prompt_tokens import clip_with_tokens

    knowing = clip_with_tokens(clip, tokens)
    chained, apart = clip_with_tokens(knowing, others), clip_with_tokens(clip, others)
    cat, dog, bird = ("a embedding:cat-1 here", "a embedding:dog here", "a embedding:bird here")
    with_lora = patched(reading, "self_attn.q_proj.weight")
    return {
        "sets": {
            "chained, the first's": distance(chained, knowing, cat),
            "chained, the last's": distance(chained, apart, bird),
            "chained, of both": distance(chained, apart, dog),
            "apart, the other's": distance(apart, clip, cat),
            "before, the other's": distance(knowing, clip, bird),
            "file behind": distance(clip_with_tokens(reading, others), reading, cat),
            "LoRA behind": distance(patched(knowing, "self_attn.q_proj.weight"), with_lora, cat),
            "LoRA before": distance(clip_with_tokens(patched(clip, "self_attn.q_proj.weight"), tokens), with_lora, cat),
        },
        "two sets differ by": distance(knowing, apart, dog),
    }


def is_a_copy(knowing: Any, tokens: Any) -> bool:
    """Whether what is done to a prompt's vectors stays there."""
    name = next(iter(tokens.vectors))
    row = next(iter(value for key, value in knowing.tokenize("embedding:dog").items() if f"clip_{key}" == name))
    first = row[0][1][0]
    kept = first.clone()
    first.add_(1)
    return torch.equal(tokens.vectors[name][1, 0], kept)


def refusals(clip: Any, tokens: Any) -> dict[str, str]:
    from dataclasses import replace

    from mcti_core.errors import TokenError
    from mcti_core.hosts.comfy.prompt_tokens import clip_with_tokens

    narrow = {name: vectors[..., :64] for name, vectors in tokens.vectors.items()}
    more = {**tokens.vectors, "clip_h": torch.zeros(2, 2, 1024)}
    said = {}
    for name, vectors in (("width", narrow), ("encoders", more)):
        try:
            clip_with_tokens(clip, replace(tokens, vectors=vectors))
            said[name] = ""
        except TokenError as error:
            said[name] = str(error)
    return said


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
