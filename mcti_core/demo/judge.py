"""Judge generated digits without the pocket checkpoint: shapes by a support vector machine, colours by the nearest colour."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MCTIError
from ..pocket.digits import draw_digits
from ..pocket.glyphs import INKS, PAPERS

__all__ = ["DigitJudge", "colours", "ink_mask"]

_SIDE = 16
_PENS = (0, 4, -2, -4)
"""Pixels added to the width of the strokes: generated strokes may be thinner or thicker than scanned ones."""


class DigitJudge:
    """A support vector machine on centred ink masks, trained on drawings of digits with several pens.

    Args:
        masks: (N, 72, 72) pen masks of digits that are not few-shot examples.
        labels: (N,) int64 digits.
        test: number of masks held out to measure the judge itself.
    """

    def __init__(self, masks: Tensor, labels: Tensor, *, test: int = 500):
        try:
            from sklearn.svm import SVC
        except ImportError as error:
            raise MCTIError("the judge needs scikit-learn; install it: pip install 'mcti[demo]'") from error
        order = torch.randperm(len(masks), generator=torch.Generator().manual_seed(4))
        train, held = order[test:], order[:test]
        drawn = [draw_digits(_redrawn(masks[train], pen), seed=200 + pen) for pen in _PENS]
        features = torch.cat([ink_mask(images) for images in drawn])
        targets = labels[train].repeat(len(_PENS))
        self._machine = SVC(C=10, gamma="scale").fit(features.flatten(1).numpy(), targets.numpy())
        self.accuracy = float((self(draw_digits(masks[held], seed=300)) == labels[held]).float().mean())
        """Accuracy on held-out drawings."""

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B,) int64 digits."""
        return torch.from_numpy(self._machine.predict(ink_mask(images).flatten(1).numpy())).long()


def _redrawn(masks: Tensor, pen: int) -> Tensor:
    """(N, 72, 72) masks redrawn with strokes that are ``pen`` pixels wider, or narrower if it is negative."""
    if pen == 0:
        return masks
    grown = F.max_pool2d(math.copysign(1, pen) * masks[:, None].float(), abs(pen) + 1, 1, abs(pen) // 2)
    return (math.copysign(1, pen) * grown[:, 0]).byte()


def ink_mask(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 16, 16) in [0, 1]: each pixel's distance from the paper's colour, cropped to the ink."""
    paper = _paper(images)
    distance = (images - paper[:, :, None, None]).norm(dim=1)  # (B, H, W)
    darkest = distance.flatten(1).quantile(0.98, dim=1).clamp(min=0.05)
    coverage = (distance / darkest[:, None, None]).clamp(0, 1)
    height, width = coverage.shape[1:]
    masks = []
    for mask in coverage:
        if not (mask > 0.5).any():  # a blank image
            masks.append(mask.new_zeros(_SIDE, _SIDE))
            continue
        rows, columns = (mask > 0.5).any(1).nonzero(), (mask > 0.5).any(0).nonzero()
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        half = max(bottom - top, right - left) / 2 * 1.1
        shift = [[2 * half / width, 0, (left + right) / width - 1], [0, 2 * half / height, (top + bottom) / height - 1]]
        grid = F.affine_grid(torch.tensor([shift]), [1, 1, 3 * _SIDE, 3 * _SIDE], align_corners=False)
        masks.append(F.avg_pool2d(F.grid_sample(mask[None, None], grid, align_corners=False), 3)[0, 0])
    return torch.stack(masks)


def colours(images: Tensor) -> tuple[list[str], list[str]]:
    """The palette's nearest ink and paper colours for each image (B, 3, H, W)."""
    paper = _paper(images)
    distance = (images - paper[:, :, None, None]).norm(dim=1).flatten(1)  # (B, H * W)
    inked = distance.topk(distance.shape[1] // 40, dim=1).indices
    ink = images.flatten(2).gather(2, inked[:, None].expand(-1, 3, -1)).mean(2)
    return _nearest(ink, INKS), _nearest(paper, PAPERS)


def _paper(images: Tensor) -> Tensor:
    """The paper's colour (B, 3): the median of the border."""
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], dim=2)
    return border.median(dim=2).values


def _nearest(colour: Tensor, palette: dict[str, tuple[float, float, float]]) -> list[str]:
    names = list(palette)
    return [names[i] for i in torch.cdist(colour, torch.tensor(list(palette.values()))).argmin(1).tolist()]
