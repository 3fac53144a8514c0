"""Advanced inputs of Train MC-TI Tokens in a running server."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from .server import Graph, RefusedError, Server, node

pytestmark = pytest.mark.host

MODELS = {"model": ["p", 0], "clip": ["p", 1], "vae": ["p", 2], "clip_space": ["p", 3], "examples": ["p", 4]}
FIRST = ("steps", "batch_size", "lr", "gamma", "seed")
"""Train's widgets before it had advanced ones: what saved workflows hold their values by."""
RARE = {"templates": "own", "own_templates": "a {}\nthe {}", "hflip": False, "logit_scale": 5.0, "num_samples": 0}


def training(name: str, **rare: Any) -> Graph:
    return {
        "p": node("MCTI_Pocket", shots=2, seed=0),
        "t": node("MCTI_TrainTokens", **MODELS, steps=2, batch_size=4, lr=0.02, gamma=0.1, seed=0, **rare),
        "w": node("MCTI_SaveTokens", tokens=["t", 0], name=name, format="token set", folder=""),
    }


def learned(server: Server, name: str) -> dict[str, torch.Tensor]:
    return load_file(server.base / "models" / "mcti_tokens" / f"{name}.safetensors")


def test_advanced_inputs_change_the_training(server: Server) -> None:
    tokens = {}
    for name, rare in {"plain": {"num_samples": 0}, "rare": RARE, "again": RARE | {"lr_warmup_steps": 10}}.items():
        run = server.run(training(name, **rare))
        assert run.succeeded, run.error
        tokens[name] = learned(server, name)["clip_l"]
    assert torch.equal(tokens["rare"], tokens["again"])  # 10 is the default
    assert not torch.equal(tokens["rare"], tokens["plain"])


def test_advanced_input_out_of_range_is_refused_by_name(server: Server) -> None:
    for name, value in {"num_vectors": 17, "logit_scale": -1.0, "gradient_ratio": 101.0}.items():
        with pytest.raises(RefusedError, match=name):
            server.submit(training("wrong", **{name: value}))


def test_widgets_of_saved_workflows_come_first_and_the_others_are_advanced(server: Server) -> None:
    info = server.get("/object_info")
    train = info["MCTI_TrainTokens"]
    widgets = [
        (name, how[1])
        for group in ("required", "optional")
        for name, how in train["input"][group].items()
        if isinstance(how[0], list) or how[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
    ]
    names = [name for name, _ in widgets]
    assert names[: len(FIRST)] == list(FIRST)
    assert [name for name, more in widgets if more.get("advanced")] == names[len(FIRST) :]
    assert {*RARE, "gradient_ratio"} <= set(names)


def test_search_finds_training_by_the_words_of_the_field(server: Server) -> None:
    info = server.get("/object_info")
    if "search_aliases" not in info["KSampler"]:
        pytest.skip("ComfyUI knows search_aliases since v0.16.0")
    assert {"textual inversion", "embedding", "few-shot"} <= set(info["MCTI_TrainTokens"]["search_aliases"])
    assert "classifier" in info["MCTI_Classify"]["search_aliases"]
    assert all(what["search_aliases"] for kind, what in info.items() if kind.startswith("MCTI_"))
