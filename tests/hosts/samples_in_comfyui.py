"""Outputs and files of Train MC-TI Tokens if the samples, or other work after the training, fail.

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
        values = {
            "steps": 1,
            "batch_size": 2,
            "lr": 0.01,
            "gamma": 0.1,
            "seed": 0,
            "templates": "own",
            "num_samples": 2,
            **more,
        }
        return named["TrainTokens"].execute(**{**given, **values})

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
    found["watched"] = watched(trained, codec, failing)
    found["beside"] = beside(named, trained)
    tell(found)


def watched(trained: Any, codec: Any, failing: Any) -> dict[str, Any]:
    """A training with samples and accuracies beside one without; one whose samples fail; and one that is cancelled in them."""
    import comfy.model_management

    options = {"own_templates": "a {}", "num_samples": 0, "steps": 3, "seed": 7}
    plain, whole = trained(**options).args, codec.decode
    seen = trained(**options, validation_steps=2, validation_prompt="a {} here").args
    equal = [bool((v == plain[0].vectors[name]).all()) for name, v in seen[0].vectors.items()]
    codec.decode = failing(RuntimeError("no such thing"), 0)
    (broken, messages) = logged(lambda: trained(**options, validation_steps=1).args)
    equal += [bool((v == plain[0].vectors[name]).all()) for name, v in broken[0].vectors.items()]
    codec.decode = failing(comfy.model_management.InterruptProcessingException(), 0)
    ended = outcome(lambda: trained(**options, validation_steps=1))
    codec.decode = whole
    told = [message for message in messages if "validation failed" in message]
    return {"equal": equal, "notes": seen[-1].splitlines()[2:], "told": told, "cancelled": ended}


def beside(named: Any, trained: Any) -> dict[str, Any]:
    """A folder with captions, masks and images that are not square, and a caption that a link leads to."""
    import folder_paths
    from PIL import Image

    root = Path(folder_paths.get_input_directory()) / "captioned"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            Image.effect_noise((64, 96), 90).save(root / name / f"{number}.png")
    (root / "a" / "0.txt").write_text("a {} on grass")
    Image.new("L", (64, 96), "white").save(root / "b" / "0-masklabel.png")
    node = named["ExamplesFromFolder"]
    read = {"folder": "captioned", "shots": 0, "seed": 0, "image_size": 64}
    mark = node.fingerprint_inputs(**read, captions=True)
    examples, _, _, summary = node.execute(**read, captions=True, masks="masklabel", buckets=True).args
    tokens = trained(own_templates="a {}", num_samples=0, examples=examples, hflip=False).args[0]
    (root / "a" / "0.txt").write_text("a {} on the snow")
    changed = node.fingerprint_inputs(**read, captions=True) != mark
    secret = root.parents[1] / "secret.txt"
    secret.write_text("a {}")
    (root / "b" / "1.txt").symlink_to(secret)
    refused = outcome(lambda: node.execute(**read, captions=True))
    return {
        "summary": summary.splitlines(), "used": [name for name in ("captions", "masks", "buckets") if tokens.training.get(name)],
        "changed": changed, "refused": refused,
    }  # fmt: skip


def further(trained: Any) -> list[list[str]]:
    """The last lines of the summary of a training from tokens, with and without settings of new tokens."""
    first = trained(own_templates="a {}", num_samples=0).args[0]
    return [
        trained(own_templates="a {}", num_samples=0, initial_tokens=first, **more).args[-1].splitlines()[2:]
        for more in ({}, {"num_vectors": 2}, {"num_vectors": 3, "initializer_token": "cat"})
    ]


def outcome(act: Any) -> str:
    try:
        act()
    except BaseException as error:
        return type(error).__name__
    return "done"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
