"""Architecture descent (Algorithm 4): prune, fit, rescale to the original size, again."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nsopt.data.images import ImageData
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress, Silent
from nsopt.pruning.engine import iterative_prune
from nsopt.pruning.record import Iteration
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.power_law import PowerLaw
from nsopt.scaling.solve import solve_widths
from nsopt.training.device import resolve_compute


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
) -> SearchResult:
    """Run architecture descent on `arch` from its base widths.

    Raises ShortRecordError if a prune record is too short for a law, NonFiniteLossError if
    training diverges.
    """
    return SearchResult(tuple(descend(arch, data, settings, (), progress or Silent())))


def descend(
    arch: Architecture,
    data: ImageData,
    settings: SearchSettings,
    done: Sequence[Iteration],
    progress: Progress,
) -> Iterator[Iteration]:
    """Continue after the iterations that are `done`; yields each further one as it ends.

    Iteration i trains with seed `settings.seed + i`, so that a continued search equals an
    uninterrupted one.
    """
    history = list(done)
    if is_complete(history, settings):
        return
    compute = resolve_compute(settings.device, settings.precision)
    splits = data.split(settings.val_fraction).to(compute.device)
    params = arch.cost("params")
    while not is_complete(history, settings):
        started = time.perf_counter()
        widths = _starting_widths(arch, history, settings)
        seeded = settings.updated(seed=settings.seed + len(history))
        trajectory = iterative_prune(arch, widths, splits, seeded, compute, progress)
        law = trajectory.record().law()
        proposal = solve_widths(law, params, params(arch.base_widths)).widths
        seconds = time.perf_counter() - started
        history.append(Iteration(trajectory, law, tuple(proposal.tolist()), seconds))
        yield history[-1]


def is_complete(history: Sequence[Iteration], settings: SearchSettings) -> bool:
    """Whether descent has run its iterations, or has converged."""
    if len(history) >= settings.iterations:
        return True
    limit = settings.convergence
    return limit is not None and bool(history) and history[-1].change <= limit


def _starting_widths(
    arch: Architecture, history: Sequence[Iteration], settings: SearchSettings
) -> tuple[int, ...]:
    """The base widths, then the last proposal with its small widths raised."""
    if not history:
        return arch.base_widths
    small = settings.small_width
    return tuple(w + small if w < small else w for w in history[-1].widths)
