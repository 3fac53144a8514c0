"""Compute latents and CLIP image features of the examples once, before training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..distributed import SINGLE_PROCESS, DistributedContext
from ..errors import ConfigError, ExamplesError, HostError
from ..files.limits import MAX_NUMBER
from ..files.safe_load import format_of
from ..files.writing import set_aside, write_own
from ..hosts.base import Host
from ..hosts.out_of_memory import in_parts_that_fit
from ..images.reading import one_error
from ..tokens.token_set import Support
from .buckets import bucket_of, bucket_sizes
from .dataset import FewShotDataset
from .image_stream import default_num_workers, read_ahead
from .near_duplicates import THUMBNAIL, example_names, first_alike, thumbnails
from .sidecars import latent_mask, read_caption

__all__ = ["FeatureCache"]

_FORMAT = "mcti-features"
_TOO_LARGE = "a single image of {} pixels does not fit into memory; choose a smaller image size, or free memory that other programs use"


@dataclass(frozen=True)
class FeatureCache:
    """Latents and features of N examples of C classes. M is 2 with mirror images, otherwise 1."""

    classes: tuple[str, ...]
    labels: Tensor
    """(N,) int64 class of each example."""
    latents: Tensor | None
    """(N, M, c, h, w) float32 on the CPU; None without a VAE."""
    features: Tensor | None
    """(N, M, p) float32 of unit length on the CPU; None without a CLIP space."""
    fingerprint: str
    """Hash of images, labels, size, mirroring and models; equal hashes mean equal tensors."""
    thumbnails: Tensor | None = None
    """(N, M, 432) float32 on the CPU, see ``data.near_duplicates``; None without the examples' images."""
    masks: Tensor | None = None
    """(N, M, h, w) float32 in [0, 1] on the CPU: weights of the latents in the reconstruction term; None without masks."""
    sizes: Tensor | None = None
    """(N, 2) int64 height and width of each example's latents, which are zero-padded to (h, w); None without buckets."""
    captions: tuple[str, ...] = ()
    """(N,) caption template of each example, "" for none; empty if there are no captions."""

    @classmethod
    def build(
        cls, host: Host, dataset: FewShotDataset, *, hflip: bool = True, size: int | None = None, folder: str | Path | None = None,
        batch_size: int = 16, latents: bool = True, buckets: bool = False, progress: Callable[[int, int], object] | None = None,
        processes: DistributedContext = SINGLE_PROCESS,
    ) -> FeatureCache:  # fmt: skip
        """Encode every image, and its mirror image, with the VAE and the image encoder.

        Args:
            host: its VAE and CLIP space; missing parts are skipped.
            hflip: also encode mirror images; unsuitable if orientation matters, as for text.
            size: side of the images in pixels, a multiple of the VAE's downscale; by default the host's own.
            folder: folder of results, which are reused for the same images and models.
            batch_size: number of images per forward pass.
            latents: also encode latents.
            buckets: encode latents in aspect ratio buckets (``data.buckets``); image features are always of squares.
            progress: called with the number of finished images and the total.
            processes: share the batches; each gets the complete result, and the first writes the file.

        Raises:
            ConfigError: a size that the VAE does not support.
            ExamplesError: one error for all unreadable images, or ``dataset`` has the wrong type.
            HostError: latents or features that are not finite.
        """
        if not isinstance(dataset, FewShotDataset):
            got = type(dataset).__name__
            raise ExamplesError(f"build takes a FewShotDataset, got {got}; FewShotDataset.from_folder reads a folder")
        host = host if latents else replace(host, codec=None)
        size, codec = size or host.image_size, host.codec
        if codec is not None and size % codec.downscale:
            raise ConfigError(f"image size {size} is not a multiple of {codec.downscale}")
        key = (
            f"{dataset.fingerprint()}:{'|'.join(dataset.classes)}:{size}:{hflip}:{codec is not None}:{host.fingerprint}"
        )
        target_sizes, sizes = [(size, size)] * len(dataset), None
        if buckets and codec is not None:
            key, choices = f"{key}:buckets", bucket_sizes(size, codec.downscale)
            target_sizes = [bucket_of(*dataset.size_of(row), choices) for row in range(len(dataset))]
            sizes = torch.tensor(target_sizes) // codec.downscale
        texts = [dataset.sidecars(row)[0] for row in range(len(dataset))]
        captions = tuple("" if text is None else read_caption(text) for text in texts)
        fingerprint = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        path = None if folder is None else Path(folder) / f"{fingerprint}.safetensors"
        stored = None
        if path is not None:
            stored = _read(path, _shapes(host, (len(dataset), 1 + hflip), _largest(target_sizes), bool(dataset.masks)))
        if processes.any(stored is None) or stored is None:  # the second half is for mypy
            functions = _functions(host, with_latents=sizes is None)
            one_by_one = ["latents"] * (sizes is not None) + ["masks"] * (codec is not None and bool(dataset.masks))
            stored = _compute(
                host, dataset, functions, one_by_one, target_sizes, size, hflip, batch_size, progress, processes
            )
            _refuse_nonfinite(stored, dataset)
            if path is not None and processes.is_main:
                _write(path, stored)
        results = {name: stored.get(name) for name in ("latents", "features", "thumbnails", "masks")}
        captions = captions if any(captions) else ()
        return cls(dataset.classes, dataset.labels, fingerprint=fingerprint, sizes=sizes, captions=captions, **results)

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, index: Tensor) -> FeatureCache:
        """The examples at these indices, of the same classes."""
        key = f"{self.fingerprint}:{index.tolist()}"
        changed: dict[str, Any] = {"fingerprint": hashlib.sha256(key.encode()).hexdigest()[:32]}
        for name in ("labels", "latents", "features", "thumbnails", "masks", "sizes"):
            rows = getattr(self, name)
            changed[name] = None if rows is None else rows[index]
        captions = tuple(self.captions[i] for i in index.tolist()) if self.captions else ()
        return replace(self, captions=captions, **changed)

    @cached_property
    def alike(self) -> Tensor | None:
        """(N,) int64: index of the first example that is the same image, or nearly so."""
        return None if self.thumbnails is None else first_alike(self.thumbnails[:, 0])

    @cached_property
    def by_class(self) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """(N,) indices of all examples, sorted by class; (C,) start of each class in them; (C,) number of its examples."""
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        return self.labels.argsort(stable=True), counts.cumsum(0) - counts, tuple(counts.tolist())

    def support(self) -> Support | None:
        """The features of the unmirrored images, to store with the tokens."""
        return None if self.features is None else Support(self.features[:, 0].clone(), self.labels.clone())


