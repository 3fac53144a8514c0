"""``mcti classify``: what images show, on the screen or, for very many and by several processes, in a file."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, ExamplesError, MCTIError
from ..escaping import escaped
from .console import printable, progress_bar
from .options import host_of, processes_of

if TYPE_CHECKING:
    from ..classifiers.base import Classifier, Prediction
    from ..data.image_stream import ImagePaths
    from ..distributed import DistributedContext
    from ..hosts.base import Host
    from .results_file import Part, Piece, ResultsFile

__all__ = ["record_of", "run_classify"]


def run_classify(arguments: argparse.Namespace) -> int:
    from ..files.output_lock import lock_output
    from ..files.outputs import check_writable
    from .results_file import refuse_to_lose

    _check(arguments)
    processes = processes_of(arguments, uneven=True)
    if processes.count > 1 and arguments.out is None:
        raise ConfigError(
            f"{processes.count} processes cannot share the screen; name a file for the answers with --out"
        )
    if arguments.out is None or not processes.is_main:
        return _classify(arguments, processes)
    check_writable(arguments.out.parent, [f"{arguments.out.name}.part-0001-00000"])
    with lock_output(arguments.out, folder=False):
        refuse_to_lose(arguments.out, resume=arguments.resume, restart=arguments.restart)
        return _classify(arguments, processes)


def _classify(arguments: argparse.Namespace, processes: DistributedContext) -> int:
    from ..classifiers.calibration import calibrated_classifier, check_threshold_examples
    from ..data.image_stream import find_image_paths
    from ..tokens.io import load_tokens
    from .signals import signals_as_keyboard_interrupt

    tokens = load_tokens(arguments.tokens)
    if arguments.unknown:
        check_threshold_examples(tokens)
    names = find_image_paths(arguments.images, recursive=arguments.recursive)
    if names.skipped and processes.is_main:
        print(f"mcti: {escaped(names.skipped)}", file=sys.stderr)
    host = host_of(arguments, processes)
    classifier = calibrated_classifier(arguments.method, host, tokens, find_threshold=arguments.unknown)
    classifier.threshold = classifier.threshold if arguments.unknown else arguments.threshold or 0.0
    if arguments.out is None:
        return _print(names, host, classifier, arguments)
    with signals_as_keyboard_interrupt():
        return _write(names, host, classifier, arguments, processes)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.out is None and (arguments.resume or arguments.restart):
        raise ConfigError("--resume and --restart need --out, the file with the answers")


def _answers(
    names: ImagePaths, host: Host, classifier: Classifier, arguments: argparse.Namespace, *,
    chosen: Container[int] | None = None, readers: int,
) -> Iterator[list[tuple[str, Prediction | ExamplesError]]]:  # fmt: skip
    """Batches of (path, answer or error), those of the chosen numbers or all."""
    from ..classifiers.streaming import classified
    from ..data.image_stream import read_ahead
    from ..images.reading import load_square

    images = read_ahead(names.batches(arguments.batch, chosen), partial(load_square, size=host.image_size), readers)
    return classified(classifier, images, threshold=classifier.threshold, top=arguments.top)


def _print(names: ImagePaths, host: Host, classifier: Classifier, arguments: argparse.Namespace) -> int:
    from ..data.num_workers import default_num_workers
    from .json_line import json_line

    failed = 0
    for batch in _answers(names, host, classifier, arguments, readers=arguments.readers or default_num_workers()):
        for path, answer in batch:
            if isinstance(answer, MCTIError):
                failed += 1
                print(f"mcti: {escaped(str(answer))}", file=sys.stderr)
            elif arguments.json:
                print(json_line(record_of(path, answer), sys.stdout.encoding or "utf-8"), flush=True)
            else:
                best = "  ".join(f"{printable(label)} {100 * confidence:.1f}%" for label, confidence in answer.top)
                print(f"{printable(path)}\t{printable(answer.label)}\t{best}", flush=True)
    return 1 if failed else 0


def _write(
    names: ImagePaths, host: Host, classifier: Classifier, arguments: argparse.Namespace, processes: DistributedContext
) -> int:
    """Answer what is not answered yet, each process its share; the first joins the parts."""
    from .results_file import ResultsFile

    answers = ResultsFile(arguments.out, len(names), arguments.batch, _identity(names, host, classifier, arguments))
    found: Mapping[int, Piece] = {}
    plan = None
    if processes.is_main:
        found = _begun(answers, resume=arguments.resume)
        plan = answers.next_run(), [number for number in range(answers.batches) if number not in found]
    run, left = processes.gather(plan)[0]  # one decides: what others see of a shared folder may lag behind
    answers.refuse_others()
    own = left[processes.index :: processes.count]
    alone = processes.count == 1 and not answers.has_parts()
    with (
        answers.itself(found) if alone else answers.part(run, processes.index) as out,
        progress_bar("classifying", "image", shown=processes.is_main) as progress,
    ):
        failed = _write_batches(names, own, out, host, classifier, arguments, processes, progress)
    failed = sum(processes.gather(failed + sum(piece.errors for piece in found.values())))
    if processes.is_main:
        answers.finish()
        unread = f"; images that could not be read: {failed}" if failed else ""
        print(printable(f"{answers.images} answers in {answers.path}{unread}"))
    return 1 if failed else 0


def _begun(answers: ResultsFile, *, resume: bool) -> Mapping[int, Piece]:
    """Begin or resume, say which, and find what is answered already."""
    resumed = answers.begin(resume=resume)
    if resume and not resumed:
        print("mcti: there are no unfinished answers; starting from the beginning", file=sys.stderr)
    found = answers.found()
    if found:
        print(f"mcti: resuming after {min(len(found) * answers.batch, answers.images)} images", file=sys.stderr)
    return found


def _write_batches(
    names: ImagePaths, own: Sequence[int], out: Part, host: Host, classifier: Classifier, arguments: argparse.Namespace,
    processes: DistributedContext, progress: Callable[[int, int], object],
) -> int:  # fmt: skip
    """Answer this process's own batches. Returns how many images could not be read."""
    from ..data.num_workers import default_num_workers

    images = len(names)  # adds up all folders, so not once for every batch
    total = sum(min(arguments.batch, images - number * arguments.batch) for number in own)
    readers = arguments.readers or default_num_workers(processes.local_count)
    batches = _answers(names, host, classifier, arguments, chosen=frozenset(own), readers=readers)
    done = failed = 0
    for number, batch in zip(own, batches, strict=True):
        out.write(number, [record_of(path, answer) for path, answer in batch])
        failed += sum(isinstance(answer, MCTIError) for _, answer in batch)
        done += len(batch)
        progress(done, total)
    return failed


def record_of(path: str, answer: Prediction | MCTIError) -> dict[str, Any]:
    if isinstance(answer, MCTIError):
        return {"image": path, "error": str(answer)}
    top = [{"label": label, "confidence": round(confidence, 6)} for label, confidence in answer.top]
    return {
        "image": path,
        "label": None if answer.unknown else answer.label,
        "unknown": answer.unknown,
        "index": answer.index,
        "confidence": round(answer.confidence, 6),
        "top": top,
        "unet_evaluations": answer.evaluations,
    }


def _identity(names: ImagePaths, host: Host, classifier: Classifier, arguments: argparse.Namespace) -> dict[str, str]:
    """What the answers are of."""
    from ..classifiers.calibration import resolved

    return {
        "set of tokens": hashlib.sha256(arguments.tokens.read_bytes()).hexdigest(),
        "model": f"{host.name} {host.fingerprint}",
        "method": resolved(arguments.method, host),
        "threshold": repr(classifier.threshold),
        "top": str(arguments.top),
        "batch": str(arguments.batch),
        "number of images": str(len(names)),
        "list of images": names.fingerprint(),
    }
