"""The checks of ``on_gpu``: trainings, images and classifications in one server, with time and memory of each."""

from __future__ import annotations

import itertools
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mcti_core.tokens.token_set import TokenSet

from .on_gpu_loader import Loader
from .server import Graph, Listener, Run, node

__all__ = ["Checks", "table"]

LEAST_ALIKE = 0.99
"""Cosine of two trainings' moves; half precision on a card does not repeat itself to the bit."""
LEAST_ACCURATE = 50
"""Percent of digits that the pocket's tokens recognise."""
GB = 1e9


class Checks:
    """Runs checks, and keeps a row of figures for each.

    Args:
        side: pixels of examples and images, 0 for what the model was made for.
        steps: of a training, by model.
        batch: of a training.
        clip_space: file in ``clip_vision``, for the first model that is trained.
        seconds: after which no check begins.
        longest: seconds that one graph may take.
    """

    def __init__(
        self, side: int, steps: Mapping[str, int], batch: int, clip_space: str | None, seconds: float, longest: float
    ):
        self.side, self.steps, self.batch, self.clip_space = side, steps, batch, clip_space
        self._longest = longest
        self.rows: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self._first: str | None = None
        self._right: dict[str, tuple[str, TokenSet]] = {}
        self._last: dict[tuple[str, str], Graph] = {}
        self._salts = itertools.count(1)
        self._end = time.monotonic() + seconds

    def trying(self, check: Callable[..., object], loader: Loader, *arguments: Any, **options: Any) -> None:
        """A check whose failure does not end the others."""
        name = f"{loader.name}: {check.__name__} {' '.join(map(str, (*arguments, *options.values())))}"
        if time.monotonic() > self._end:
            self.failed.append(f"{name}: not begun, time is up")
            return
        try:
            loader.revive()
            check(loader, *arguments, **options)
        except Exception as error:
            traceback.print_exc()
            self.failed.append(f"{name}: {str(error)[:600]}")

    # -- checks ----------------------------------------------------------------------------------------------------------

    def pocket(self, loader: Loader) -> None:
        """Train with the pocket checkpoint, and recognise digits that were held out."""
        parts: dict[str, Any] = {
            name: ["pocket", i] for i, name in enumerate(("model", "clip", "vae", "clip_space", "examples"))
        }
        given = {"tokens": ["train", 0], "clip": ["pocket", 1], "clip_space": ["pocket", 3]}
        graph = {
            "pocket": node("MCTI_Pocket", shots=5, seed=0),
            "train": node(
                "MCTI_TrainTokens", **parts, seed=0, steps=150, batch_size=20, lr=0.02, gamma=0.1, num_samples=0
            ),
            "save": node("MCTI_SaveTokens", tokens=["train", 0], name="pocket", format="token set", folder=""),
            "evaluate": node("MCTI_Evaluate", held_out=["pocket", 5], **given, method="auto", max_images_per_class=0),
            "shown": node("PreviewAny", source=["evaluate", 0]),
        }
        run, figures = self._run(loader, graph)
        percent = 100 * float(run.texts("shown")[0])
        if percent < LEAST_ACCURATE:
            self.failed.append(f"{loader.name}: the pocket's tokens recognise {percent:.0f}% of digits")
        self._row(
            loader,
            "pocket",
            "train",
            figures,
            self._compared(loader, "pocket", loader.tokens("pocket")),
            f"{percent:.0f}% right",
        )

    def train(self, loader: Loader, model: str, what: str = "", unet: tuple[str, str] | None = None) -> None:
        """Train with a checkpoint, from the same start as ever, and compare with the first training of the same weights."""
        graph, name = self._training(model, unet)
        run, figures = self._run(loader, graph)
        losses = json.loads(run.texts("losses")[0])["loss"]
        kind = model if unet is None else " ".join((model, *unet))
        compared = self._compared(loader, kind, loader.tokens(name))
        self._last[loader.name, model] = graph
        self._row(loader, kind, f"train {what}", figures, compared, f"loss {losses[0]:.4g} to {losses[-1]:.4g}")

    def draw(self, loader: Loader, model: str, what: str = "") -> None:
        """Images of the tokens that were trained last."""
        side = self.side or (1024 if "xl" in model.lower() else 512)
        graph = self._last[loader.name, model]
        prompts = {"tokens": ["train", 0], "template": f"a photo of {{}}, {next(self._salts)}"}
        noise = {"seed": 1, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        rows = {"positive": ["positive", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
        graph = graph | {
            "prompts": node("MCTI_TokenPrompts", **prompts),
            "positive": node("CLIPTextEncode", clip=["train", 1], text=["prompts", 0]),
            "negative": node("CLIPTextEncode", clip=["train", 1], text=""),
            "latent": node("EmptyLatentImage", width=side, height=side, batch_size=1),
            "sampled": node("KSampler", model=graph["train"]["inputs"]["model"], **rows, **noise),
            "decoded": node("VAEDecode", samples=["sampled", 0], vae=["checkpoint", 2]),
            "shown": node("PreviewImage", images=["decoded", 0]),
        }
        run, figures = self._run(loader, graph)
        images = [
            torch.tensor(list(image.convert("L").getdata())).float() for image in loader.server.images(run)["shown"]
        ]
        contrast = min(float(image.std()) for image in images)
        if contrast < 1:
            self.failed.append(f"{loader.name}: images of {model} are plain ({contrast:.2f})")
        self._row(loader, model, f"{len(images)} images {what}", figures, {}, f"contrast {contrast:.0f} of 255")

    def resume(self, loader: Loader, model: str) -> None:
        """Cancel a training in its middle, and queue it again."""
        graph, name = self._training(model, None)
        with Listener(loader.server) as listener:
            queued = loader.server.submit(graph)
            listener.wait_for_progress("train", self.steps[model] // 3, self.steps[model], timeout=self._left())
            loader.server.interrupt()
            run = loader.server.wait(queued, self._left())
        if run.succeeded or not run.interrupted:
            raise RuntimeError(f"the training was not interrupted: {run.error or 'it was done'}")
        run, figures = self._run(loader, graph)
        self._last[loader.name, model] = graph
        before = loader.server.log().count("queue the same graph again to continue")
        self._row(
            loader,
            model,
            "cancelled, then resumed",
            figures,
            self._compared(loader, model, loader.tokens(name)),
            f"{before} kept",
        )

    def classify(self, loader: Loader, model: str, method: str) -> None:
        """An example, by the tokens that were trained last."""
        graph = self._last[loader.name, model]
        train = graph["train"]["inputs"]
        parts = {name: train[name] for name in ("clip", "model", "vae", "clip_space") if name in train}
        options = {"method": method, "top_k": 3, "threshold": 0.0, "calibrate_threshold": False}
        graph = graph | {
            "image": node("EmptyImage", width=256, height=256, batch_size=1, color=0xFF0000 + next(self._salts)),
            "classify": node("MCTI_Classify", images=["image", 0], tokens=["train", 0], **parts, **options),
            "shown": node("PreviewAny", source=["classify", 3]),
        }
        run, figures = self._run(loader, graph)
        self._row(loader, model, f"classify, {method}", figures, {}, run.texts("shown")[0][:90])

    # -- parts of checks -------------------------------------------------------------------------------------------------

    def _training(self, model: str, unet: tuple[str, str] | None) -> tuple[Graph, str]:
        """Train and save; and the name of the file."""
        self._first = self._first or model
        salt = next(self._salts)
        name = "".join(c if c.isalnum() else "-" for c in f"{model}-{salt}")
        parts: dict[str, Any] = {part: ["checkpoint", i] for i, part in enumerate(("model", "clip", "vae"))}
        graph = {
            "checkpoint": node("CheckpointLoaderSimple", ckpt_name=model),
            "examples": node("MCTI_ExamplesFromFolder", folder="things", shots=0, seed=0, image_size=self.side),
            "save": node("MCTI_SaveTokens", tokens=["train", 0], name=name, format="token set", folder=""),
            "losses": node("PreviewAny", source=["train", 2]),
        }
        if unet is not None:
            graph["unet"] = node("UNETLoader", unet_name=unet[0], weight_dtype=unet[1])
            parts["model"] = ["unet", 0]
        gamma = 0.0
        if self.clip_space and model == self._first:
            graph["space"] = node("MCTI_LoadClipSpace", clip_file=self.clip_space)
            parts["clip_space"], gamma = ["space", 0], 0.1
        parts |= {
            "examples": ["examples", 0],
            "seed": 0,
            "validation_prompt": str(salt),
        }  # which is not used: nothing from the cache
        graph["train"] = node(
            "MCTI_TrainTokens",
            **parts,
            steps=self.steps[model],
            batch_size=self.batch,
            lr=0.005,
            gamma=gamma,
            num_samples=0,
        )
        return graph, name

    def _run(self, loader: Loader, graph: Graph) -> tuple[Run, dict[str, Any]]:
        """Its figures: seconds, seconds per step, GB."""
        loader.memory()
        with Listener(loader.server) as listener:
            try:
                run = loader.server.run(graph, timeout=self._left())
            except TimeoutError:
                loader.server.interrupt()
                raise
            steps = listener.of("progress", "train", graph["train"]["inputs"]["steps"])
        found = loader.memory()
        if not run.succeeded:
            lines = "".join(run.error.get("traceback", []))
            print(lines, flush=True)
            raise RuntimeError(run.error.get("exception_message") or str(run.history)[:600])
        figures: dict[str, Any] = {"seconds": run.seconds}
        if len(steps) > 1 and steps[-1].data["value"] > steps[0].data["value"]:
            count = steps[-1].data["value"] - steps[0].data["value"]
            figures["s/step"] = (steps[-1].at - steps[0].at) / count
        names = {
            "torch": "PyTorch's peak, GB",
            "mapped": "mapped, GB",
            "card": "taken on the card, GB",
            "free": "free after, GB",
        }
        return run, figures | {title: found[name] / GB for name, title in names.items() if name in found}

    def _left(self) -> float:
        return min(self._longest, max(5.0, self._end + 15 - time.monotonic()))

    def _compared(self, loader: Loader, kind: str, tokens: TokenSet) -> dict[str, Any]:
        """The first tokens of a kind are what the others are compared with."""
        finite = all(bool(v.isfinite().all()) for v in tokens.vectors.values())
        if not finite:
            self.failed.append(f"{loader.name}: {kind} gave tokens that are no numbers")
        whose, right = self._right.setdefault(kind, (loader.name, tokens))
        if right is tokens:
            return {"as": "itself"}
        alike = _alike(tokens, right)
        if not alike >= LEAST_ALIKE:
            self.failed.append(f"{loader.name}: {kind} moved {alike:.4f} as {whose}'s")
        return {"alike": alike, "apart": _apart(tokens, right), "as": whose}

    def _row(
        self, loader: Loader, model: str, what: str, figures: Mapping[str, Any], compared: Mapping[str, Any], told: str
    ) -> None:
        row = {"loader": loader.name, "model": model, "what": what.strip(), **figures, **compared, "told": told}
        self.rows.append(row)
        print(json.dumps(row), flush=True)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_text(name, row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value).replace("|", "/")
    return {"alike": f"{value:.5f}", "apart": f"{value:.1e}", "s/step": f"{value:.3f}"}.get(name, f"{value:.2f}")


def _moves(tokens: TokenSet) -> torch.Tensor:
    """All vectors, which began alike, less what the classes share."""
    return torch.cat([(v - v.mean(0)).flatten() for v in tokens.vectors.values()])


def _alike(a: TokenSet, b: TokenSet) -> float:
    """Cosine between the moves of two trainings."""
    return float(torch.cosine_similarity(_moves(a), _moves(b), dim=0))


def _apart(a: TokenSet, b: TokenSet) -> float:
    """The largest difference between the moves, beside the largest move."""
    return float((_moves(a) - _moves(b)).abs().max() / _moves(b).abs().max())
