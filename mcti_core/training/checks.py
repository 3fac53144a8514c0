"""Check that host, examples, initial tokens and settings of a training fit together."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.feature_cache import FeatureCache
from ..errors import ConfigError, HostError, listed
from ..files.limits import check_counts
from ..hosts.base import Host
from ..prompts.splicing import check_encoders
from ..tokens.names import normal_form
from ..tokens.token_set import TokenSet
from .config import TrainConfig

__all__ = ["check_training"]


def check_training(
    host: Host, cache: FeatureCache, tokens: TokenSet, config: TrainConfig, active: Sequence[int], processes: int
) -> None:
    """Check a training of the ``active`` classes in so many processes before anything is computed.

    Raises:
        ConfigError: cache, tokens, settings and host do not fit together.
        TokenError: the tokens are for other text encoders.
        HostError: the host does not have a model that the settings need.
    """
    if [*map(normal_form, cache.classes)] != [*map(normal_form, tokens.labels)]:
        raise ConfigError(
            f"the examples' classes ({listed(cache.classes)}) are not the tokens' ({listed(tokens.labels)})"
        )
    check_counts(tokens.labels, config.templates)
    check_encoders(host, tokens.vectors)
    if not active or len(set(active)) != len(active) or not set(active) <= set(range(len(tokens))):
        raise ConfigError(f"the classes to train must be distinct, from 0 to {len(tokens) - 1}, got {listed(active)}")
    if config.reconstruction_weight:
        host.require_denoiser()
        if cache.latents is None:
            raise ConfigError("the examples have no latents; build the cache with a VAE")
        if config.batch_size < processes:
            raise ConfigError(f"{processes} processes need a batch of as many images at least, got {config.batch_size}")
    if config.gamma:
        if len(active) == 1 and config.direction != "text_to_image":
            raise ConfigError("with a single class in training, direction must be 'text_to_image'")
        if host.clip is None:
            raise HostError(
                f"{host.name} has no CLIP space, which gamma {config.gamma} needs; give the CLIP model that its text encoder comes "
                "from, or set gamma to 0 (and classification_only_steps to 0), which is plain textual inversion"
            )
        if cache.features is None:
            raise ConfigError(
                "the examples have no image features; build the cache with a CLIP space, or set gamma to 0"
            )
