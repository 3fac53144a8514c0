"""``mcti evaluate --label-errors``: rank examples by how likely their label is wrong."""

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
    from ..files.provenance import check_outputs
    from .review_page import Item, write_review

    dataset, page = examples_of(arguments), arguments.review
    if page is not None:
        check_outputs([page], overwrite=arguments.overwrite)
    with json_output(arguments.output_json, overwrite=arguments.overwrite) as write:
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
    items = [
        Item(each["image"], each["label"], f"looks like {each['suggested']} ({100 * each['confidence']:.1f} %)")
        for each in records
    ]
    if page is not None:
        write_review(items, dataset.classes, page)
    for item in items:
        print("\t".join(map(escaped, (item.image, item.label, item.note))))
    print(f"{counted(len(records), 'likely label error')} among {counted(len(dataset), 'image')}")
    return 0
