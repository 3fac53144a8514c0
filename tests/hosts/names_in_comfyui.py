"""Names of tokens as people write them, in ComfyUI's prompts and in the nodes that compare labels.

Usage: python names_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER

With the pocket checkpoint. Prints a line of JSON.
"""

import asyncio
import logging
import os
import signal
import sys
import tempfile
import time
import unicodedata
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import torch
from in_comfyui import REPO, generator, start, tell

LABELS = ("Großer Fuchs", "சிங்கம்", "ស្វា", "Ýr", "🦉", "owl_2", "fox", "猫頭鷹", "ひつじ", "ʻōʻō", "a (b), c", "unknown")
TOGETHER = {  # a prompt, and the classes in it
    "embedding:fox,embedding:ʻōʻō": [6, 9],
    "embedding:சிங்கம்,embedding:ស្វា.": [1, 2],
    "(embedding:fox,embedding:Ýr:1.2)": [6, 3],
    "embedding:fox;embedding:owl-2;embedding:ひつじ": [6, 5, 8],
    "embedding:猫頭鷹、embedding:ひつじ。": [7, 8],
    "embedding:fox.safetensors,embedding:owl_2.pt": [6, 5],
    'embedding:"Großer Fuchs" embedding:<fox>': [0, 6],
    "embedding:unknown": [11],
    "embedding:foxembedding:owl_2embedding:fox": [6, 5, 6],
    "embedding:foxes": [],
    "embedding:ox": [],
    "an embedding: of words": [],
    "embedding:embedding:fox": [6],
    "(a embedding: embedding:fox:1.2)": [6],
    "embedding:embedding:nobody embedding:fox": [6],
    "embedding:fox and (embedding:) embedding: (red) embedding:": [6],
}
WORDS = {  # a prompt, and the tokens that stand in it without embedding:
    "a Großer-Fuchs and an OWL-2, red": ["Großer-Fuchs", "owl-2"], "a fox": [], "embedding:owl-2": [], "owl-22 x-owl-2": [], "{owl-2} <a-b-c>": ["a-b-c", "owl-2"], "{fox} < Ýr >": ["fox", "Ýr"],
    "{猫頭鷹}": ["猫頭鷹"], "a (fox) [fox] 'fox'": [],
}  # fmt: skip
WEIGHTS = {  # a prompt, and the token with a weight that no bracket ends
    "embedding:fox:1.2": "fox", "a embedding:owl-2.pt : 0.5 x": "owl-2", "embedding:ʻōʻō::2, (red)": "ʻōʻō", "(embedding:fox:1.2)": None, "(a embedding:fox:1.2 )": None,
    "embedding:fox: red": None, "embedding:fox, 2": None,
}  # fmt: skip
CLOSE = {  # a name that is no token's, and the one it is close to
    "embedding:fos": "fox", "embedding:oxf": "fox", "embedding:foxes, red": "fox", "a (embedding:owl-3:1.2)": "owl-2", "embedding:Yr": "Ýr", "embedding:ｆｏｘ９９": "fox",
    "embedding:grosser-fuch": "Großer-Fuchs", "embedding:சிங்கம": "சிங்கம்", "embedding:猫頭鷹が好き": "猫頭鷹", "embedding:nobody": None, "fos": None,
    "embedding:fox9": None, "embedding:fox": None, "embedding:unknwon": "unknown", "embedding:pets/fox": "fox",
    "embedding:pets\\owl-2.pt": "owl-2",
}  # fmt: skip


def main(comfyui: str, folder: Path) -> None:
    start(comfyui)
    import folder_paths

    import nodes

    folder_paths.set_temp_directory(str(folder / "temp"))
    assert asyncio.run(nodes.load_custom_node(str(REPO)))
    pack = next(name for name in sys.modules if name.endswith(".mcti_core"))
    clip_with_tokens = import_module(f"{pack}.hosts.comfy.prompt_tokens").clip_with_tokens
    load_pocket_parts = import_module(f"{pack}.hosts.comfy.pocket").load_pocket_parts
    export_embeddings = import_module(f"{pack}.tokens.io").export_embeddings
    TokenSet = import_module(f"{pack}.tokens.token_set").TokenSet  # noqa: N806 - a class of the pack, not of this project's path
    weights = import_module(f"{pack}.pocket").POCKET_FOLDER
    with torch.inference_mode():
        parts = load_pocket_parts(weights, str(folder / "embeddings"))
    numbers = torch.arange(1.0, len(LABELS) + 1)[:, None, None].expand(-1, 2, 96)
    tokens = TokenSet(LABELS, {"clip_l": numbers.clone()})
    export_embeddings(TokenSet(("fox9", "Fuchs"), {"clip_l": -numbers[:2].clone()}), folder / "embeddings")
    clip = clip_with_tokens(parts.clip, tokens)
    tell(
        {
            "names": tokens.names,
            "missed": missed(clip, tokens),
            "together": {prompt: (classes(clip, prompt), wanted) for prompt, wanted in TOGETHER.items()},
            "logged": {prompt: (logged(pack, clip, prompt), meant) for prompt, meant in CLOSE.items()},
            "words": {prompt: (logged(pack, clip, prompt), names) for prompt, names in WORDS.items()},
            "weights": {prompt: (logged(pack, clip, prompt), name) for prompt, name in WEIGHTS.items()},
            "routed": routed(pack),
            "slow": slow(pack, clip),
            "nodes": in_nodes(TokenSet, parts, clip, tokens),
            "twins": twins(pack, clip_with_tokens, clip, TokenSet),
        }
    )


