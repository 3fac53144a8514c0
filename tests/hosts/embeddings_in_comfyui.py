"""Read embedding files by ComfyUI's loader and by ours.

Usage: python embeddings_in_comfyui.py COMFYUI_FOLDER FOLDER_OF_EMBEDDINGS

Prints a line of JSON: by file and text encoder, the largest difference, or null where ComfyUI reads nothing; and what the
node Load Token Embeddings offers, with the labels that it then reads.
"""

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
    tell({"differences": found, "choices": choices(folder)})


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
