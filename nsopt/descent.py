"""Architecture descent (Algorithm 4): prune, fit, rescale to the original size, again."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nsopt.data.images import ImageData, Splits
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress, Silent
from nsopt.pruning.engine import iterative_prune
from nsopt.pruning.record import Iteration
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.power_law import PowerLaw
from nsopt.scaling.solve import solve_widths
from nsopt.training.checkpoint import Checkpoint, State
from nsopt.training.device import Compute, resolve_compute
from nsopt.training.machine import Machine


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
) -> SearchResult:
    """Run architecture descent on `arch` from its base widths.

    checkpoint: a file in which a search of more than half a minute keeps its state, from which the
    same call goes on after an interruption; it is removed at the end.

    Raises ShortRecordError if a prune record is too short for a law, NonFiniteLossError if
    training diverges, NsoptError for a checkpoint of another search.
    """
    iterations = descend(arch, data, settings, (), progress or Silent(), checkpoint)
    return SearchResult(tuple(iterations))


def descend(
    arch: Architecture,
    data: ImageData,
    settings: SearchSettings,
    done: Sequence[Iteration],
    progress: Progress,
    checkpoint: Path | None = None,
    machine: Machine | None = None,
) -> Iterator[Iteration]:
    """Continue after the iterations that are `done`; yields each further one as it ends.

    Iteration i trains with seed `settings.seed + i`, so that a continued search equals an
    uninterrupted one. An iteration counts as received when the next one is asked for: until then
    the checkpoint holds it. machine: what it shares with other processes.
    """
    if is_complete(done, settings):
        Checkpoint(checkpoint, {}).remove()
        return
    compute = replace(resolve_compute(settings.device, settings.precision), machine=machine)
    splits = data.split(settings.val_fraction).to(compute.device)
    identity = _identity(arch, splits, settings) if checkpoint else {}
    descent = _Descent(arch, splits, settings, compute, progress, Checkpoint(checkpoint, identity))
    descent.restore()
    yield from descent.run(done)


class _Descent:
    """A descent that keeps its iterations, and the state of the current one, in a checkpoint."""

    def __init__(
        self,
        arch: Architecture,
        splits: Splits,
        settings: SearchSettings,
        compute: Compute,
        progress: Progress,
        checkpoint: Checkpoint,
    ) -> None:
        self._arch = arch
        self._splits = splits
        self._settings = settings
        self._compute = compute
        self._progress = progress
        self._checkpoint = checkpoint
        self._saved: list[Iteration] = []
        self._current: State | None = None

    def restore(self) -> None:
        """Take up what the checkpoint holds; NsoptError if that is another search."""
        state = self._checkpoint.load(self._compute.device)
        if state is not None:
            self._saved = [Iteration.from_dict(iteration) for iteration in state["history"]]
            self._current = state["current"]

    def run(self, done: Sequence[Iteration]) -> Iterator[Iteration]:
        """The iterations after those that are `done`."""
        history = list(done)
        for iteration in self._saved[len(history) :]:
            history.append(iteration)
            yield iteration
        if len(history) != len(self._saved):
            self._current = None
        while not is_complete(history, self._settings):
            try:
                history.append(self._iteration(history))
            except NsoptError:
                self._checkpoint.remove()
                raise
            yield history[-1]
        self._checkpoint.remove()

    def _iteration(self, history: Sequence[Iteration]) -> Iteration:
        resume, self._current = self._current, None
        before = resume["seconds"] if resume else 0.0
        started = time.perf_counter() - before
        widths = _starting_widths(self._arch, history, self._settings)
        done = [iteration.to_dict() for iteration in history]

        def save(pruning: Callable[[], State]) -> None:
            self._checkpoint.save_when_due(
                lambda: {
                    "history": done,
                    "current": {
                        "pruning": pruning(),
                        "seconds": time.perf_counter() - started,
                    },
                }
            )

        trajectory = iterative_prune(
            self._arch,
            widths,
            self._splits,
            self._settings.updated(seed=self._settings.seed + len(history)),
            self._compute,
            self._progress,
            resume["pruning"] if resume else None,
            save,
        )
        law = trajectory.record().law()
        params = self._arch.cost("params")
        proposal = solve_widths(law, params, params(self._arch.base_widths)).widths
        return Iteration(trajectory, law, tuple(proposal.tolist()), time.perf_counter() - started)


def _identity(arch: Architecture, splits: Splits, settings: SearchSettings) -> dict[str, Any]:
    """What the iterations depend on; not how many there will be."""
    kept = settings.model_dump(mode="json", exclude={"iterations", "convergence"})
    network = {"arch": arch.name, "widths": list(arch.base_widths), "classes": arch.num_classes}
    return network | {"data": splits.fingerprint(), "search": kept}


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
