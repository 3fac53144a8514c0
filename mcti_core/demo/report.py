"""The demo's report: one HTML file that contains all pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..files.provenance import GENERATOR, write_text
from ..viz.image_grid import image_grid
from ..viz.plots import confusion_plot, loss_curves
from .results import EDIT, PLAIN, PROMPTS, Demo

__all__ = ["write_report"]

_NAMES = {
    "class_mean": ("Class mean of the image features", "baseline"),
    "logistic_probe": ("Logistic regression on the image features", "baseline"),
    "ti_clip": ("Textual inversion, CLIP", "tokens"),
    "mcti_clip": ("MC-TI, CLIP", "tokens"),
    "mcti_hybrid": ("MC-TI hybrid: tokens, class means and logistic probe", "tokens + examples"),
    "ti_diffusion": ("Textual inversion, diffusion classifier", "tokens, no CLIP"),
    "mcti_diffusion": ("MC-TI, diffusion classifier", "tokens, no CLIP"),
}

_TITLES = {"ti": "TI", "mcti": "MC-TI"}

_STYLE = """
:root { --ink: #1d2433; --soft: #667085; --line: #e4e7ec; --accent: #3b5bdb; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 960px; padding: 48px 24px 96px; color: var(--ink); background: #fff;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 32px; line-height: 1.2; margin: 0 0 8px; } h2 { font-size: 21px; margin: 48px 0 8px; }
p { margin: 0 0 16px; } .lead { font-size: 18px; color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 24px 0; }
.card { flex: 1 1 160px; border: 1px solid var(--line); border-radius: 12px; padding: 16px; }
.card b { display: block; font-size: 28px; line-height: 1.2; } .card span { color: var(--soft); font-size: 14px; }
table { border-collapse: collapse; width: 100%; margin: 12px 0 16px; font-size: 15px; }
th, td { text-align: left; padding: 8px 12px 8px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.bar { height: 8px; border-radius: 4px; background: var(--accent); } .baseline .bar { background: #98a2b3; }
.track { width: 160px; background: #f2f4f7; border-radius: 4px; }
img { max-width: 100%; height: auto; display: block; margin: 8px 0; } .pixel { image-rendering: pixelated; }
code { background: #f2f4f7; border-radius: 4px; padding: 1px 5px; font-size: 14px; }
.note { color: var(--soft); font-size: 14px; }
"""


def write_report(demo: Demo, path: Path) -> None:
    """Write the report of a finished demo."""
    head = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
{GENERATOR}
<title>MC-TI demo</title><style>{_STYLE}</style></head><body>"""
    sections = (_opening, _examples, _accuracy, _training, _generation, _closing)
    write_text("\n".join([head, *(line for section in sections for line in section(demo)), "</body></html>"]), path)


def _opening(demo: Demo) -> list[str]:
    images = len(demo.classes) * demo.shots
    seconds = demo.seconds["train mcti"]
    drawn = {name: sum(kinds.values()) / len(kinds) for name, kinds in demo.agreement.items()}
    recognised = f"of held-out digits recognised by CLIP; chance is {_percent(1 / len(demo.classes))}"
    cards = [
        (demo.accuracy["ti_clip"], demo.accuracy["mcti_clip"], recognised),
        (drawn["ti"], drawn["mcti"], "of drawn digits are the right one, in two prompts"),
    ]
    boxes = "".join(
        f'<div class="card"><b>{_percent(ti)} &rarr; {_percent(mcti)}</b><span>{text}</span></div>'
        for ti, mcti, text in cards
    )
    rows = [(f"{title}, {kind}", f"{name} {kind}") for kind in PROMPTS for name, title in _TITLES.items()]
    first = [demo.samples[key][:, 0] for _, key in rows]
    return [
        "<h1>Ten unnamed things, learned at once</h1>",
        f'<p class="lead">{images} example images, {demo.shots} of each class and no class names, taught a frozen '
        f"text-to-image model {len(demo.classes)} new words in {seconds:.0f} seconds. The same words classify images "
        "that were held out, and generate new ones.</p>",
        "<p>Textual inversion (TI) &rarr; multi-class textual inversion (MC-TI), which adds a classification term to its loss:</p>",
        f'<div class="cards">{boxes}</div>',
        _grid(demo, first, "one drawing of each digit by TI and by MC-TI in two prompts", [label for label, _ in rows]),
        f'<p class="note">The first drawing of each class in <code>{html.escape(PLAIN)}</code> (plain) and '
        f"<code>{html.escape(EDIT)}</code> (edit), not chosen.</p>",
        _behind(demo),
    ]


def _behind(demo: Demo) -> str:
    """Figures in which MC-TI is behind a baseline or TI."""
    accuracy, baselines = demo.accuracy, {"class_mean": "the class mean", "logistic_probe": "the logistic probe"}
    behind = [
        f"{name} recognises {100 * (accuracy[key] - accuracy[own]):.1f} points more than MC-TI {how}"
        for own, how, others in (
            ("mcti_clip", "by CLIP", baselines),
            ("mcti_hybrid", "with its examples (hybrid)", baselines),
            ("mcti_diffusion", "by the diffusion model", {"ti_diffusion": "TI"}),
        )
        for key, name in others.items()
        if accuracy[key] > accuracy[own]
    ]
    measures = ((demo.agreement, "the right digit more often"), (demo.similarity, "more like the examples"))
    behind += [
        f"TI draws {what} ({kind} prompt)"
        for kind in PROMPTS
        for measure, what in measures
        if measure["ti"][kind] > measure["mcti"][kind]
    ]
    if not behind:
        return "<p>MC-TI is behind TI and the baselines in none of the figures below.</p>"
    return f"<p>Where MC-TI is behind: {'; '.join(behind)}.</p>"


def _examples(demo: Demo) -> list[str]:
    assert demo.support is not None
    return [
        "<h2>What was shown</h2>",
        "<p>Real handwriting (scikit-learn's <code>load_digits</code>), drawn in random ink on random paper. "
        "The model was trained on other scripts and has never seen a digit; the names above the columns are for you.</p>",
        _grid(demo, demo.support.transpose(0, 1), "the examples, one column per class"),
    ]


def _accuracy(demo: Demo) -> list[str]:
    chance = _percent(1 / len(demo.classes))
    rows = [f"<tr><td>Chance</td><td></td><td class='n'>{chance}</td><td></td><td></td><td></td></tr>"]
    for key, (name, kind) in _NAMES.items():
        share = demo.accuracy[key]
        bar = f'<div class="track"><div class="bar" style="width:{100 * share:.0f}%"></div></div>'
        rows.append(
            f'<tr class="{"baseline" if kind == "baseline" else ""}"><td>{name}</td><td class="note">{kind}</td>'
            f'<td class="n">{_percent(share)}</td><td>{bar}</td><td class="n">{demo.queries[key]:,}</td>'
            f'<td class="n">{demo.evaluations[key]:.0f}</td></tr>'
        )
    head = "<tr><th>Classifier</th><th>uses</th><th class='n'>accuracy</th><th></th><th class='n'>images</th><th class='n'>UNet calls per image</th></tr>"
    assert demo.confusion is not None
    return [
        "<h2>Classifying</h2>",
        f"<table>{head}{''.join(rows)}</table>",
        _image(confusion_plot(demo.confusion, demo.classes), "confusion matrix of MC-TI with CLIP"),
        '<p class="note">Confusion of MC-TI with CLIP: rows are true digits, columns predicted ones.</p>',
    ]


def _training(demo: Demo) -> list[str]:
    curves = loss_curves({title: demo.histories[name] for name, title in _TITLES.items()})
    return [
        "<h2>Training</h2>",
        "<p>Both runs predict noise under a random prompt with the class's token (reconstruction). MC-TI adds a "
        "cross-entropy over the classes between the prompts' text features and the examples' image features.</p>",
        _image(curves, "loss curves"),
    ]


def _generation(demo: Demo) -> list[str]:
    rows = ""
    for name, title in _TITLES.items():
        for kind, prompt in PROMPTS.items():
            colours = _percent(demo.colours_right[name][kind]) if kind in demo.colours_right[name] else ""
            rows += (
                f"<tr><td>{title}</td><td>{html.escape(prompt)}</td><td class='n'>{_percent(demo.agreement[name][kind])}</td>"
                f"<td class='n'>{colours}</td><td class='n'>{demo.similarity[name][kind]:.3f}</td></tr>"
            )
    pieces = [
        "<h2>Generating</h2>",
        "<table><tr><th>tokens</th><th>prompt</th><th class='n'>right digit</th><th class='n'>colours as asked</th>"
        f"<th class='n'>likeness to the examples</th></tr>{rows}</table>",
        f'<p class="note">The judge is a support vector machine on ink shapes, trained on digits outside the examples; it is right on '
        f"{_percent(demo.judge_accuracy)} of unseen real ones. Likeness is the cosine of CLIP image features to the mean of the class's "
        "examples: a judge alone would reward caricature.</p>",
    ]
    for kind, prompt in PROMPTS.items():
        pieces.append(f"<p><code>{html.escape(prompt)}</code></p>")
        for name, title in (("mcti", "MC-TI"), ("ti", "plain textual inversion")):
            samples = demo.samples[f"{name} {kind}"].transpose(0, 1)[:4]  # four rows, one column per class
            pieces += [f'<p class="note">{title}</p>', _grid(demo, samples, f"samples of {title}, {kind}")]
    return pieces


def _closing(demo: Demo) -> list[str]:
    stages = "".join(
        f"<tr><td>{html.escape(name)}</td><td class='n'>{value:.1f} s</td></tr>" for name, value in demo.seconds.items()
    )
    return [
        "<h2>Time</h2>",
        f"<table>{stages}</table>",
        f'<p class="note">Seed {demo.seed}, {demo.shots} shots. The learned tokens are in <code>tokens.safetensors</code> beside '
        'this file; <code>mcti generate --tokens tokens.safetensors --prompt "a drawing of a blue {3} on pink paper"</code> '
        "draws with them.</p>",
    ]


def _grid(demo: Demo, rows: Iterable[Tensor], description: str, labels: Sequence[str] = ()) -> str:
    """Rows of images, one column per class."""
    images = [list(row) for row in rows]
    return _image(image_grid(images, labels or [""] * len(images), demo.classes), description, "pixel")


def _image(picture: Image.Image, description: str, style: str = "plot") -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="{style}" alt="{html.escape(description)}" src="data:image/png;base64,{data}">'


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
