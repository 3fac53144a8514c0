"""Shared parts of the scripts that run inside ComfyUI, each in its own process.

ComfyUI reads its command line, warns as it likes and has modules with names as common as ours. A script prints one line of
JSON at its end; the test beside it says what should be in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "changes",
    "gap",
    "generator",
    "load_checkpoint",
    "load_nodes",
    "logged",
    "patched",
    "prompt_rows",
    "read_by",
    "snapshot",
    "start",
    "tell",
]

REPO = Path(__file__).resolve().parents[2]
LAYERS = 3
"""Of text towers, that need not be as deep as the real ones here."""


def start(comfyui: str) -> None:
    """ComfyUI on the CPU, and this project behind it: its ``nodes/`` would hide ComfyUI's nodes.py."""
    sys.path.insert(0, comfyui)
    sys.path.append(str(REPO))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import nodes  # noqa: F401 - what it says of packages that are missing is not wanted later


def load_nodes(folder: Path) -> tuple[str, dict[str, Any]]:
    """The pack in a ComfyUI whose own folders are in an empty folder: the name of its package, and its nodes by name."""
    import folder_paths

    import nodes

    for name in ("temp", "user", "input", "output"):
        (folder / name).mkdir(exist_ok=True)
        getattr(folder_paths, f"set_{name}_directory")(str(folder / name))
    folder_paths.models_dir = str(folder / "models")
    embeddings = folder_paths.folder_names_and_paths["embeddings"]
    folder_paths.folder_names_and_paths["embeddings"] = ([str(folder / "models" / "embeddings")], embeddings[1])
    assert asyncio.run(nodes.load_custom_node(str(REPO)))
    pack = next(name for name in sys.modules if name.endswith(".mcti_core")).rpartition(".")[0]
    return pack, {name.removeprefix("MCTI_"): node for name, node in nodes.NODE_CLASS_MAPPINGS.items()}


def logged(act: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call returns, and what is logged meanwhile."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    try:
        return act(), found
    finally:
        logging.getLogger().removeHandler(handler)


def tell(result: Any) -> None:
    print(json.dumps(result))


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference, beside the larger of b's largest number and 1; not a number if either holds one."""
    if a.shape != b.shape:
        raise RuntimeError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    a, b = a.detach().float().cpu(), b.detach().float().cpu()
    return ((a - b).abs().max() / max(1.0, b.abs().max().item())).item()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def load_checkpoint(path: Path, embeddings: Any = None, text_dtype: Any = None) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE by the stock loader, as a loader node would have them, but for fewer layers of the text towers."""
    import comfy.sd

    options = {} if text_dtype is None else {"dtype": text_dtype}
    options |= {f"{name}_model_config": {"num_hidden_layers": LAYERS} for name in ("clip_l", "clip_h", "clip_g")}
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(
            str(path), embedding_directory=embeddings, te_model_options=options
        )[:3]


def patched(part: Any, like: str, seed: int = 0) -> Any:
    """A clone of a MODEL or CLIP with a patch as a LoRA lays it, on every weight whose name ends so."""
    clone = part.clone()
    weights = {
        name: w for name, w in getattr(clone, "patcher", clone).model.state_dict().items() if name.endswith(like)
    }
    random = generator(seed)
    patches = {
        name: ("diff", (torch.randn(w.shape, generator=random) * 0.5 / w[0].numel() ** 0.5,))
        for name, w in weights.items()
    }
    if not patches or set(clone.add_patches(patches)) != set(patches):
        raise RuntimeError(f"no patch was laid on {like}")
    return clone


def prompt_rows(host: Any, prompts: list[str], tokens: Any = None) -> dict[str, Any]:
    """Features of prompts, in which ``embedding:<name>`` is one of the tokens."""
    from mcti_core.prompts.splicing import encode_prompts, host_prompts

    names, count = ((), 1) if tokens is None else (tokens.names, tokens.vectors_per_token)
    bank = {name: torch.zeros(1, 1, encoder.width) for name, encoder in host.text.items()}
    if tokens is not None:
        bank = {name: vectors.flatten(0, 1)[None] for name, vectors in tokens.vectors.items()}
    return encode_prompts(host, host_prompts(host, prompts, names, count), bank)


def read_by(denoiser: Any, rows: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Context and pooled vector of prompts, as the stock node names them, from what a denoiser reads."""
    from mcti_core.hosts.comfy.denoiser import _combined_towers

    found = rows["prompt"].named if "prompt" in rows else _combined_towers(rows)
    return found["cross_attn"], found.get("pooled_output")


# -- what a session may not change ---------------------------------------------------------------------------------------


def snapshot(**things: Any) -> dict[str, Any]:
    """Everything there is to MODEL, CLIP, VAE and the like: each weight's object and bits, each object's attributes."""
    found: dict[str, Any] = {}
    for name, thing in things.items():
        for part, thing_inside in _inside(thing).items():
            if isinstance(thing_inside, nn.Module):
                for path, module in thing_inside.named_modules():
                    _module(found, f"{name} {part}.{path}", module)
            else:
                _attributes(found, f"{name} {part}", vars(thing_inside))
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two snapshots; objects must be the same ones."""
    return sorted(key for key in before.keys() | after.keys() if not _same(before.get(key), after.get(key)))


def _inside(thing: Any) -> dict[str, Any]:
    """A part of the host and the objects that belong to it."""
    inside = {"itself": thing}
    for name in ("patcher", "tokenizer"):
        if hasattr(thing, name):
            inside[name] = getattr(thing, name)
    for name in ("clip_l", "clip_h", "clip_g"):
        if hasattr(getattr(thing, "tokenizer", None), name):
            inside[name] = getattr(thing.tokenizer, name)
    for name in ("model", "cond_stage_model", "first_stage_model"):
        if isinstance(getattr(thing, name, None), nn.Module):
            inside[name] = getattr(thing, name)
    return inside


def _module(found: dict[str, Any], path: str, module: nn.Module) -> None:
    weights = {**module._parameters, **module._buffers}
    for name, weight in weights.items():
        found[f"{path}.{name}"] = weight
        if weight is not None:
            found[f"{path}.{name} described"] = (
                weight.requires_grad, weight.is_inference(), weight.grad is None, weight.data_ptr(), _bits(weight),
            )  # fmt: skip
    own = {name: value for name, value in vars(module).items() if name not in ("_parameters", "_buffers")}
    _attributes(found, path, own)


def _attributes(found: dict[str, Any], path: str, attributes: Any) -> None:
    """Into dictionaries and lists; of what is deeper, which object it is."""
    items = attributes.items() if isinstance(attributes, dict) else enumerate(attributes)
    for name, value in items:
        if isinstance(value, (dict, list)):
            found[f"{path}.{name} length"] = len(value)
            _attributes(found, f"{path}.{name}", value)
        else:
            found[f"{path}.{name}"] = value


def _bits(weight: Tensor) -> str:
    return hashlib.blake2b(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()).hexdigest()


def _same(a: Any, b: Any) -> bool:
    plain = (bool, int, float, str, tuple, set, frozenset, type(None), torch.dtype, torch.device)
    return a is b or (type(a) is type(b) and isinstance(a, plain) and bool(a == b))
