"""A search: architecture descent from the base widths, as users call it."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nsopt.compute.device import resolve_compute
from nsopt.data.images import ImageData
from nsopt.descent.iterations import descend
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress, Silent
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.record import Iteration


@dataclass(frozen=True)
class SearchResult:
    """What architecture descent found; the last iteration's law is the one to use."""

    iterations: tuple[Iteration, ...]

    @property
    def law(self) -> PowerLaw:
        return self.iterations[-1].law


def search(
    arch: Architecture,
    data: ImageData,
    settings: SearchSettings,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    start: nn.Module | None = None,
) -> SearchResult:
    """Run architecture descent on `arch` from its base widths.

    start: a trained network of these widths, which is pruned at once, without pre-training; it is
    left as it is. Later iterations of descent pre-train networks of their own.

    checkpoint: a file in which a search of more than half a minute keeps its state, from which the
    same call goes on after an interruption; it is removed at the end. After an error it keeps the
    iterations that had ended.

    Raises ShortRecordError if a prune record is too short for a law, NonFiniteLossError if
    training diverges, OutOfMemoryError when a batch does not fit the device, NsoptError for a
    checkpoint of another search.
    """
    compute = resolve_compute(settings.device, settings.precision)
    splits = data.split(settings.val_fraction).to(compute.device)
    iterations = descend(
        arch, splits, settings, (), compute, progress or Silent(), checkpoint, start
    )
    return SearchResult(tuple(iterations))
