"""Node that makes one prompt per class."""

from __future__ import annotations

import re

from comfy_api.latest import io

from ..mcti_core.errors import TokenError
from ..mcti_core.files.limits import MAX_PROMPT
from ..mcti_core.tokens.references import EMBEDDING
from ..mcti_core.tokens.token_set import TokenSet
from .checking import Node
from .schema import node_schema
from .types import TokensType

__all__ = ["TokenPrompts"]

_PREFIXED = re.compile(EMBEDDING.pattern + r"[\"'<]?\{\}[\"'>]?", re.IGNORECASE)
"""A slot that is already written with the prefix."""


class TokenPrompts(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_TokenPrompts",
            search_aliases=["embedding", "prompt list", "textual inversion"],
            inputs=[TokensType.Input("tokens"), io.String.Input("template", multiline=True, default="a photo of {}")],
            outputs=[io.String.Output("prompts", is_output_list=True), io.String.Output("labels", is_output_list=True)],
        )

    @classmethod
    def execute(cls, tokens: TokenSet, template: str) -> io.NodeOutput:
        if "{}" not in template:
            raise TokenError(f"the template {template!r} contains no {{}}; write {{}} in place of the token")
        plain = _PREFIXED.sub("{}", template)
        # ComfyUI's own lookup ends a name only at a space, a bracket or a weight
        ended = re.sub(r"\{\}(?=[^\s:),]|:(?!\s*[-+.\d]))", "{} ", plain)
        apart = re.sub(r"(?<=[^\s(])\{\}", " {}", ended)
        count, longest = apart.count("{}"), max(map(len, tokens.names))
        if len(apart) + count * (len("embedding:") + longest) > MAX_PROMPT:
            raise TokenError(
                f"the prompts would have more than {MAX_PROMPT:,} characters, with {{}} {count:,} times in the template; shorten it"
            )
        return io.NodeOutput([apart.replace("{}", f"embedding:{name}") for name in tokens.names], list(tokens.labels))
