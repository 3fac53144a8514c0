"""Run a transformers CLIP text tower on embedded prompts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["forward_with_embeds"]


def forward_with_embeds(tower: nn.Module, ids: Tensor, embeds: Tensor, **options: Any) -> Any:
    """Run the tower's own forward with ``embeds`` instead of its token embeddings of ``ids``.

    CLIP towers accept only ids. A hook on the token table during one call does not change the model, keeps the tower's
    causal mask, positions and pooling, and does not depend on their names in a version of transformers.

    Args:
        tower: ``CLIPTextModel`` or ``CLIPTextModelWithProjection``.
        ids: (B, L) int64; at a learned vector, any valid id.
        embeds: (B, L, d) token embeddings without positions; may require grad.
        options: passed to the tower, for example ``output_hidden_states=True``.

    Returns:
        The tower's output.
    """
    table: nn.Embedding = tower.get_input_embeddings()  # type: ignore[operator]
    hook = table.register_forward_hook(lambda module, inputs, output: embeds)
    try:
        return tower(input_ids=ids, **options)
    finally:
        hook.remove()
