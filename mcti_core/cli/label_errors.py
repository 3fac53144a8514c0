"""``mcti evaluate --label-errors``: the examples whose label is probably wrong."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import counted
from ..escaping import escaped
from .json_output import json_output
from .options import examples_of, features_of, host_of

__all__ = ["run_label_errors"]


def run_label_errors(arguments: argparse.Namespace) -> int:
    from ..evaluation.label_errors import rank_label_errors

    dataset = examples_of(arguments)
    with json_output(arguments.json, overwrite=arguments.overwrite) as write:
        cache = features_of(arguments, host_of(arguments), dataset, latents=False)
        records: list[dict[str, Any]] = [
            {
                "image": str(dataset.images[error.index]),
                "label": dataset.classes[error.label],
                "suggested": dataset.classes[error.suggested],
                "confidence": round(error.confidence, 6),
            }
            for error in rank_label_errors(cache)
        ]
        write({"folder": arguments.folder.name, "images": len(dataset), "likely_label_errors": records})
    for each in records:
        looks = f"looks like {escaped(each['suggested'])} ({100 * each['confidence']:.1f} %)"
        print(f"{escaped(each['image'])}\t{escaped(each['label'])}\t{looks}")
    print(f"{counted(len(records), 'likely label error')} among {counted(len(dataset), 'image')}")
    return 0