def _compute(
    host: Host, dataset: FewShotDataset, functions: Mapping[str, Callable[[Tensor], Tensor]], one_by_one: Sequence[str],
    target_sizes: Sequence[tuple[int, int]], size: int, hflip: bool, batch_size: int, progress: Callable[[int, int], object] | None,
    processes: DistributedContext,
) -> dict[str, Tensor]:  # fmt: skip
    """Results of ``functions`` on batches of squares, and those named in ``one_by_one`` for each image at its target size."""
    parts: dict[str, list[Tensor]] = {name: [] for name in (*functions, *one_by_one)}
    share = processes.share(-(-len(dataset) // batch_size))  # complete batches, as with a single process
    own = range(len(dataset))[share.start * batch_size : share.stop * batch_size]

    @torch.inference_mode()
    def load(row: int) -> Tensor:
        return next(dataset.load(size, [row]))

    reading = closing(read_ahead(own, batch_size, load, default_num_workers(processes.local_count)))
    part_sizes, done, errors = dict.fromkeys(functions, batch_size), 0, list[ExamplesError]()
    with torch.inference_mode(), host.session("codec", "clip"), reading as read:
        for found in read:
            errors += [image for _, image in found if isinstance(image, ExamplesError)]
            if errors:  # keep reading, so that one message lists all unreadable images
                continue
            images = torch.stack([image for _, image in found if isinstance(image, Tensor)])
            for name, function in functions.items():
                of_part = partial(_of_views, function, images, hflip, host.device)
                computed = in_parts_that_fit(of_part, len(images), part_sizes[name], _TOO_LARGE.format(size))
                part_sizes[name] = min(part_sizes[name], len(computed[0]))
                parts[name] += computed
            for row in (row for row, _ in found if one_by_one):
                try:
                    for name in one_by_one:
                        parts[name].append(_of_row(name, host, dataset, row, target_sizes, hflip))
                except ExamplesError as error:
                    errors.append(error)
            done += len(images)
            if progress is not None:
                progress(done, len(own))
    if errors:
        raise one_error(errors)
    # cloned, since a tensor of inference mode cannot be trained with
    return {
        name: processes.all_gather_rows(torch.cat(mine).clone() if own else torch.zeros(0))
        for name, mine in parts.items()
    }


def _of_row(
    name: str, host: Host, dataset: FewShotDataset, row: int, target_sizes: Sequence[tuple[int, int]], hflip: bool
) -> Tensor:
    """(1, M, ..., h, w) float32 on the CPU: latents or mask of an example at its target size, zero-padded to the largest."""
    codec, target_size = host.require_codec(), target_sizes[row]
    small = target_size[0] // codec.downscale, target_size[1] // codec.downscale
    if name == "latents":
        found = _of_views(codec.encode, dataset.load_as(row, *target_size)[None], hflip, host.device, slice(None))
    else:
        image, mask, weights = dataset.images[row], dataset.sidecars(row)[1], torch.ones(small)
        if isinstance(image, Path) and mask is not None:
            weights = latent_mask(image, mask, target_size, small)
        found = torch.stack([weights, weights.flip(-1)] if hflip else [weights])[None]
    height, width = (side // codec.downscale for side in _largest(target_sizes))
    return F.pad(found, (0, width - small[1], 0, height - small[0]))


def _largest(target_sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(height for height, _ in target_sizes), max(width for _, width in target_sizes)


def _refuse_nonfinite(computed: dict[str, Tensor], dataset: FewShotDataset) -> None:
    """Raise a ``HostError`` for values that are not finite, which models in float16 may output."""
    for name, rows in computed.items():
        if broken := (~rows.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist():
            raise HostError(
                f"the model's {name} of {len(broken)} of {len(rows)} images, {example_names(dataset)[broken[0]]} among them, are not "
                "numbers; load the model in another number format (bf16 or fp32)"
            )


def _functions(host: Host, *, with_latents: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """Name of a result -> function of (b, 3, H, W) images."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {"thumbnails": thumbnails}
    if with_latents and host.codec is not None:
        functions["latents"] = host.codec.encode
    if (clip := host.clip) is not None:
        functions["features"] = lambda images: F.normalize(clip.image_features(images).float(), dim=-1)
    return functions


def _of_views(
    function: Callable[[Tensor], Tensor], images: Tensor, hflip: bool, device: torch.device, part: slice
) -> Tensor:
    """Apply a function to these rows of the images, and to their mirror images: (b, M, ...) float32 on the CPU."""
    plain = images[part].to(device)  # (b, 3, H, W)
    views = [plain, plain.flip(-1)] if hflip else [plain]
    return torch.stack([function(view).float().cpu() for view in views], dim=1)


def _shapes(host: Host, rows: tuple[int, int], largest: tuple[int, int], masks: bool) -> dict[str, list[int]]:
    """Name -> shape of each stored tensor; ``rows`` is (N, M)."""
    shapes = {"thumbnails": [*rows, THUMBNAIL]}
    if host.codec is not None:
        sides = [side // host.codec.downscale for side in largest]
        shapes["latents"] = [*rows, host.codec.channels, *sides]
        if masks:
            shapes["masks"] = [*rows, *sides]
    if host.clip is not None:
        pooled = torch.zeros(1, host.text[host.clip.encoder].width, device=host.device)
        with torch.inference_mode(), host.session("clip"):
            shapes["features"] = [*rows, host.clip.project_text(pooled).shape[1]]
    return shapes


def _read(path: Path, shapes: Mapping[str, list[int]]) -> dict[str, Tensor] | None:
    """The stored tensors, or None if names, shapes or values do not fit. Tensors of other shapes are not read."""
    if not _is_own(path):
        return None
    try:
        with safe_open(path, "pt") as file:
            if {name: file.get_slice(name).get_shape() for name in file.keys()} != shapes:  # noqa: SIM118
                return None
        stored: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError):
        return None
    valid = all(rows.dtype == torch.float32 and bool((rows.abs() <= MAX_NUMBER).all()) for rows in stored.values())
    return stored if valid else None


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    if path.is_file() and not _is_own(path):
        set_aside(path)
    contiguous = {name: rows.contiguous() for name, rows in tensors.items()}
    write_own(path, lambda file: save_file(contiguous, file, metadata={"format": _FORMAT}), _is_own)


def _is_own(path: Path) -> bool:
    return format_of(path) == _FORMAT
