"""CLIP's zero-shot classifier, which is given the classes' names: a reference from the other setting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..hosts.base import Host, hidden_at
from ..prompts.splicing import encode_prompts, plain_prompts

__all__ = ["name_text_features"]


def name_text_features(host: Host, names: Sequence[str], templates: Sequence[str], batch: int = 256) -> Tensor:
    """Unit text feature of every name, averaged over the templates: (C, p) float32 on the CPU."""
    clip = host.need_clip()
    texts = [template.replace("{}", name) for name in names for template in templates]
    nothing = {name: torch.zeros(1, 1, encoder.width, device=host.device) for name, encoder in host.text.items()}
    found = []
    with torch.inference_mode(), host.session("text"):
        for start in range(0, len(texts), batch):
            prompts = plain_prompts(host.text[clip.encoder], texts[start : start + batch]).without_padding()
            text = encode_prompts(host, {clip.encoder: prompts}, nothing)[clip.encoder]
            pooled = hidden_at(text.hidden, prompts.end)
            found.append(F.normalize(clip.project_text(pooled).float(), dim=-1).cpu())
    return F.normalize(torch.cat(found).view(len(names), len(templates), -1).mean(1), dim=-1).clone()
