"""The options of each command. Importing them costs little: no module here imports PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..tokens import LAYOUTS
from ..training import TRACKERS
from . import argument_groups as groups
from . import argument_types as types

__all__ = ["BUILT_IN", "COMMANDS", "METHODS"]

BUILT_IN = ("digits", "characters", "textures")
METHODS = ("reference", "baselines", "ti", "mcti", "released")
"""Names of ``evaluation.cells.RUNS`` on the command line, in the same order."""


def _add_train(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("folder", type=types.path, help="contains one folder of images per class")
    groups.add_output_dir(command, "folder for tokens.safetensors, embeddings/, loss.png, README.md and run.toml")
    config = "a TOML file of options, such as the run.toml of another run; the command line takes precedence"
    option("--config", type=types.path, help=config)
    groups.add_model(command)
    groups.add_training(command)
    start = "a token set to continue from, as a file or a folder of mcti train: its classes keep their vectors as the start; sets --template and --pooling"
    option("--start-from", type=types.path, help=start)
    table = "a CSV file with columns image and label, as a review page exports it: corrected labels, images to add or exclude"
    option("--corrections", type=types.path, help=table)
    option("--shots", type=types.count, help="train on this many random images of each class instead of all")
    groups.add_reading(command)
    _add_validation(command)
    group = command.add_argument_group("resuming an interrupted training")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="resume an interrupted training from --output-dir")
    either.add_argument("--restart", action="store_true", help="start over, discarding the training in --output-dir")
    seconds = types.number(least=0)
    group.add_argument("--save-every", type=seconds, default=10.0, help="seconds between saves; 0 saves every step")


def _add_validation(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("logs and samples", "these options do not change the tokens").add_argument
    logs = f"log learning rate, losses, gamma and held-out accuracy; comma-separated list of {', '.join(TRACKERS)}"
    option("--report-to", type=_trackers, default=(), metavar="TRACKERS", help=logs)
    samples = "draw samples of this prompt to --output-dir/samples, with {} for each of the first eight classes; may be repeated"
    option("--validation-prompt", action="append", default=[], metavar="PROMPT", help=samples)
    held_out = "class folders of held-out images to measure accuracy on; without it, the images that --shots leaves"
    option("--validation-folder", type=types.path, metavar="FOLDER", help=held_out)
    steps = "number of steps between validations (100 with --validation-prompt or --validation-folder)"
    option("--validation-steps", type=types.count, help=steps)


def _trackers(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in TRACKERS]:
        raise argparse.ArgumentTypeError(f"must be some of {', '.join(TRACKERS)}, got {unknown[0]!r}")
    return names


def _add_classify(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("images", type=types.path, nargs="+", help="images, or folders of images")
    option("--recursive", action="store_true", help="include images in subfolders")
    option("--tokens", type=types.path, required=True, help="a token set: the file, or its folder")
    groups.add_method(command)
    option("--top", type=types.count, default=1, help="number of classes to report per image")
    either = command.add_mutually_exclusive_group()
    unknown = "answer '(unknown)' below a confidence that 95%% of new images of the classes should reach"
    either.add_argument("--reject-unknown", action="store_true", help=unknown)
    either.add_argument("--threshold", type=types.confidence, help="answer '(unknown)' below this confidence")
    option("--json", action="store_true", help="print one JSON object per line")
    option("--batch-size", type=types.count, default=32, help="images per batch")
    workers = "threads that read images; by default one per core, at most 8"
    option("--num-workers", type=types.whole(1, 256), help=workers)
    group = command.add_argument_group("very many images")
    written = "write one JSON object per line to this file instead of printing; .csv: also write a table"
    group.add_argument("--output", "-o", type=types.file_path("answers.jsonl"), help=written)
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="resume an interrupted run from --output")
    either.add_argument("--restart", action="store_true", help="start over, discarding the answers in --output")
    _add_curation(command)
    groups.add_model(command)


def _add_curation(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("curating a folder", "images classified as '(unknown)' are not changed")
    either = group.add_mutually_exclusive_group()
    copies = "copy images to one folder per class inside this folder"
    either.add_argument("--copy-to", type=types.folder_path, help=copies)
    either.add_argument("--move-to", type=types.folder_path, help="move images instead; mcti undo moves them back")
    template = "write a .txt caption per image from this template; {label} and {token} are replaced by the class's own"
    group.add_argument("--caption", type=_caption_template, help=template)
    page = "write an HTML page to review and correct the answers, least confident first"
    group.add_argument("--review", type=types.file_path("review.html"), help=page)
    nearest = "with --review: class folders; the nearest examples of each image are shown"
    group.add_argument("--examples", type=types.path, help=nearest)
    table = "a CSV file with columns image and label; its labels replace the answers"
    group.add_argument("--corrections", type=types.path, help=table)
    groups.add_overwriting(command)


def _add_undo(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=types.path, help="the undo-NUMBER.json in the folder with the sorted images")


def _caption_template(text: str) -> str:
    """A caption template that contains at least one placeholder."""
    if "{label}" not in text and "{token}" not in text:
        raise argparse.ArgumentTypeError(f"must contain {{label}} or {{token}}, got {text[:40]!r}")
    return text


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("folder", type=types.path, nargs="?", help="one folder of images per class, to split or to test on")
    measurements = "file for all measurements; updated after each"
    option("--output-json", type=types.file_path("accuracies.json"), help=measurements)
    groups.add_overwriting(command)
    group = command.add_argument_group("a trained set")
    given = "a token set (the file, or its folder) to test on FOLDER, without training"
    group.add_argument("--tokens", type=types.path, help=given)
    groups.add_method(group)
    written = "with --tokens: folder for evaluation.json, confusion.png and wrong.png"
    group.add_argument("--output-dir", "-o", type=types.folder_path, help=written)
    group = command.add_argument_group("training and testing on splits")
    option = group.add_argument
    usual = "training images per class; by default those of 1, 2, 4 and 8 that leave one for testing, or all of --train"
    option("--shots", type=types.count, nargs="+", help=usual)
    option("--seeds", type=types.count, help="number of random splits or trainings; by default 3, or 1 with --folds")
    option("--first-seed", type=types.seed, default=0, help="seed of the first split; the next ones increase by 1")
    option("--folds", type=types.whole(2), help="number of folds for cross-validation")
    option("--train", type=types.path, help="a folder of class folders to train on, instead of FOLDER")
    option("--test", type=types.path, help="with --train: a folder of class folders to test on")
    group = command.add_argument_group("label errors")
    ranked = "rank the images of FOLDER by how likely their label is wrong, by leave-one-out on their image features"
    group.add_argument("--label-errors", action="store_true", help=ranked)
    page = "with --label-errors: write an HTML page to review and correct them"
    group.add_argument("--review", type=types.file_path("review.html"), help=page)
    groups.add_model(command)
    groups.add_training(command, gammas=True)


def _add_benchmark(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    files = "folder for results.json, table.md and plot.png; after an interruption the same command resumes from it"
    option("--output-dir", "-o", type=types.folder_path, required=True, help=files)
    option("--restart", action="store_true", help="discard the results in --output-dir and start over")
    option("--dry-run", action="store_true", help="only print the cost estimate")
    option("--compare", type=types.path, metavar="FILE", help="another results.json to print the differences to")
    option = command.add_argument_group("data").add_argument
    names = (
        "flowers102, imagenet, food101, pets, aircraft, cars, ucf101, eurosat, dtd, caltech101, stl10, cifar10; the built-in digits, "
        "characters and textures; or folders of class folders (default: the built-in ones; with --model, the twelve others)"
    )
    option("--data-sets", type=types.path_text, nargs="+", metavar="NAME", help=names)
    option("--data", type=types.path, help="folder of the data sets, in torchvision's layout")
    option("--download", action="store_true", help="download missing data sets into --data, if torchvision can")
    option = command.add_argument_group("protocol").add_argument
    option("--shots", type=types.count, nargs="+", default=[1, 2, 4, 8], help="examples per class")
    option("--seeds", type=types.count, default=3, help="number of random choices of the examples")
    option("--first-seed", type=types.seed, default=0, help="first seed; the others follow it")
    methods = "reference: CLIP zero-shot with names, and measures of real images; baselines: classifiers without tokens"
    option("--methods", choices=METHODS, nargs="+", default=list(METHODS), help=methods)
    option("--max-classes", type=types.whole(2), help="random classes per data set (default: all)")
    option("--max-queries", type=types.count, help="random test images per class (default: all)")
    pool = "training images per class to draw the examples from, and to train the judge of drawings on"
    option("--pool", type=types.count, default=32, help=pool)
    option("--diffusion-queries", type=types.whole(0), default=100, help="test images of the diffusion classifier")
    trials = "maximum number of pairs of noise level and noise of the diffusion classifier"
    option("--num-trials", type=types.count, default=64, help=trials)
    option("--drawings", type=types.whole(0), default=4, help="generated images per class")
    option("--drawing-steps", type=types.count, default=25, help="denoising steps per drawing")
    option("--released-steps", type=types.count, default=3100, help="steps per class of MC-TI as released")
    groups.add_model(command)
    groups.add_training(command)


def _add_generate(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("--tokens", type=types.path, required=True, help="a token set: the file, or its folder")
    option("--prompt", required=True, help="'{}' stands for every class; '{name}' or 'embedding:name' for one")
    option("--negative-prompt", default="", help="negative prompt")
    option("--output-dir", "-o", type=types.folder_path, default=Path("generated"), help="folder for the images")
    option("--num-images", type=types.count, default=4, help="images per prompt")
    option("--num-inference-steps", type=types.count, default=25, help="denoising steps per image")
    option("--guidance-scale", type=types.number(), default=5.0, help="guidance scale; 1 disables guidance")
    option("--seed", type=types.seed, default=0, help="seed of the initial noise")
    groups.add_overwriting(command)
    groups.add_model(command)


def _add_add(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("folder", type=types.path, help="one folder of images per new class; existing classes are allowed too")
    option("--tokens", type=types.path, required=True, help="the token set: the file, or its folder")
    groups.add_output_dir(command, "folder for the new tokens.safetensors and embeddings/")
    option("--replace", action="store_true", help="retrain classes that the set already has")
    groups.add_model(command)
    groups.add_steps(command)
    groups.add_reading(command)
    # these settings come from the set
    command.set_defaults(direction=None, pooling=None, templates=None, template=None)


def _add_convert(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    known = "token sets, embeddings (.safetensors, .pt, .bin, images of the A1111 web UI), folders of them"
    option("inputs", type=types.path, nargs="+", metavar="IN", help=known)
    option("--output", "-o", type=types.path_text, required=True, help="the set's file, or the embeddings' folder")
    kinds = ("set", "embeddings")
    option("--format", choices=kinds, required=True, help="one file for all classes, or one file per class")
    layout = f"of the embeddings of SD 1.x and 2.x; {LAYOUTS[0]} if not given, the only one that InvokeAI recognises"
    option("--layout", choices=LAYOUTS, help=layout)
    for name, metavar, what in (
        ("select", "LABEL", "only these classes, in this order"),
        ("labels", "LABEL", "new labels for all classes, in their order"),
        ("rename", "OLD=NEW", "new labels for some classes"),
    ):
        option(
            f"--{name}", nargs="+", action=_InOrder, metavar=metavar, dest="operations", default=argparse.SUPPRESS,
            help=f"{what}; FILE:LABEL is the class that FILE calls LABEL; --select, --labels and --rename act in the order written",
        )  # fmt: skip
    option("--prefix", default="", help="put this before every token's name, as in my-; labels stay")
    groups.add_overwriting(command)
    command.set_defaults(operations=())


class _InOrder(argparse.Action):
    """Options that act one after the other: (option, what was written behind it) of each."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        kind, before = str(option).lstrip("-"), list(namespace.operations)
        if wrong := [value for value in values if kind == "rename" and "=" not in value]:
            raise argparse.ArgumentError(self, f"must be OLD=NEW, got {wrong[0]!r}")
        if before and before[-1][0] == kind == "select":  # --select a --select b is --select a b
            values = [*before.pop()[1], *values]
        namespace.operations = (*before, (kind, tuple(values)))


def _add_demo(command: argparse.ArgumentParser) -> None:
    groups.add_output_dir(command, "folder for report.html, metrics.json and tokens.safetensors")
    command.add_argument("--seed", type=types.seed, default=0, help="seed of the example selection and of the training")
    command.add_argument("--shots", type=types.count, default=5, help="examples per digit")


COMMANDS = {
    "train": ("learn a token for each class folder", _add_train),
    "classify": ("classify images, and sort, caption or review them", _add_classify),
    "evaluate": ("measure a token set, or trainings; find label errors", _add_evaluate),
    "benchmark": ("compare methods on many data sets", _add_benchmark),
    "generate": ("generate images with learned tokens", _add_generate),
    "add": ("add classes to a token set without changing the existing ones", _add_add),
    "convert": ("convert embeddings to a token set or back; merge, select, rename", _add_convert),
    "undo": ("revert the sorting of images by classify", _add_undo),
    "demo": ("run the whole method on handwritten digits", _add_demo),
}
"""Purpose, and function that adds the options, by command. The module of the same name runs it."""