def classes(clip: Any, prompt: str) -> list[int]:
    """Which class's vectors stand in a prompt; each has two, all of whose numbers are its index and 1."""
    found = [
        float(pair[0].flatten()[0]) for row in clip.tokenize(prompt)["l"] for pair in row if torch.is_tensor(pair[0])
    ]
    assert found[::2] == found[1::2]
    return [int(number) - 1 for number in found[::2]]


def missed(clip: Any, tokens: Any) -> list[str]:
    """Every name and label, in every spelling, alone and among words: the prompts in which it is not found."""
    wrong = []
    for index, texts in enumerate(zip(tokens.names, tokens.labels, strict=True)):
        for text in {f(t) for t in texts for f in (str, str.upper, nfc, nfd)}:
            for reference in (text, f"{text}.safetensors", f"{text}.PT", f" {text}", f'"{text}"', f"<{text}>"):
                for around in (
                    "{}",
                    "a {}",
                    "a {}, red",
                    "a,{},b",
                    "({}:1.3) x",
                    "((big {}))",
                    "a {}.",
                    "{}'s hat",
                    "x\n{}\ny",
                    "[{}]",
                ):
                    prompt = around.replace("{}", f"embedding:{reference}")
                    if classes(clip, prompt) != [index]:
                        wrong.append(prompt)
    return wrong


def logged(pack: str, clip: Any, prompt: str) -> list[str]:
    """What this pack logs of a prompt, in the words of its message."""
    return said(f"{pack}.hosts.comfy.prompt_tokens", lambda: clip.tokenize(prompt))


def routed(pack: str) -> dict[str, list[str]]:
    """What Route logs of wanted names, by them; the labels are Ýr and fox."""
    import nodes

    route, place = nodes.NODE_CLASS_MAPPINGS["MCTI_Route"], pack.removesuffix(".mcti_core") + ".nodes.route"
    images = [torch.zeros(2, 2, 2, 3)]

    def passing(wanted: str) -> list[str]:
        return said(place, lambda: route.execute(images, [nfd("Ýr"), "fox"], [wanted], [0.0]))

    return {
        wanted: passing(wanted) for wanted in ("yr", "ｆｏｘ, Yr", nfc("Ýr"), "FOX", "fax", "", "nobody, fox, no one")
    }


def slow(pack: str, clip: Any) -> dict[str, tuple[str, float]]:
    """What is said of texts that once took minutes, and the seconds they take: marks that must be sorted, and very many labels."""
    import nodes

    marks, route = "a" + "\u0301\u0316" * 20_000, nodes.NODE_CLASS_MAPPINGS["MCTI_Route"]
    labels = [f"my fox {number}" for number in range(4096)]
    found = {}
    for name, act in {
        "prompt": lambda: clip.tokenize(f"embedding:fox {marks}"),
        "wanted": lambda: route.execute([torch.zeros(2, 2, 2, 3)], ["a", "b"], [marks], [0.0]),
        "labels": lambda: route.execute([torch.zeros(2, 2, 2, 3)], [marks[:5000], "b"], ["b"], [0.0]),
        "many": lambda: route.execute(
            [torch.zeros(4096, 1, 1, 3)], labels, [",".join(labels).replace(" ", "-")], [0.0]
        ),
        "links": lambda: lead_back(sys.modules[f"{pack}.hosts.comfy.prompt_tokens"]),
        "close": lambda: few(
            said(
                f"{pack.removesuffix('.mcti_core')}.nodes.route",
                lambda: route.execute(
                    [torch.zeros(2, 1, 1, 3)],
                    ["fox", "b"],
                    [",".join(map("".join, product("fｆ", "oòóôõö", "xẋẍ")))],
                    [0.0],
                ),
            )
        ),
    }.items():
        begun, message = time.process_time(), ""
        try:
            act()
        except Exception as error:  # of the library, or as nodes say it
            message = str(error)
        found[name] = (message, time.process_time() - begun)
    return found


