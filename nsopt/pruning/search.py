"""A search: architecture descent from the base widths, as users call it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.placement import place_images
from nsopt.data.images import ImageData, Splits
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress, Silent
from nsopt.pruning.descent import descend
from nsopt.pruning.settings import SearchSettings
from nsopt.pruning.supervision import Classification, OwnBatches, Supervision
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.record import Iteration
from nsopt.training.step import Loss


@dataclass(frozen=True)
class SearchResult:
    """What architecture descent found; the last iteration's law is the one to use."""

    iterations: tuple[Iteration, ...]

    @property
    def law(self) -> PowerLaw:
        return self.iterations[-1].law


def search(
    arch: Architecture,
    data: ImageData | None = None,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    start: nn.Module | None = None,
    loader: Iterable[Any] | None = None,
    loss: Loss | None = None,
) -> SearchResult:
    """Run architecture descent on `arch` from its base widths.

    Either `data` holds labelled images; or `loader` gives batches, pairs of inputs and targets, as
    a DataLoader or a list does, and `loss(outputs, targets)` is what training lowers, for any task.
    Then batch size, validation images and augmentation are the loader's own; what it draws from
    torch's generator follows from the seed.

    start: a trained network of these widths, which is pruned at once, without pre-training; it is
    left as it is. Later iterations of descent pre-train networks of their own.

    checkpoint: a file in which a search of more than half a minute keeps its state, from which the
    same call goes on after an interruption; it is removed at the end. After an error it keeps the
    iterations that had ended.

    Raises ShortRecordError if a prune record is too short for a law, NonFiniteLossError if
    training diverges, OutOfMemoryError when a batch does not fit the device, NsoptError for a
    checkpoint of another search, and for a loader or a loss that is none.
    """
    settings = settings or SearchSettings()
    compute = resolve_compute(settings.device, settings.precision)
    supervision = _supervision(data, settings, loader, loss, compute)
    iterations = descend(
        arch, supervision, settings, (), compute, progress or Silent(), checkpoint, start
    )
    return SearchResult(tuple(iterations))


def images_of_search(splits: Splits, settings: SearchSettings, compute: Compute) -> Classification:
    """What a search sees of `splits`, for networks on the device of `compute`."""
    some = splits.with_train_images(settings.search_images)
    return Classification(place_images(some, compute), settings.resized_crop)


def _supervision(
    data: ImageData | None,
    settings: SearchSettings,
    loader: Iterable[Any] | None,
    loss: Loss | None,
    compute: Compute,
) -> Supervision:
    if (data is None) == (loader is None) or (loader is None) != (loss is None):
        raise NsoptError("search needs data=..., or loader=... and loss=... together")
    if data is not None:
        return images_of_search(data.split(settings.val_fraction), settings, compute)
    if settings.search_images is not None:
        raise NsoptError("search_images= needs data=...: a loader decides which images there are")
    assert loader is not None
    assert loss is not None
    return OwnBatches(loader, loss, compute.device)
