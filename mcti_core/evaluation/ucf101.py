"""UCF101 as an image data set: the middle frame of each video, first of the three official splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MCTIError
from ..files.writing import write_atomically

__all__ = ["middle_frame", "ucf101_part"]


def ucf101_part(root: Path, split: str) -> tuple[list[str], list[Path], list[int]]:
    """Class names, middle frames of a split (videos if not yet extracted), and their class indices."""
    lists = root / "ucfTrainTestlist"
    names = [line.split()[1] for line in (lists / "classInd.txt").read_text(encoding="utf-8").splitlines() if line]
    if odd := next((name for name in names if not name.isidentifier()), None):  # class names become folder names
        raise ValueError(f"the class {odd!r} in classInd.txt is not a plain name")
    frames = {path.stem: path for path in sorted((root / "UCF-101-midframes").glob("*/*.*"))}
    lines = (lists / f"{split}list01.txt").read_text(encoding="utf-8").splitlines()
    videos = [Path(line.split()[0]) for line in lines if line]  # "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"
    images = [frames.get(v.stem) or root / "UCF-101" / v.parent.name / f"{v.stem}.avi" for v in videos]
    return names, images, [names.index(video.parent.name) for video in videos]


def middle_frame(image: Any) -> Any:
    """Extract the middle frame of an ``.avi`` file to ``UCF-101-midframes/``, and return its path; return other images unchanged.

    Raises:
        MCTIError: PyAV is not installed, or the video cannot be read.
    """
    if not isinstance(image, Path) or image.suffix != ".avi":
        return image
    try:
        import av
    except ImportError as error:
        raise MCTIError("the videos of UCF101 need PyAV; install it with: pip install av") from error
    try:
        with av.open(str(image)) as video:
            count = sum(1 for _ in video.decode(video=0))
        with av.open(str(image)) as video:
            picture = next(f for number, f in enumerate(video.decode(video=0)) if number == count // 2).to_image()
    except Exception as error:  # FFmpeg raises many types
        raise MCTIError(f"{image} cannot be read as a video ({error!s:.200}); fetch it again") from error
    target = image.parents[2] / "UCF-101-midframes" / image.parent.name / f"{image.stem}.png"
    return write_atomically(target, lambda file: picture.save(file, "PNG"))