def lead_back(prompt_tokens: Any) -> None:
    """Search a name in a folder with two links to itself, where there are 2^40 paths."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a", "b"):
            os.symlink(folder, f"{folder}/{name}")
        signal.alarm(60)
        assert not prompt_tokens._is_file("nobody", [folder])
        signal.alarm(0)


def few(messages: list[str]) -> None:
    assert 0 < len(messages) <= 21, len(messages)


def said(place: str, act: Any) -> list[str]:
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger(place)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    act()
    logger.removeHandler(handler)
    return found


def twins(pack: str, clip_with_tokens: Any, clip: Any, token_set: Any) -> dict[str, Any]:
    """What is logged where a second set is loaded behind the first, by the second set's labels."""
    found = {}
    for labels, shift in (
        (("fox",), 50.0), (("FOX", "new"), 50.0), ((nfd("Ýr"), "fox"), 50.0), (("new", "other"), 50.0), (LABELS, 0.0),
    ):  # fmt: skip
        numbers = torch.arange(1.0, len(labels) + 1)[:, None, None].expand(-1, 2, 96) + shift
        second = token_set(labels, {"clip_l": numbers.clone()})
        messages = said(f"{pack}.hosts.comfy.prompt_tokens", lambda second=second: clip_with_tokens(clip, second))
        drawn = classes(clip_with_tokens(clip, second), "embedding:fox")
        found[",".join(labels)] = (messages, drawn)
    return found


def in_nodes(token_set: Any, parts: Any, clip: Any, tokens: Any) -> dict[str, Any]:
    import nodes

    named = {name.removeprefix("MCTI_"): node for name, node in nodes.NODE_CLASS_MAPPINGS.items()}
    own = token_set((nfc("Ýr"), "unknown"), {"clip_l": torch.randn(2, 1, 96, generator=generator())})
    return {**prompts(named, clip, tokens), **routes(named["Route"]), **answers(named, parts, own)}


def prompts(named: dict[str, Any], clip: Any, tokens: Any) -> dict[str, Any]:
    """Token Prompts, whose prompts name each class wherever the template has it."""
    found = {}
    for template in (
        "{}",
        "a {}.",
        "a ({}:1.2)",
        "x{}y",
        "{}: red",
        "{},{}",
        "{}'s [{}]",
        "embedding:{}",
        "(a EMBEDDING: {}:1.2)",
        'embedding:embedding:"{}" x',
    ):
        (texts, _) = named["TokenPrompts"].execute(tokens, template).args
        found[template] = [classes(clip, text) for text in texts]
    return {"prompts": found}


def routes(route: Any) -> dict[str, Any]:
    images = torch.zeros(6, 2, 2, 3)
    labels = [nfd("Ýr"), "(unknown)", "my fox", "fox", "fox!", "unknown"]
    found = {}
    for wanted in ("", nfc("ýr"), "My-Fox", "fox, MY FOX", "fox\nMY FOX\r\n", "(unknown)", "Unknown", "nobody"):
        passed = route.execute([images], labels, [wanted], [0.0]).args[2]
        found[wanted] = [labels.index(label) for label in passed if isinstance(label, str)]
    refused = []
    for least, sure in ((0.5, {}), (0.5, {"confidences": [float("nan")] * 6}), (0.0, {})):
        try:
            route.execute([images], labels, [""], [least], **sure)
            refused.append("")
        except ValueError as error:
            refused.append(str(error))
    return {"routes": found, "refused": refused}


def answers(named: dict[str, Any], parts: Any, own: Any) -> dict[str, Any]:
    """Classify and evaluate with a class called unknown, and another that a Mac wrote."""
    images = torch.rand(4, 64, 64, 3, generator=generator())
    labels = [nfd("Ýr"), nfd("Ýr"), nfc("Ýr"), "unknown"]
    examples = None
    for label, image in zip(labels, images.split(1), strict=True):
        given = {} if examples is None else {"previous": [examples]}
        examples = named["AddExamples"].execute(label=[label], images=[image], **given).args[0]
    given = {"clip": parts.clip, "clip_space": parts.clip_file, "method": "clip", "tokens": own}
    many = {name: [value] for name, value in given.items()} | {
        "images": [images],
        "top_k": [1],
        "calibrate_threshold": [False],
    }
    sure = named["Classify"].execute(threshold=[0.0], **many).args
    unsure = named["Classify"].execute(threshold=[1.0], **many).args
    accuracy, report, _ = named["Evaluate"].execute(held_out=examples, max_images_per_class=0, **given).args
    return {
        "examples": {label: len(of) for label, of in examples.images.items()},
        "sure": [sure[0], sure[1], sure[3]],
        "unsure": [unsure[0], unsure[1], unsure[3]],
        "right": sum(a == b for a, b in zip(sure[1], [0, 0, 0, 1], strict=True)) / 4,
        "accuracy": accuracy,
        "report": report,
    }


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
