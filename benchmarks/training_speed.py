"""Measure training by the usual recipe and by this library: samples per second, memory, and share of the matrix rate."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.hosts.base import Host
from mcti_core.training.config import TrainConfig
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import train

from .models import host_of, random_examples
from .plain_recipe import Examples, PlainRecipe, PlainSettings
from .timing import Case, Peak, flops_of, interleaved, matrix_product, seconds

__all__ = ["PLAIN", "Setting", "speed_rows", "variant_rows"]

PLAIN = "usual recipe"
ONE_CLASS_AT_A_TIME = "ours, one class at a time"
PREPARING = "(ours: preparing examples, once)"
PRODUCT = "(a large matrix product, in GFLOP/s)"
RELEASED_BATCH = 4
"""Images per class and optimizer step in the usual recipe: 1 x 4 accumulated."""


@dataclass(frozen=True)
class Setting:
    """The model and the device of a training."""

    folder: Path
    device: str = "cpu"
    dtype: str = "fp32"
    classes: int = 10
    shots: int = 5
    word: str = "object"

    @cached_property
    def recipe(self) -> PlainRecipe:
        return PlainRecipe(self.folder, self.device, self.dtype)

    @cached_property
    def host(self) -> Host:
        return host_of(self.folder, self.device, self.dtype)

    @cached_property
    def dataset(self) -> FewShotDataset:
        size = json.loads((self.folder / "unet" / "config.json").read_text(encoding="utf-8"))["sample_size"] * 8
        return random_examples(self.classes, self.shots, size)

    @cached_property
    def examples(self) -> Examples:
        return self.recipe.examples(self.dataset, hflip=True)

    @cached_property
    def cache(self) -> FeatureCache:
        return FeatureCache.build(self.host, self.dataset)

    def plain(self, steps: int) -> Case:
        """The usual recipe: optimizer steps on one class, batch 1, accumulated over 4."""
        settings = PlainSettings(steps=steps, word=self.word)
        self.examples  # noqa: B018  computed before the clock starts, like ours
        return Case(lambda: self.recipe.train_class(self.examples, 0, settings), steps * settings.accumulation)

    def preparing(self) -> Case:
        """The preparation of ours, once before training: every example and its mirror image through autoencoder and vision tower."""
        return Case(lambda: FeatureCache.build(self.host, self.dataset), len(self.dataset))

    def alone(self, steps: int) -> Case:
        """Ours on one class, with the recipe's accumulated number of images per step."""
        return self.ours(RELEASED_BATCH, steps, {"direction": "text_to_image"}, classes=[0])

    def ours(
        self, batch_size: int, steps: int, settings: dict[str, Any] | None = None, classes: Sequence[int] | None = None, host: Host | None = None
    ) -> Case:  # fmt: skip
        """Ours on all classes at once."""
        config = TrainConfig(steps=steps, batch_size=batch_size, **settings or {})
        tokens, cache, host = new_tokens(self.host, self.dataset.classes), self.cache, host or self.host
        return Case(lambda: train(host, cache, tokens, config, classes=classes), steps * batch_size)


