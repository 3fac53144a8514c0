"""Model card of a token set (README.md): classes, usage, measurements, settings and versions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import torch

from ..errors import TokenError
from ..escaping import escaped
from ..files.provenance import TEXT_MARK
from .token_set import TokenSet

__all__ = ["model_card"]

_CARD = """---
{mark}
license: {license}
library_name: mcti
pipeline_tag: text-to-image
tags: [textual-inversion, image-classification, mcti]
---

# Tokens of {count} classes

Learned by multi-class textual inversion ([arXiv 2410.22317](https://arxiv.org/abs/2410.22317)) for {base}, which is not included. They generate each thing in prompts, and tell the
things apart.

| class | token | examples |
|---|---|---|
{rows}

## Use

In ComfyUI, with the files in `embeddings/`: `embedding:{name}`. In Python, from this folder or its address on the Hub:

```python
from mcti_core import TokenSet, add_to_pipeline, calibrated_classifier

tokens = TokenSet.from_pretrained("FOLDER-OR-REPOSITORY")
answers = calibrated_classifier("auto", host, tokens)(images)  # host = mcti_core.load_host(model, clip)
words = add_to_pipeline(pipe, tokens)  # a diffusers pipeline; words["LABEL"] is for prompts
```
{figures}
## Settings

```json
{settings}
```

## Versions

{versions}

## Licence

`license: {license}` is set at the top of this file. The licences of the base model and of the example images apply, too.
"""


def model_card(
    tokens: TokenSet, versions: Mapping[str, str], *, license: str = "unknown", figures: Mapping[str, str] | None = None
) -> str:
    """Text of README.md with the YAML header for Hugging Face. Labels and other external texts are escaped.

    Args:
        versions: library name -> version.
        license: licence identifier, such as ``cc-by-4.0``; a ``TokenError`` for anything else.
        figures: name -> measurement; if given, ``loss.png`` is shown too.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,63}", license):
        raise TokenError(f"the licence {license[:80]!r} is no identifier; write for example cc-by-4.0 or unknown")
    counts = [""] * len(tokens)
    if tokens.support is not None:
        counts = list(map(str, torch.bincount(tokens.support.labels, minlength=len(tokens)).tolist()))
    columns = zip(tokens.labels, tokens.names, counts, strict=True)
    rows = [f"| {_plain(label)} | `{name}` | {count} |" for label, name, count in columns]
    measured = "".join(f"- {name}: {value}\n" for name, value in (figures or {}).items())
    shown = f"\n## Figures\n\n{measured}\n![Loss at each step](loss.png)\n" if measured else ""
    settings = {**tokens.training, "templates": tokens.templates, "pooling": tokens.pooling}
    settings["vectors"] = {encoder: list(vectors.shape[1:]) for encoder, vectors in tokens.vectors.items()}
    return _CARD.format(
        mark=TEXT_MARK, license=license, count=len(tokens), base=_plain(tokens.base_model or "an unnamed model"),
        rows="\n".join(rows), name=tokens.names[0], figures=shown, settings=json.dumps(settings, indent=1),
        versions=", ".join(f"{name} {_plain(version)}" for name, version in versions.items()),
    )  # fmt: skip


def _plain(text: str) -> str:
    """Escape text for Markdown, including links, table cells and HTML."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", escaped(text))
