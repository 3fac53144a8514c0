"""Run a transformers CLIP text tower on embedded prompts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["forward_with_embeds"]


def forward_with_embeds(tower: nn.Module, ids: Tensor, embeds: Tensor, **options: Any) -> Any:
    """The tower's own forward, with ``embeds`` in place of what its token table would give for ``ids``.

    CLIP towers take ids only. A hook on the token table for the length of one call changes nothing in the model, keeps
    the tower's causal mask, positions and pooling, and does not depend on how a version of transformers names them.

    Args:
        tower: ``CLIPTextModel`` or ``CLIPTextModelWithProjection``.
        ids: (B, L) int64; where a learned vector stands, any valid id.
        embeds: (B, L, d) token embeddings without positions; may require grad.
        options: passed on, for example ``output_hidden_states=True``.

    Returns:
        What the tower returns.
    """
    table: nn.Embedding = tower.get_input_embeddings()  # type: ignore[operator]
    hook = table.register_forward_hook(lambda module, inputs, output: embeds)
    try:
        return tower(input_ids=ids, **options)
    finally:
        hook.remove()
