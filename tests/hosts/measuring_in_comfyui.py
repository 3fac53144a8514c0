"""Copies among examples and test images, and the images that Evaluate Tokens chooses, with the pocket checkpoint inside ComfyUI.

Usage: python measuring_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER

Prints a line of JSON.
"""

import asyncio
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from in_comfyui import REPO, generator, logged, start, tell


def main(comfyui: str, folder: Path) -> None:
    start(comfyui)
    import folder_paths

    import nodes

    folder_paths.set_temp_directory(str(folder / "temp"))
    folder_paths.set_user_directory(str(folder / "user"))
    assert asyncio.run(nodes.load_custom_node(str(REPO)))
    pack = next(name for name in sys.modules if name.endswith(".mcti_core"))
    parent = pack.rpartition(".")[0]
    named = {name.removeprefix("MCTI_"): node for name, node in nodes.NODE_CLASS_MAPPINGS.items()}
    examples_of = import_module(f"{parent}.nodes.types").Examples
    sample = import_module(f"{parent}.nodes.classify")._sample
    model, clip, vae, clip_space = named["Pocket"].execute(shots=2, seed=0).args[:4]
    random = torch.rand(12, 3, 64, 64, generator=generator())
    learned = examples_of({"a": tuple(random[:2]), "b": (random[2], random[3])})
    both = examples_of({"a": tuple(random[:2]), "b": (random[2], random[1])})
    given = {"model": model, "clip": clip, "vae": vae, "steps": 1, "batch_size": 2, "lr": 0.01, "gamma": 0.1, "seed": 0}

    def trained(examples: Any) -> tuple[Any, str]:
        output = named["TrainTokens"].execute(**given, examples=examples, clip_space=clip_space, num_samples=0).args
        return output[0], output[-1]

    tokens, summary = trained(learned)
    _, told = trained(both)
    report = named["Evaluate"].execute
    fresh = examples_of({"a": tuple(random[4:7]), "b": tuple(random[7:10])})
    copies = examples_of({"a": (random[0], *random[4:6]), "b": (random[3], *random[7:9])})
    measured = [report(held, tokens, clip, "clip", 0, clip_space=clip_space).args[1] for held in (fresh, copies)]
    numbers = tuple(range(100))
    many = {"images": [random[:2].movedim(1, -1)], "tokens": [tokens], "clip": [clip], "method": ["auto"], "top_k": [1]}

    def classified(below: float, find: bool, **more: Any) -> tuple[str, list[str]]:
        def act() -> str:
            try:
                labels = (
                    named["Classify"].execute(**many, threshold=[below], calibrate_threshold=[find], **more).args[0]
                )
                return f"{len(labels)} labels"
            except ValueError as error:
                return str(error)

        return logged(act)

    tell(
        {
            "summary": summary, "told": told,
            "classified": [classified(below, True, clip_space=[clip_space]) for below in (0.0, 0.9)],
            "nothing": [classified(0.0, False, **more)[0] for more in ({}, {"model": [model]})],
            "fresh": measured[0], "copies": measured[1],
            "samples": [list(sample(numbers, most)) for most in (0, 5, 5, 100, 1000)],
            "rows": report(fresh, tokens, clip, "clip", 2, clip_space=clip_space).args[1],
        }
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
