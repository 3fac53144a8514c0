from dataclasses import replace

from mcti_core.training.config import TrainConfig
from mcti_core.training.resume import describe_differences, run_identity

CONFIG = TrainConfig(steps=3, batch_size=2, lr=1e-2, templates=("a photo of a {}",))


def test_every_difference_is_listed(tiny_host, cache, tokens):
    other = replace(CONFIG, lr=0.5, seed=7, templates=("a drawing of a very long and particular {}",))
    moved = tokens.with_vectors({name: v + 1 for name, v in tokens.vectors.items()})
    told = describe_differences(
        run_identity(tiny_host, cache, tokens, CONFIG), run_identity(tiny_host, cache, moved, other)
    )
    assert set(told.split("; ")) == {
        "lr was 0.01, is 0.5", "seed was 0, is 7", "different templates", "different set of first tokens"
    }  # fmt: skip


def test_differences_are_reported_by_name():
    assert describe_differences({"lr": "1", "seed": "2"}, {"seed": "2", "lr": "1"}) == ""
    assert describe_differences({"lr": "1"}, {"lr": "2"}) == "lr was 1, is 2"
    assert describe_differences({}, {"lr": "2"}) == "lr was None, is 2"
    for name, value in (("model", "a"), ("set of tokens", "a"), ("images", "a" * 41)):
        assert describe_differences({name: value}, {name: "b"}) == f"different {name}"
    assert describe_differences({"lr": "1", "model": "a"}, {"lr": "2", "model": "b"}).split("; ") == [
        "lr was 1, is 2",
        "different model",
    ]
