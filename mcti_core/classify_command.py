"""``mcti classify``: what images show, on the screen or, for very many and by several processes, in a file."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .console import progress_bar
from .errors import ConfigError, ExamplesError, MCTIError
from .options import host_of, processes_of

if TYPE_CHECKING:
    from .answers import Part
    from .classifiers import Classifier, Prediction
    from .hosts.base import Host
    from .processes import Processes
    from .streams import ImageNames

__all__ = ["record_of", "run_classify"]


def run_classify(arguments: argparse.Namespace) -> int:
    from .answers import refuse_to_lose
    from .calibration import calibrated_classifier
    from .endings import like_ctrl_c
    from .streams import find_names
    from .token_files import load_tokens

    _check(arguments)
    processes = processes_of(arguments)
    if processes.count > 1 and arguments.out is None:
        raise ConfigError(
            f"{processes.count} processes cannot share the screen; name a file for the answers with --out"
        )
    if arguments.out is not None and processes.first:
        refuse_to_lose(arguments.out, resume=arguments.resume, restart=arguments.restart)
    tokens = load_tokens(arguments.tokens)
    names = find_names(arguments.images, recursive=arguments.recursive)
    host = host_of(arguments, processes)
    classifier = calibrated_classifier(arguments.method, host, tokens, find_threshold=arguments.unknown)
    classifier.threshold = classifier.threshold if arguments.unknown else arguments.threshold or 0.0
    if arguments.out is None:
        return _print(names, host, classifier, arguments)
    with like_ctrl_c():
        return _write(names, host, classifier, arguments, processes)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.out is None and (arguments.resume or arguments.restart):
        raise ConfigError("--resume and --restart are about the answers in --out; name that file")


def _answers(
    names: ImageNames, host: Host, classifier: Classifier, arguments: argparse.Namespace, *,
    chosen: Container[int] | None = None, readers: int,
) -> Iterator[list[tuple[str, Prediction | ExamplesError]]]:  # fmt: skip
    """Batches of (path, answer or error), those of the chosen numbers or all."""
    from .examples import load_square
    from .streams import classified, read_ahead

    images = read_ahead(names.batches(arguments.batch, chosen), partial(load_square, size=host.image_size), readers)
    return classified(classifier, images, threshold=classifier.threshold, top=arguments.top)


def _print(names: ImageNames, host: Host, classifier: Classifier, arguments: argparse.Namespace) -> int:
    from .streams import usual_readers

    failed = 0
    for batch in _answers(names, host, classifier, arguments, readers=arguments.readers or usual_readers()):
        for path, answer in batch:
            if isinstance(answer, MCTIError):
                failed += 1
                print(f"mcti: {answer}", file=sys.stderr)
            elif arguments.json:
                print(json.dumps(record_of(path, answer), ensure_ascii=False), flush=True)
            else:
                best = "  ".join(f"{label} {100 * confidence:.1f}%" for label, confidence in answer.top)
                print(f"{path}\t{answer.label}\t{best}", flush=True)
    return 1 if failed else 0


def _write(
    names: ImageNames, host: Host, classifier: Classifier, arguments: argparse.Namespace, processes: Processes
) -> int:
    """Answer what is not answered yet, each process its share; the first joins the parts."""
    from .answers import AnswerFile

    answers = AnswerFile(arguments.out, len(names), arguments.batch, _identity(names, host, classifier, arguments))
    if processes.first:
        goes_on = answers.begin(resume=arguments.resume)
        if arguments.resume and not goes_on:
            print("mcti: there are no unfinished answers; beginning anew", file=sys.stderr)
    processes.wait()
    answers.refuse_others()
    found = answers.found()
    run = processes.gather(answers.next_run())[0]  # and nobody writes before all have looked
    if found and processes.first:
        print(f"mcti: going on after {min(len(found) * arguments.batch, len(names))} images", file=sys.stderr)
    own = [number for number in range(answers.batches) if number not in found][processes.index :: processes.count]
    alone = processes.count == 1 and not answers.has_parts()
    with (
        answers.itself(found) if alone else answers.part(run, processes.index) as out,
        progress_bar("classifying", "image", shown=processes.first) as progress,
    ):
        failed = _write_batches(names, own, out, host, classifier, arguments, processes, progress)
    failed = sum(processes.gather(failed)) + sum(piece.errors for piece in found.values())
    if processes.first:
        answers.finish()
        unread = f"; {failed} of them say why an image could not be read" if failed else ""
        print(f"{len(names)} answers in {answers.path}{unread}")
    return 1 if failed else 0


def _write_batches(
    names: ImageNames, own: Sequence[int], out: Part, host: Host, classifier: Classifier, arguments: argparse.Namespace,
    processes: Processes, progress: Callable[[int, int], object],
) -> int:  # fmt: skip
    """Answer this process's own batches. Returns how many images could not be read."""
    from .streams import usual_readers

    total = sum(min(arguments.batch, len(names) - number * arguments.batch) for number in own)
    readers = arguments.readers or usual_readers(processes.here)
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
        "label": answer.label,
        "index": answer.index,
        "confidence": round(answer.confidence, 6),
        "top": top,
        "unet_evaluations": answer.evaluations,
    }


def _identity(names: ImageNames, host: Host, classifier: Classifier, arguments: argparse.Namespace) -> dict[str, str]:
    """What the answers are of."""
    from .calibration import resolved

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
