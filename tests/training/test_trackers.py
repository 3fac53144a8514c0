import csv
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from mcti_core.errors import ConfigError, FileError
from mcti_core.training.errors import StopTraining
from mcti_core.training.loop import TrainConfig, train
from mcti_core.training.schedules import gamma_at, learning_rate
from mcti_core.training.trackers import CsvTracker, Trackers, check_trackers, is_log

CONFIG = TrainConfig(
    steps=4, batch_size=2, lr=1e-2, lr_warmup_steps=1, gamma=0.5, gamma_end=0.1, templates=("a photo of a {}",)
)


def rows(folder):
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same(first, second):
    return all(torch.equal(v, second.vectors[name]) for name, v in first.vectors.items())


def run(host, cache, tokens, folder, names=("csv",), config=CONFIG, stop_after=0, told=None, **options):
    def on_step(info):
        trackers.on_step(info)
        if info.step == stop_after:
            raise StopTraining

    with Trackers(names, folder, config, log=(told if told is not None else []).append) as trackers:
        return train(host, cache, tokens, config, on_step=on_step, **options)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, gamma="auto", gamma_end=None)])
def test_csv_has_losses_learning_rate_and_gamma_of_every_step(tiny_host, cache, tokens, tmp_path, config):
    result = run(tiny_host, cache, tokens, tmp_path, config=config)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == ["1", "2", "3", "4"]
    for name in ("loss", "reconstruction", "classification"):
        assert [float(row[name]) for row in found] == list(result.history[name])
    assert [float(row["learning_rate"]) for row in found] == [learning_rate(CONFIG, step) for step in range(4)]
    gammas = list(result.history["gamma"]) if config.adaptive else [gamma_at(config, step) for step in range(4)]
    assert [float(row["gamma"]) for row in found] == gammas
    assert {row["accuracy"] for row in found} == {""}


def test_logged_learning_rate_is_the_optimizer_s(tiny_host, cache, tokens, monkeypatch):
    used, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: used.append(self.param_groups[0]["lr"]) or step(self))
    train(tiny_host, cache, tokens, CONFIG)
    assert used == [learning_rate(CONFIG, step) for step in range(4)]


def test_resumed_training_logs_each_step_once_from_the_first(tiny_host, cache, tokens, tmp_path):
    states = []
    train(tiny_host, cache, tokens, CONFIG, on_step=lambda info: states.append(info.state()))
    stopped = run(tiny_host, cache, tokens, tmp_path, stop_after=3)
    assert stopped.stop_reason == "interrupted"
    assert len(rows(tmp_path)) == stopped.steps
    whole = run(tiny_host, cache, tokens, tmp_path, resume=states[1])
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4"]
    assert [float(row["loss"]) for row in rows(tmp_path)] == list(whole.history["loss"])


def test_tensorboard_gets_the_same_values_and_images_and_tokens_stay_to_the_bit(tiny_host, cache, tokens, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    told = []
    with Trackers(("tensorboard", "csv"), tmp_path, CONFIG, log=told.append) as trackers:
        image = torch.full((3, 8, 8), 0.5)
        result = train(
            tiny_host, cache, tokens, CONFIG,
            on_step=lambda info: trackers.on_step(info, 0.75, {"a {}": [image, image]}) if info.step % 2 == 0 else None,
        )  # fmt: skip
    assert told == []
    assert same(result.tokens, train(tiny_host, cache, tokens, CONFIG).tokens)
    read = events.EventAccumulator(str(tmp_path / "logs" / tmp_path.name))
    read.Reload()
    assert [event.value for event in read.Scalars("loss")] == pytest.approx(result.history["loss"])
    assert [(event.step, event.value) for event in read.Scalars("accuracy")] == [(2, 0.75), (4, 0.75)]
    assert any("a " in tag for tag in read.Tags()["images"])
    assert [row["accuracy"] for row in rows(tmp_path)] == ["", "0.75", "", "0.75"]


def test_wandb_gets_steps_in_order_with_accuracies_and_images(tiny_host, cache, tokens, tmp_path, monkeypatch):
    from accelerate import PartialState

    logged, opened = [], []

    class Run:
        def log(self, values, step):
            logged.append((step, values))

        def finish(self):
            opened.append("finished")

    wandb = ModuleType("wandb")
    wandb.init = lambda **options: opened.append(options) or Run()
    wandb.config = SimpleNamespace(update=lambda values, **_: opened.append(values["steps"]))
    wandb.Image = lambda pixels: pixels.shape
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(PartialState, "_shared_state", {})
    told, image = [], torch.rand(3, 8, 6)
    with Trackers(("wandb",), tmp_path / "run", CONFIG, log=told.append) as trackers:
        look = lambda info: (0.5, {"a {}": [image]}) if info.step == 2 else ()  # noqa: E731
        result = train(tiny_host, cache, tokens, CONFIG, on_step=lambda info: trackers.on_step(info, *look(info)))
    assert told == []
    assert opened == [{"project": "mcti", "name": "run", "dir": str(tmp_path / "run")}, 4, "finished"]
    assert [step for step, _ in logged] == [1, 2, 2, 3, 4]
    assert logged[2][1] == {"a {}": [(8, 6, 3)]}
    assert logged[1][1]["accuracy"] == 0.5
    assert [values["loss"] for _, values in logged if "loss" in values] == list(result.history["loss"])


@pytest.mark.parametrize("when", ["opening", "logging", "finishing"])
def test_tracker_that_fails_is_reported_once_and_the_training_is_the_same(
    tiny_host, cache, tokens, tmp_path, monkeypatch, when
):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    method = {"opening": "__init__", "logging": "log", "finishing": "finish"}[when]
    monkeypatch.setattr(CsvTracker, method, fail)
    told = []
    result = run(tiny_host, cache, tokens, tmp_path, told=told)
    assert told == ["the tracker csv is no longer used: [Errno 28] No space left on device"]
    assert result.stop_reason == "max_steps"
    assert same(result.tokens, train(tiny_host, cache, tokens, CONFIG).tokens)


HEAD = "step,learning_rate,loss,reconstruction,classification,gamma,accuracy"


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", f"{HEAD}_top5\n1,2\n", f"{HEAD}\nmy,notes\n", f"{HEAD}\n=1\n"])
def test_log_of_others_that_begins_like_one_is_kept(tmp_path, content):
    (tmp_path / "log.csv").write_text(content)
    with pytest.raises(FileError, match="was not written by MC-TI"):
        CsvTracker(tmp_path)
    assert (tmp_path / "log.csv").read_text() == content


def test_log_of_an_earlier_run_is_replaced(tmp_path):
    CsvTracker(tmp_path).log({"loss": 1e-5, "learning_rate": 5e-324, "gamma": 1.7976931348623157e308}, step=1)
    assert is_log(tmp_path / "log.csv")
    CsvTracker(tmp_path)
    assert rows(tmp_path) == []
    assert not is_log(tmp_path / "missing.csv")


def test_tracker_without_its_package_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr("mcti_core.training.trackers.find_spec", lambda package: None)
    check_trackers(("csv",))
    with pytest.raises(ConfigError, match="needs the package wandb; pip install wandb, or choose csv"):
        check_trackers(("csv", "wandb"))
