"""Check combinations of options and the paths they name before a model or an image is read."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ConfigError, HostError, TokenError

__all__ = ["check_options", "is_curated"]

_CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_FROM_EMBEDDINGS = "make a set of it with: mcti convert {} --format set --output NAME.safetensors"


def check_options(arguments: argparse.Namespace) -> None:
    """Check all options of a command.

    If ``tokens`` or ``start_from`` is the folder of a training, it is replaced by the token set in it.

    Raises:
        MCTIError: options conflict or would have no effect, or a path is missing or of the wrong kind.
    """
    if hasattr(arguments, "model"):
        _check_model(arguments)
        # for "auto" and "cuda", each of several processes checks only its own GPU, in host_of
        if arguments.device not in ("auto", "cpu", "cuda"):
            from .options import check_device

            check_device(arguments.device)
    if hasattr(arguments, "label_errors"):
        _check_evaluation(arguments)
    if hasattr(arguments, "first_seed"):
        _check_seeds(arguments)
    if hasattr(arguments, "method"):
        _check_method(arguments)
    if hasattr(arguments, "lr"):
        _check_training(arguments)
    for name in ("tokens", "start_from"):
        if isinstance(given := getattr(arguments, name, None), Path):
            setattr(arguments, name, _token_set(given))


def _check_model(arguments: argparse.Namespace) -> None:
    model, clip, config = arguments.model, arguments.clip, arguments.model_config
    if model is None and (clip or config):
        option = "--clip" if clip else "--model-config"
        raise ConfigError(f"{option} goes with --model; the pocket checkpoint brings its own")
    if model is None:
        return
    if not model.exists():
        raise HostError(f"no model at {model}; give a diffusers folder or a single-file checkpoint")
    if model.is_file() and model.suffix.lower() not in _CHECKPOINTS:
        raise HostError(
            f"{model} is not a checkpoint; give a diffusers folder, or a file that ends in {' or '.join(_CHECKPOINTS)}"
        )
    if config is not None and model.is_dir():
        raise ConfigError(f"--model-config goes with a single-file checkpoint; {model} is a folder, which has its own")
    for option, folder, inside in (("--clip", clip, "config.json"), ("--model-config", config, "model_index.json")):
        if folder is not None and not (folder / inside).is_file():
            what = "a file" if folder.is_file() else "there, but without one" if folder.is_dir() else "not there"
            kind = "transformers CLIPModel" if option == "--clip" else "diffusers"
            raise HostError(f"{option} takes a {kind} folder, which holds {inside}; {folder} is {what}")


def _check_method(arguments: argparse.Namespace) -> None:
    """Options of classify and evaluate. Only the pocket checkpoint includes a CLIP space."""
    has_clip, method = arguments.model is None or arguments.clip is not None, arguments.method
    if method in ("clip", "hybrid", "cascade") and not has_clip:
        clip = "the CLIP model that the checkpoint's text encoder comes from"
        raise HostError(f"--method {method} needs --clip, {clip}; or take --method diffusion")
    if hasattr(arguments, "move_to"):
        _check_curation(arguments, has_clip)
    if getattr(arguments, "reject_unknown", False) and (method in ("diffusion", "cascade") or not has_clip):
        raise ConfigError(
            "--reject-unknown finds its threshold with the examples' image features, by which the diffusion model does not decide; give "
            "--threshold, or --method clip or hybrid" + ("" if has_clip else " with --clip")
        )


def _check_curation(arguments: argparse.Namespace, has_clip: bool) -> None:
    if arguments.examples is not None and arguments.review is None:
        raise ConfigError("--examples goes with --review, the page that shows them")
    if arguments.examples is not None and not has_clip:
        raise HostError("--examples are compared by image features; give --clip, or leave them out")
    if arguments.corrections is not None and not is_curated(arguments):
        users = "--copy-to, --move-to, --caption or --review"
        raise ConfigError(f"--corrections goes with {users}; the answers themselves stay")


def is_curated(arguments: argparse.Namespace) -> bool:
    """Whether the options sort, caption or review the images."""
    return any((arguments.move_to, arguments.copy_to, arguments.caption, arguments.review))


def _check_evaluation(arguments: argparse.Namespace) -> None:
    """Check that the options match what is evaluated: a folder, a given split, or a token set."""
    tokens, errors, train = arguments.tokens is not None, arguments.label_errors, arguments.train is not None
    given = (arguments.folder is not None, train, arguments.test is not None)
    if given not in ((True, False, False), (False, True, True)):
        raise ConfigError("give one folder to split, or --train and --test, or --tokens and the folder to test on")
    several = any((arguments.shots, arguments.seeds, arguments.folds, arguments.gammas, train))
    refused = {
        "--label-errors does not go with --tokens, which has no names of its examples": tokens and errors,
        "--tokens and --label-errors train nothing, so leave out --shots, --seeds, --folds, --gamma and --train": (
            (tokens or errors) and several
        ),
        "--review goes with --label-errors": arguments.review is not None and not errors,
        "--folds does not go with --shots or --train, which split in another way": (
            arguments.folds and (arguments.shots or train)
        ),
        "--output-dir and --method go with --tokens; --output-json writes the measurements of trainings": (
            not tokens and (arguments.output_dir or arguments.method != "auto")
        ),
    }
    if reason := next((reason for reason, wrong in refused.items() if wrong), None):
        raise ConfigError(reason)
    arguments.seeds = arguments.seeds or (1 if arguments.folds else 3)


def _check_seeds(arguments: argparse.Namespace) -> None:
    """Options of evaluate and benchmark. A trained set can be tested without CLIP."""
    if (arguments.first_seed + arguments.seeds) * (getattr(arguments, "folds", None) or 1) > 2**63:
        raise ConfigError(
            "--first-seed and --seeds lead beyond 2**63 - 1, the largest seed; choose a smaller first one"
        )
    if arguments.model is not None and arguments.clip is None and getattr(arguments, "tokens", None) is None:
        raise ConfigError("to evaluate, the examples need image features; give a CLIP space with --clip")


def _check_training(arguments: argparse.Namespace) -> None:
    from ..prompts.splicing import check_templates
    from .options import config_of

    if getattr(arguments, "num_vectors", 1) is None and getattr(arguments, "start_from", None) is None:
        arguments.num_vectors = 1
    config = config_of(arguments)
    check_templates(config.templates)
    if arguments.gradient_ratio is not None and not config.adaptive:
        raise ConfigError("--gradient-ratio goes with --gamma auto, the default; leave one of the two out")


def _token_set(path: Path) -> Path:
    """The file itself, or the token set in the folder of a training."""
    from ..tokens.formats import SUFFIXES
    from ..tokens.io import SUFFIX

    if path.is_dir():
        inside = path / f"tokens{SUFFIX}"
        if inside.is_file():
            return inside
        if any(each.suffix.lower() in SUFFIXES for each in path.iterdir()):
            raise TokenError(f"{path} is a folder, and not a token set; {_FROM_EMBEDDINGS.format(path)}")
        raise TokenError(f"{path} is a folder without a token set; name the set's file, tokens{SUFFIX} of a training")
    if not path.exists():
        raise TokenError(f"there is no token set {path}; name the file tokens{SUFFIX} that a training has written")
    if path.suffix.lower() in SUFFIXES and path.suffix.lower() != SUFFIX:
        raise TokenError(f"{path} is not a token set but an embedding; {_FROM_EMBEDDINGS.format(path)}")
    return path
