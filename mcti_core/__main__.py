"""``python -m mcti_core`` is ``mcti``."""

from .cli.parser import main

if __name__ == "__main__":
    raise SystemExit(main())
