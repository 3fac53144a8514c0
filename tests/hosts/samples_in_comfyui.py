"""What Train MC-TI Tokens gives and keeps if the samples, or other work after the training, fail.

Usage: python samples_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER

With the pocket checkpoint. Prints a line of JSON.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from in_comfyui import load_nodes, logged, start, tell

SIGNS = ("a [{}]", "a {} AND b", "a __x__ {}", "a {}++", "{}:1.2", "{} {cat}", "a {} (b", "1) a {}", "a {} :)")
"""Templates that training takes, with signs that a prompt gives a meaning or refuses."""


def main(comfyui: str, folder: Path) -> None:
    start(comfyui)
    pack, named = load_nodes(folder)
    import comfy.model_management

    model, clip, vae, clip_space, examples = named["Pocket"].execute(shots=1, seed=0).args[:5]
    codec = import_module(f"{pack}.mcti_core.hosts.comfy.codec").ComfyCodec
    whole = codec.decode
    sets = folder / "models" / "mcti_tokens"
    given = {"model": model, "clip": clip, "vae": vae, "examples": examples, "clip_space": clip_space}

    def trained(**more: Any) -> Any:
        values = {"steps": 1, "batch": 2, "lr": 0.01, "gamma": 0.1, "seed": 0, "templates": "own", "samples": 2, **more}
        return named["TrainTokens"].execute(**given, **values)

    def failing(error: BaseException, after: int) -> Any:
        """A ``ComfyCodec.decode`` that raises once it has decoded some images."""
        done = [0]

        def decoded(*arguments: Any) -> Any:
            done[0] += 1
            if done[0] > after:
                raise error
            return whole(*arguments)

        return decoded

    signs = {sign: trained(own_templates=sign).args for sign in SIGNS}
    found: dict[str, Any] = {
        "signs": {sign: (output[-1].splitlines()[2:], float(output[-2].std())) for sign, output in signs.items()}
    }
    for name, error in (("memory", RuntimeError("out of memory")), ("other", TypeError("no such thing"))):
        for drawn in (0, 1):
            codec.decode = failing(error, drawn)
            output = trained(own_templates="a {}").args
            found[f"{name} {drawn}"] = (output[-1].splitlines()[2:], list(output[-2].shape), float(output[-2].std()))
    cancel = comfy.model_management.InterruptProcessingException()
    kept = []
    for seed in (1, 2):
        codec.decode = failing(cancel, 1)
        (ended, messages) = logged(lambda seed=seed: outcome(lambda: trained(own_templates="a {}", seed=seed)))
        kept.append((ended, [message for message in messages if "after the last step" in message]))
    codec.decode = whole
    found["cancelled"] = kept
    found["kept"] = sorted(path.name for path in sets.glob("unfinished-*"))
    (_, messages) = logged(lambda: trained(own_templates="a {}", seed=2))
    found["log"] = [message for message in messages if message.startswith("MC-TI: ")]
    found["unfinished"] = len(list((folder / "user" / "mcti_unfinished").glob("*")))  # of seed 1
    found["unused"] = further(trained)
    tell(found)


def further(trained: Any) -> list[list[str]]:
    """The last lines of the summary of a training from tokens, with and without settings of new tokens."""
    first = trained(own_templates="a {}", samples=0).args[0]
    return [
        trained(own_templates="a {}", samples=0, start_from=first, **more).args[-1].splitlines()[2:]
        for more in ({}, {"vectors": 2}, {"vectors": 3, "initial_word": "cat"})
    ]


def outcome(act: Any) -> str:
    try:
        act()
    except BaseException as error:
        return type(error).__name__
    return "done"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