def speed_rows(
    setting: Setting, batches: Sequence[int], steps: int, repeats: int, recipe: bool = True, with_memory: bool = True
) -> list[dict[str, Any]]:
    """One row per training, and one for the preparation of ours, measured side by side.

    Operations are counted in a real step. Their share is relative to the rate of a large matrix product, which takes turns with
    the trainings. Memory is measured first, each case in its own process, while this process has no models loaded.
    """
    names = [*([PLAIN] if recipe else []), ONE_CLASS_AT_A_TIME, *map(_joint, batches)]  # the recipe is for SD 1.x
    memory = {name: peak_memory(setting, name) if with_memory else {} for name in names}
    sizes = {_joint(batch): max(2, steps * RELEASED_BATCH // batch) for batch in batches}
    cases = {name: _case(setting, name, sizes.get(name, steps)) for name in names}
    others = {PREPARING: setting.preparing(), PRODUCT: matrix_product(setting.device, setting.dtype)}
    # one step is enough to warm up, and the recipe's steps are slow
    once = {name: _case(setting, name, 1) for name in names} | others
    found = interleaved(cases | others, repeats, setting.device, warm=lambda name: once[name].run())
    rows = []
    for name in names:
        gflop = flops_of(once[name].run) / once[name].units / 1e9
        row = {"training": name, "samples/s": found[name].rate, "slowest to fastest": found[name].rates}
        row["times the recipe's"] = found[PLAIN].median / found[name].median if recipe else None
        row |= {"GFLOP a sample": gflop, "of the matrix rate": gflop * found[name].rate / found[PRODUCT].rate}
        rows.append(row | {f"{key}, MB": round(value / 1e6) for key, value in memory[name].items()})
    for name in others:
        rows.append({"training": name, "samples/s": found[name].rate, "slowest to fastest": found[name].rates})
    return rows


def variant_rows(setting: Setting, batch_size: int, steps: int, repeats: int, compiled: bool) -> list[dict[str, Any]]:
    """The same training in variants; the loaded UNet is channels-last."""
    plain: dict[str, Any] = {}
    changes: dict[str, tuple[Callable[[], Host], dict[str, Any]]] = {
        "as loaded": (lambda: setting.host, plain),
        "gradient checkpointing": (lambda: setting.host, {"gradient_checkpointing": True}),
        "in parts of a quarter": (lambda: setting.host, {"micro_batch_size": batch_size // 4}),
        "UNet contiguous": (lambda: _contiguous(setting), plain),
    }
    if setting.dtype != "bf16":
        changes["bf16"] = (lambda: _in_bf16(setting), plain)
    if compiled:
        changes["torch.compile"] = (lambda: _compiled(setting), plain)
    refused, cases, first = [], {}, {}
    for name, (host, settings) in changes.items():
        try:
            case = setting.ours(batch_size, steps, settings, host=host())
            first[name] = seconds(case.run, setting.device)
            cases[name] = case
        except Exception as error:  # the row shows what a compiler or dtype does not support here
            refused.append({"variant": name, "note": f"{type(error).__name__}: {str(error)[:80]}"})
    found = interleaved(cases, repeats, setting.device, warm=lambda name: None)
    base = found["as loaded"].median
    timed = [
        {
            "variant": name, "samples/s": each.rate, "slowest to fastest": each.rates, "times as loaded": base / each.median,
            "first run, s": first[name],
        }
        for name, each in found.items()
    ]  # fmt: skip
    return timed + refused


def peak_memory(setting: Setting, name: str) -> dict[str, int]:
    """Bytes of two optimizer steps beyond the models, and in total, in a process that does nothing else."""
    options = {"folder": str(setting.folder), "device": setting.device, "dtype": setting.dtype, "word": setting.word}
    command = [sys.executable, "-m", "benchmarks.training_speed", json.dumps({**options, "case": name})]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"memory of {name!r} could not be measured: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _joint(batch_size: int) -> str:
    return f"ours, all classes, batch {batch_size}"


def _case(setting: Setting, name: str, steps: int) -> Case:
    if name == PLAIN:
        return setting.plain(steps)
    return setting.alone(steps) if name == ONE_CLASS_AT_A_TIME else setting.ours(int(name.rsplit(" ", 1)[1]), steps)


def _contiguous(setting: Setting) -> Host:
    host = host_of(setting.folder, setting.device, setting.dtype)
    host.denoiser.unet.to(memory_format=torch.contiguous_format)  # type: ignore[union-attr]
    return host


def _in_bf16(setting: Setting) -> Host:
    """The host in bf16; raises without bf16 units, since a processor's emulation is many times slower than float32."""
    if torch.device(setting.device).type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        raise RuntimeError("this processor has no bf16 units")
    return host_of(setting.folder, setting.device, "bf16")


def _compiled(setting: Setting) -> Host:
    host = host_of(setting.folder, setting.device, setting.dtype)
    host.denoiser.unet = torch.compile(host.denoiser.unet)  # type: ignore[union-attr]
    return host


def _main() -> None:
    """Measure the memory of one case; the other functions call this in a separate process."""
    parser = argparse.ArgumentParser(description=_main.__doc__)
    parser.add_argument("options", type=json.loads)
    options = parser.parse_args().options
    setting = replace(Setting(Path(options["folder"])), **{key: options[key] for key in ("device", "dtype", "word")})
    case = _case(setting, options["case"], 2)
    with Peak(setting.device) as peak:
        case.run()
    print(json.dumps({"memory beyond the models": peak.growth, "memory in all": peak.total}))


if __name__ == "__main__":
    _main()
