"""Review page: one self-contained HTML file with thumbnails per class that exports corrections as CSV."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..data.label_table import FORMULA
from ..errors import ExamplesError, counted
from ..escaping import escaped, without_surrogates
from ..files.provenance import GENERATOR, write_text
from ..images.reading import load_square
from ..tokens.token_set import UNKNOWN
from ..viz.image_grid import to_pil

__all__ = ["Item", "write_review"]

_THUMBNAIL, _SMALL = 112, 44
_STYLE = """
:root { --ink: #1d2433; --soft: #667085; --line: #e4e7ec; --accent: #0b62b8; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: center; padding: 12px 24px; background: #fff;
  border-bottom: 1px solid var(--line); }
header p { margin: 0; color: var(--soft); flex: 1 1 300px; } h1 { font-size: 19px; margin: 0; white-space: nowrap; }
button { font: inherit; color: #fff; background: var(--accent); border: 0; border-radius: 8px; padding: 8px 16px; cursor: pointer; white-space: nowrap; }
button:disabled { background: #98a2b3; cursor: default; }
section { padding: 8px 24px 16px; } h2 { font-size: 17px; margin: 12px 0; } h2 small { color: var(--soft); font-weight: 400; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, 160px); gap: 12px; }
figure { margin: 0; padding: 8px; border: 1px solid var(--line); border-radius: 8px; }
figure.changed { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
figure > img { width: 112px; height: 112px; display: block; margin: 0 auto 8px; }
input { font: inherit; width: 100%; padding: 3px 6px; border: 1px solid var(--line); border-radius: 6px; }
.note, .name { color: var(--soft); font-size: 12px; overflow-wrap: anywhere; } .near img { width: 44px; height: 44px; margin: 4px 2px 0 0; }
"""
_SCRIPT = """
const fields = [...document.querySelectorAll("input")], button = document.querySelector("button");
const label = field => field.value.trim() || field.placeholder;
const first = new Map(fields.map(field => [field, label(field)]));
const changed = () => fields.filter(field => label(field) !== first.get(field));
const state = () => JSON.stringify(fields.map(label));
let saved = state();
const show = () => {
  for (const field of fields) field.closest("figure").classList.toggle("changed", label(field) !== first.get(field));
  button.textContent = `Download corrections (${changed().length})`;
  button.disabled = !changed().length;
};
for (const field of fields) {  // an empty field lists all classes
  field.addEventListener("focus", () => { field.placeholder = field.value; field.value = ""; });
  field.addEventListener("input", show);
  field.addEventListener("blur", () => { field.value = label(field); field.placeholder = ""; show(); });
}
const cell = text => '"' + (FORMULA.includes(text[0]) ? "'" : "") + text.replaceAll('"', '""') + '"';
button.addEventListener("click", () => {
  const rows = [["image", "label"], ...changed().map(field => [field.closest("figure").dataset.image, label(field)])];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(rows.map(row => row.map(cell).join(",") + "\\r\\n"), {type: "text/csv"}));
  link.download = "corrections.csv";
  link.click();
  saved = state();
});
addEventListener("beforeunload", event => { if (saved !== state()) event.preventDefault(); });
show();
"""


@dataclass(frozen=True)
class Item:
    """An image on the page."""

    image: str
    """Path; the page contains it as an absolute path."""
    label: str
    """Current label; ``UNKNOWN`` for none."""
    note: str
    """Text below the image, such as the confidence."""
    nearest: Sequence[Path] = ()
    """Examples shown below the image."""


def write_review(items: Sequence[Item], classes: Sequence[str], path: Path, remark: str = "") -> None:
    """Write the page. Images are grouped by class and keep their order.

    Args:
        classes: suggested labels; others can be typed.
        remark: an additional sentence in the header.

    Raises:
        FileError: a foreign file is there, or the page cannot be written.
    """
    order = [UNKNOWN, *dict.fromkeys((*classes, *(item.label for item in items)))]
    groups = {label: [item for item in items if item.label == label] for label in dict.fromkeys(order)}
    options = "".join(f'<option value="{_text(label)}">' for label in groups)
    sections = "".join(_section(label, group) for label, group in groups.items() if group)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
{GENERATOR}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>MC-TI review</title><style>{_STYLE}</style></head><body>
<header><h1>{counted(len(items), "image")} to review</h1><p>Click a label to choose another, or type a new one; {_text(UNKNOWN)} leaves the image
out. {_text(remark)}</p><button disabled>Download corrections</button></header>
<datalist id="classes">{options}</datalist>
{sections}
<script>const FORMULA = {json.dumps(FORMULA)};{_SCRIPT}</script></body></html>
"""
    write_text(page, path)


def _section(label: str, items: Sequence[Item]) -> str:
    figures = "".join(
        f"""<figure data-image="{_text(os.path.abspath(item.image))}">{_image(item.image, _THUMBNAIL)}
<input list="classes" aria-label="label" autocomplete="off" value="{_text(item.label)}">
<div class="note">{_text(item.note)}</div><div class="near">{"".join(_image(path, _SMALL) for path in item.nearest)}</div>
<div class="name">{_text(escaped(Path(item.image).name))}</div></figure>
"""
        for item in items
    )
    return f'<section><h2>{_text(escaped(label))} <small>{len(items)}</small></h2><div class="grid">{figures}</div></section>\n'


@lru_cache(maxsize=4096)
def _image(path: str | Path, side: int) -> str:
    """A square thumbnail as an ``img`` element; empty if the image is no longer readable."""
    try:
        picture = to_pil(load_square(path, side))
    except ExamplesError:
        return ""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _text(text: str) -> str:
    """Escape text for HTML; line ends are kept by character references, and surrogates are written as escapes."""
    return html.escape(without_surrogates(text)).replace("\r", "&#13;").replace("\n", "&#10;")
