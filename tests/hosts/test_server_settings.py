"""Rarely used settings in a running server: advanced inputs of Train MC-TI Tokens, and the deprecated node."""

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


def training(name: str, settings: dict[str, Any] | None = None, **rare: Any) -> Graph:
    graph = {
        "p": node("MCTI_Pocket", shots=2, seed=0),
        "t": node("MCTI_TrainTokens", **MODELS, steps=2, batch_size=4, lr=0.02, gamma=0.1, seed=0, **rare),
        "w": node("MCTI_SaveTokens", tokens=["t", 0], name=name, format="token set", folder=""),
    }
    if settings is not None:
        graph["s"] = node("MCTI_TrainingSettings", **settings)
        graph["t"]["inputs"]["settings"] = ["s", 0]
    return graph


def learned(server: Server, name: str) -> dict[str, torch.Tensor]:
    return load_file(server.base / "models" / "mcti_tokens" / f"{name}.safetensors")


def test_advanced_inputs_train_what_the_settings_node_trains(server: Server) -> None:
    for graph in (training("new", **RARE), training("old", RARE), training("plain", num_samples=0)):
        run = server.run(graph)
        assert run.succeeded, run.error
    new, old, plain = (learned(server, name) for name in ("new", "old", "plain"))
    assert torch.equal(new["clip_l"], old["clip_l"])
    assert not torch.equal(new["clip_l"], plain["clip_l"])


def test_settings_node_wins_over_advanced_inputs(server: Server) -> None:
    for graph in (training("one", RARE), training("both", RARE, num_vectors=2, logit_scale=50.0)):
        run = server.run(graph)
        assert run.succeeded, run.error
    assert torch.equal(learned(server, "one")["clip_l"], learned(server, "both")["clip_l"])


def test_advanced_input_out_of_range_is_refused_by_name(server: Server) -> None:
    for name, value in {"num_vectors": 17, "logit_scale": -1.0, "gradient_ratio": 101.0}.items():
        with pytest.raises(RefusedError, match=name):
            server.submit(training("wrong", **{name: value}))


def test_widgets_of_saved_workflows_come_first_and_the_others_are_advanced(server: Server) -> None:
    info = server.get("/object_info")
    train, settings = info["MCTI_TrainTokens"], info["MCTI_TrainingSettings"]
    widgets = [
        (name, how[1])
        for group in ("required", "optional")
        for name, how in train["input"][group].items()
        if isinstance(how[0], list) or how[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
    ]
    rare = list(settings["input"]["optional"])
    assert [name for name, _ in widgets] == [*FIRST, *rare]
    assert [name for name, more in widgets if more.get("advanced")] == rare
    assert settings["deprecated"]


def test_search_finds_training_by_the_words_of_the_field(server: Server) -> None:
    info = server.get("/object_info")
    if "search_aliases" not in info["KSampler"]:
        pytest.skip("ComfyUI knows search_aliases since v0.16.0")
    assert {"textual inversion", "embedding", "few-shot"} <= set(info["MCTI_TrainTokens"]["search_aliases"])
    assert "classifier" in info["MCTI_Classify"]["search_aliases"]
    assert all(
        what["search_aliases"] for kind, what in info.items() if kind.startswith("MCTI_") and not what["deprecated"]
    )
