"""Commands that each process of ``test_processes.py`` runs, one after the other, since starting takes long.

accelerate launch --multi_gpu --num_processes 2 tests/end_to_end/run_processes.py FOLDER OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

__all__ = ["CLASSIFY", "EVALUATE", "TRAIN", "commands"]

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # a launcher runs a file without the folder that it was started in

TRAIN = ["--steps", "4", "--batch-size", "5", "--seed", "5", "--classification-only-steps", "1"]
EVALUATE = ["--shots", "1", "2", "--seeds", "2", "--steps", "1", "--batch-size", "2"]
CLASSIFY = ["--top", "2", "--batch-size", "2"]


def commands(folder: Path, out: Path) -> dict[str, list[str]]:
    """The commands' arguments by name, the same for any number of processes."""
    tokens = folder / "tokens.safetensors"
    return {
        "train": ["train", str(folder / "examples"), "--output-dir", str(out / "trained"), "--cache", str(out / "cache"), *TRAIN],
        "evaluate": ["evaluate", str(folder / "examples"), "--output-json", str(out / "rows.json"), *EVALUATE],
        "classify": [
            "classify", str(folder / "images"), "--tokens", str(tokens), "--output", str(out / "answers.jsonl"), *CLASSIFY,
        ],
    }  # fmt: skip


def _exchanged() -> list[object]:
    """What the processes tell each other, by each of the ways there are."""
    import torch

    from mcti_core.distributed import launched

    we = launched()
    mine = we.index + 1
    sums = [
        torch.full((2, 3), mine * 1.0),
        torch.tensor(mine / 10),
        torch.zeros(0),
        torch.tensor([mine * 1.0]).double(),
    ]
    we.all_reduce_sum(sums)
    we.barrier()
    rows = torch.arange(40.0 * we.index).view(-1, 4)  # none in the first process
    return [
        [tensor.tolist() for tensor in sums],
        we.gather({"ä": [we.index] * 50 * mine}),
        we.gather(None),
        [we.any(False), we.any(we.index == 1), we.any(True)],
        we.all_gather_rows(rows if len(rows) else torch.zeros(0)).tolist(),
        we.all_gather_rows(torch.zeros(0)).tolist(),
        [we.index, we.count, we.local_count, we.is_main],
    ]


def main(folder: Path, out: Path) -> None:
    from mcti_core.cli import parser

    end, parser.shut_down = parser.shut_down, lambda: None  # they stay together until all is done
    seen = _exchanged()
    codes = {name: parser.main(arguments) for name, arguments in commands(folder, out).items()}
    (out / f"seen-{seen[-1][0]}.json").write_text(json.dumps({"exchanged": seen, "codes": codes}))
    end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
