"""``python -m mcti_core.pocket.digits --output-dir FOLDER`` writes the drawn digits as class folders."""

import argparse
from pathlib import Path

from ...errors import FileError
from . import digit_dataset, write_class_folders

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m mcti_core.pocket.digits", description="Write the drawn digits as class folders."
    )
    parser.add_argument("--output-dir", "-o", type=Path, required=True, help="folder for the ten class folders")
    out = parser.parse_args().output_dir
    try:
        write_class_folders(digits := digit_dataset(), out)
        print(f"{len(digits.images):,} images of ten digits in {out}")
    except FileError as error:
        parser.error(str(error))
