"""Search the width law of a network."""

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
from nsopt.progress import Progress
from nsopt.pruning.iterations import run_iterations
from nsopt.pruning.settings import SearchSettings
from nsopt.pruning.supervision import Classification, OwnBatches, Supervision
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.record import Iteration
from nsopt.terminal import show_progress
from nsopt.training.step import Loss


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        iterations: in order, each with its record, law and proposed widths.
        law: that of the last iteration, which is the one to use.
    """

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
    """Find the width law of `arch`: prune, fit, rescale and prune again (Algorithms 1, 2 and 4).

    Give either `data`, or `loader` and `loss` for any other task. A loader decides batch size,
    validation and augmentation; its random numbers from torch follow from the seed.

    Args:
        arch: the family of networks; the search starts at its base widths.
        data: images with labels.
        settings: by default those of the paper for CIFAR.
        progress: receives steps and messages; by default bars on a terminal and nothing elsewhere;
            `nsopt.Silent()` for silence.
        checkpoint: a file from which the same call continues after an interruption. It is written
            every 30 seconds and removed at the end; after an error it keeps finished iterations.
        start: a trained network of the base widths, which the first iteration prunes without
            pre-training; it does not change.
        loader: yields batches, pairs of inputs and targets, such as a DataLoader or a list.
        loss: `loss(outputs, targets)`, which training minimises.

    Returns:
        The iterations of the search; `.law` is the law to solve for budgets.

    Raises:
        ShortRecordError: if pruning takes too few steps for a law.
        NonFiniteLossError: if the loss becomes NaN or infinite.
        OutOfMemoryError: if a batch does not fit the device.
        NsoptError: for a checkpoint of another search, or an invalid loader or loss.

    Examples:
        >>> short = nsopt.SearchSettings(
        ...     iterations=1, pretrain_epochs=1, prune_every=3, filters_per_step=0.1, batch_size=64
        ... )
        >>> law = nsopt.search(arch, nsopt.load_data("digits"), short).law
        >>> nsopt.solve_widths(law, arch.cost("params"), 600_000).widths
    """
    settings = settings or SearchSettings()
    compute = resolve_compute(settings.device, settings.precision)
    supervision = _make_supervision(data, settings, loader, loss, compute)
    with show_progress(progress) as display:
        iterations = tuple(
            run_iterations(arch, supervision, settings, (), compute, display, checkpoint, start)
        )
    return SearchResult(iterations)


def select_search_images(
    splits: Splits, settings: SearchSettings, compute: Compute
) -> Classification:
    """Return the images of `splits` that a search uses, on the device of `compute` if they fit."""
    some = splits.with_train_images(settings.search_images)
    return Classification(place_images(some, compute), settings.resized_crop)


def _make_supervision(
    data: ImageData | None,
    settings: SearchSettings,
    loader: Iterable[Any] | None,
    loss: Loss | None,
    compute: Compute,
) -> Supervision:
    if (data is None) == (loader is None) or (loader is None) != (loss is None):
        raise NsoptError("search needs data=..., or loader=... and loss=... together")
    if data is not None:
        return select_search_images(data.split(settings.val_fraction), settings, compute)
    if settings.search_images is not None:
        raise NsoptError("search_images= needs data=...: a loader chooses its own images")
    assert loader is not None
    assert loss is not None
    return OwnBatches(loader, loss, compute.device)
