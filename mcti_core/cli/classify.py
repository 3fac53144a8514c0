"""``mcti classify``: classify images, with output to the terminal or, resumably and by several processes, to a file."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classifiers.base import Classifier, Prediction
from ..classifiers.calibration import calibrated_classifier, check_threshold_examples, resolve_method
from ..data.image_stream import ImagePaths, default_num_workers, find_image_paths, read_ahead
from ..distributed import DistributedContext
from ..errors import ConfigError, ExamplesError, MCTIError, ResumeError, listed
from ..escaping import escaped
from ..files.output_lock import lock_output
from ..files.writing import check_writable, part_path, refuse_foreign
from ..hosts.base import Host
from ..images.reading import load_square
from ..tokens.io import load_tokens
from .answer_formats import is_answer_table, json_line, write_answer_table
from .console import progress_bar, say
from .curation import check_curation, curate
from .option_checks import is_curated
from .options import host_of, processes_of
from .results_file import ResultsFile, append_records, read_records, refuse_to_lose
from .signals import signals_as_keyboard_interrupt

__all__ = ["classified", "record_of", "run_classify"]


def run_classify(arguments: argparse.Namespace) -> int:
    if arguments.output is None and (arguments.resume or arguments.restart):
        raise ConfigError("--resume and --restart need --output, the file with the answers")
    table = arguments.output if arguments.output is not None and arguments.output.suffix.lower() == ".csv" else None
    if table is not None:
        arguments.output = table.with_suffix(".jsonl")
        refuse_foreign(table, is_answer_table)
    processes = processes_of(arguments, uneven=True)
    if processes.count > 1 and arguments.output is None:
        raise ConfigError(
            f"{processes.count} processes cannot share the screen; name a file for the answers with --output"
        )
    corrections = check_curation(arguments) if processes.is_main else {}
    if arguments.output is None or not processes.is_main:
        return _classify(arguments, processes, corrections, table)
    check_writable(arguments.output.parent, [f"{arguments.output.name}.part-00000"])
    with lock_output(arguments.output, folder=False):
        refuse_to_lose(
            arguments.output, resume=arguments.resume, restart=arguments.restart, overwrite=arguments.overwrite
        )
        return _classify(arguments, processes, corrections, table)


def _classify(
    arguments: argparse.Namespace, processes: DistributedContext, corrections: Mapping[str, str], table: Path | None
) -> int:
    tokens = load_tokens(arguments.tokens)
    if arguments.reject_unknown:
        check_threshold_examples(tokens)
    names = find_image_paths(arguments.images, recursive=arguments.recursive)
    say(names.skipped, shown=processes.is_main)
    host = host_of(arguments, processes)
    classifier = calibrated_classifier(arguments.method, host, tokens, calibrate_threshold=arguments.reject_unknown)
    classifier.threshold = classifier.threshold if arguments.reject_unknown else arguments.threshold or 0.0
    with signals_as_keyboard_interrupt() if arguments.output else nullcontext():
        if arguments.output is None:
            code, records = _print(names, host, classifier, arguments)
        else:
            code = _write(names, host, classifier, arguments, processes)
            records = []
        if table is not None and processes.is_main:
            write_answer_table(read_records(arguments.output), min(arguments.top, len(tokens)), table)
        if processes.is_main and is_curated(arguments):
            curate(arguments, corrections, records or list(read_records(arguments.output)), tokens, host)
    return code


def classified(
    classifier: Classifier, batches: Iterable[list[tuple[str, Tensor | ExamplesError]]], top: int
) -> Iterator[list[tuple[str, Prediction | ExamplesError]]]:
    """Replace each image, (3, H, W) of one size, in the batches of ``read_ahead`` by its prediction; errors are kept."""
    for batch in batches:
        images = [image for _, image in batch if isinstance(image, torch.Tensor)]
        answers = iter(classifier(torch.stack(images), top=top) if images else ())
        yield [(path, next(answers) if isinstance(image, torch.Tensor) else image) for path, image in batch]


def _answers(
    paths: Iterable[str], host: Host, classifier: Classifier, arguments: argparse.Namespace, processes: int = 1
) -> Iterator[list[tuple[str, Prediction | ExamplesError]]]:
    """Batches of (path, prediction or error), in order. ``processes``: number of processes on this machine."""
    num_workers = arguments.num_workers or default_num_workers(processes)
    images = read_ahead(paths, arguments.batch_size, partial(load_square, size=host.image_size), num_workers)
    return classified(classifier, images, arguments.top)


def _print(
    names: ImagePaths, host: Host, classifier: Classifier, arguments: argparse.Namespace
) -> tuple[int, list[dict[str, Any]]]:
    """Print the answers. Returns the exit code and, for curation, the records."""
    failed, records, curated = 0, list[dict[str, Any]](), is_curated(arguments)
    for batch in _answers(names, host, classifier, arguments):
        for path, answer in batch:
            record = record_of(path, answer)
            if curated:
                records.append(record)
            if isinstance(answer, MCTIError):
                failed += 1
                say(str(answer))
            elif arguments.json:
                print(json_line(record, sys.stdout.encoding or "utf-8"), flush=True)
            else:
                best = "  ".join(f"{escaped(label)} {100 * confidence:.1f}%" for label, confidence in answer.top)
                print(f"{escaped(path)}\t{escaped(answer.label)}\t{best}", flush=True)
    return (1 if failed else 0), records


def _write(
    names: ImagePaths, host: Host, classifier: Classifier, arguments: argparse.Namespace, processes: DistributedContext
) -> int:
    """Classify the remaining images, split among the processes; the main process joins their files. Returns the exit code."""
    results, size = ResultsFile(arguments.output, _identity(names, host, classifier, arguments)), arguments.batch_size
    progress_so_far = _answered_so_far(results, names, resume=arguments.resume) if processes.is_main else None
    # the main process decides, because a shared folder may be out of date on other machines
    answered, num_answers, num_unreadable = processes.gather(progress_so_far)[0]
    results.refuse_others()
    done, images = frozenset(answered), len(names)
    left = images - len(done)
    share = processes.share(-(-left // size))  # whole batches, composed as with a single process
    first, end = share.start * size, min(share.stop * size, left)
    paths = islice((path for number, path in enumerate(names) if number not in done), first, end)
    written = failed = 0
    with (
        append_records(part_path(results.path, processes.index)) as append,
        progress_bar("classifying", "image", shown=processes.is_main) as progress,
    ):
        for batch in _answers(paths, host, classifier, arguments, processes.local_count):
            append([record_of(path, answer) for path, answer in batch])
            failed += sum(isinstance(answer, MCTIError) for _, answer in batch)
            written += len(batch)
            progress(written, end - first)
    totals = processes.gather((written, failed))
    failed = sum(errors for _, errors in totals) + num_unreadable
    if processes.is_main:
        results.finish(num_answers + sum(answers for answers, _ in totals))
        unreadable = f"; images that could not be read: {failed}" if failed else ""
        print(escaped(f"{images} answers in {results.path}{unreadable}"))
    return 1 if failed else 0


def _answered_so_far(results: ResultsFile, names: ImagePaths, *, resume: bool) -> tuple[list[int], int, int]:
    """Begin or resume. Returns the indices of the answered images, the number of answers, and the number of errors."""
    resumed = results.begin(resume=resume)
    if resume and not resumed:
        say("there are no unfinished answers; starting from the beginning")
    known_paths, num_answers, num_unreadable = results.answered()
    answered = [number for number, path in enumerate(names) if path in known_paths]
    if unlisted := known_paths.difference(names):
        raise ResumeError(
            f"{results.path} contains answers for images that are not in the list ({listed(sorted(unlisted), 3)}); remove these "
            "lines, start over with --restart, or choose another --output"
        )
    if answered:
        say(f"resuming after {len(answered)} images")
    return answered, num_answers, num_unreadable


def record_of(path: str, answer: Prediction | MCTIError) -> dict[str, Any]:
    if isinstance(answer, MCTIError):
        return {"image": path, "error": str(answer)}
    return {"image": path, **answer.record(), "unet_evaluations": answer.evaluations}


def _identity(names: ImagePaths, host: Host, classifier: Classifier, arguments: argparse.Namespace) -> dict[str, str]:
    """Everything that the answers depend on; it must not change when a run is resumed."""
    return {
        "set of tokens": hashlib.sha256(arguments.tokens.read_bytes()).hexdigest(),
        "model": f"{host.name} {host.fingerprint}",
        "method": resolve_method(arguments.method, host),
        "threshold": repr(classifier.threshold),
        "top": str(arguments.top),
        "number of images": str(len(names)),
        "list of images": names.fingerprint(),
    }
