"""Read embedding files by ComfyUI's loader and by ours.

Usage: python embeddings_in_comfyui.py COMFYUI_FOLDER FOLDER_OF_EMBEDDINGS

Prints a line of JSON: by file and text encoder, the largest difference, or null where ComfyUI reads nothing; what the
node Load Token Embeddings offers, with the labels that it then reads; the keys of ComfyUI's tokenizers, and those that look up no
files; and widths of its language models.
"""

import re
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from in_comfyui import REPO, gap, start, tell


def main(comfyui: str, folder: Path) -> None:
    start(comfyui)
    from comfy.sd1_clip import load_embed

    from mcti_core.tokens.formats import read_embedding

    found = {}
    for path in sorted(file for file in folder.iterdir() if file.suffix != ".yaml"):
        for encoder, rows in read_embedding(path).vectors.items():
            theirs = load_embed(path.name, str(folder), rows.shape[1], encoder)
            found[f"{path.name} {encoder}"] = None if theirs is None else gap(theirs.reshape(rows.shape), rows)
    tell({"differences": found, "choices": choices(folder), **keys(Path(comfyui)), "widths": widths()})


def keys(comfyui: Path) -> dict[str, list[str]]:
    """By the sources: most tokenizers cannot be built without a checkpoint's vocabulary."""
    sources = [*(comfyui / "comfy").glob("*.py"), *(comfyui / "comfy" / "text_encoders").glob("*.py")]
    lines = [line for path in sources for line in path.read_text("utf-8").splitlines()]
    found = {line: re.findall(r"embedding_key=['\"](\w+)", line) for line in lines}
    deaf = [line for line in lines if "super().__init__(tokenizer" in line and "embedding_directory=" not in line]
    every = {key for named in found.values() for key in named}
    return {"keys": sorted(every), "without files": sorted({key for line in deaf for key in found[line]})}


def widths() -> dict[str, int]:
    from comfy.text_encoders import llama

    configs = {
        "llama": "Llama2Config", "gemma2_2b": "Gemma2_2B_Config", "gemma3_4b": "Gemma3_4B_Config", "gemma3_12b": "Gemma3_12B_Config",
        "qwen25_3b": "Qwen25_3BConfig", "qwen25_7b": "Qwen25_7BVLI_Config", "qwen3_06b": "Qwen3_06BConfig", "qwen3_2b": "Ovis25_2BConfig",
        "qwen3_4b": "Qwen3_4BConfig", "qwen3_8b": "Qwen3_8BConfig", "qwen3vl_4b": "Qwen3VL_4BConfig", "qwen3vl_8b": "Qwen3VL_8BConfig",
        "qwen3vl_32b": "Qwen3VL_32BConfig", "mistral3_24b": "Mistral3Small24BConfig", "ministral3_3b": "Ministral3_3BConfig",
    }  # fmt: skip
    return {key: getattr(llama, name).hidden_size for key, name in configs.items() if hasattr(llama, name)}


def choices(folder: Path) -> dict[str, list[str]]:
    import folder_paths

    folder_paths.folder_names_and_paths["embeddings"] = ([str(folder)], folder_paths.supported_pt_extensions)
    folder_paths.folder_names_and_paths["mcti_tokens"] = ([], {".safetensors"})
    spec = spec_from_file_location("the_pack", REPO / "__init__.py", submodule_search_locations=[str(REPO)])
    sys.modules["the_pack"] = module_from_spec(
        spec
    )  # as ComfyUI names packs by itself, whatever their folder is called
    node, choosing = (import_module(f"the_pack.nodes.{name}") for name in ("token_files", "token_choices"))
    offered = {}
    for choice in choosing.choices():
        assert node.LoadTokens.fingerprint_inputs(choice)
        offered[choice] = list(choosing.read_choice(choice).labels)
    return offered


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
