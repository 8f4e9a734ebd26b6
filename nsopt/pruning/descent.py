"""The iterations of architecture descent (Algorithm 4): prune, fit, rescale to the original size.

A checkpoint holds the iterations that are done and the state of the current one. Searches whose
prices differ begin with the same pre-training: a file of its own keeps it for the next of them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nsopt.compute.checkpoint import Checkpoint, State, weights_checksum
from nsopt.compute.device import Compute
from nsopt.errors import DeterministicError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.pruning.engine import iterative_prune
from nsopt.pruning.rules import check_steps, scale_metric
from nsopt.pruning.settings import SearchSettings
from nsopt.pruning.supervision import Supervision
from nsopt.scaling.record import Iteration
from nsopt.scaling.solve import solve_widths


def descend(
    arch: Architecture,
    supervision: Supervision,
    settings: SearchSettings,
    done: Sequence[Iteration],
    compute: Compute,
    progress: Progress,
    checkpoint: Path | None = None,
    start: nn.Module | None = None,
    pretrained: Path | None = None,
) -> Iterator[Iteration]:
    """Continue after the iterations that are `done`; yields each further one as it ends.

    supervision: on the device of `compute`; start: see `search`. A continued search equals an
    uninterrupted one. An iteration counts as received when the next one is asked for: until then
    the checkpoint holds it. pretrained: a file with the state in which the first iteration's
    pre-training ends, whatever the price; read if it is there, written if not.
    """
    if is_complete(done, settings):
        Checkpoint(checkpoint, {}).remove()
        return
    identity = _identity(arch, supervision, settings, start) if checkpoint or pretrained else {}
    descent = _Descent(
        arch,
        supervision,
        settings,
        compute,
        progress,
        Checkpoint(checkpoint, identity),
        Checkpoint(pretrained, _without_price(identity)),
        start,
    )
    yield from descent.run(done)


def is_complete(history: Sequence[Iteration], settings: SearchSettings) -> bool:
    """Whether descent has run its iterations, or has converged."""
    if len(history) >= settings.iterations:
        return True
    if settings.convergence is None or not history:
        return False
    if settings.convergence == "band":
        return history[-1].is_settled
    return history[-1].change <= settings.convergence


def iteration_seed(seed: int, number: int) -> int:
    """The seed of descent iteration `number`, from 0: its own for every search and iteration."""
    if number == 0:
        return seed
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


@dataclass(frozen=True, eq=False)
class _Descent:
    """A descent that keeps its iterations, and the state of the current one, in a checkpoint."""

    arch: Architecture
    supervision: Supervision
    settings: SearchSettings
    compute: Compute
    progress: Progress
    checkpoint: Checkpoint
    pretrained: Checkpoint
    start: nn.Module | None

    def run(self, done: Sequence[Iteration]) -> Iterator[Iteration]:
        """The iterations after those that are `done`."""
        state = self.checkpoint.load(self.compute.device) or {"history": [], "current": None}
        saved = [Iteration.from_dict(iteration) for iteration in state["history"]]
        history = list(done)
        for iteration in saved[len(history) :]:
            history.append(iteration)
            yield iteration
        current = state["current"] if len(history) == len(saved) else None
        while not is_complete(history, self.settings):
            history.append(self._iteration(history, current))
            current = None
            yield history[-1]
        self.checkpoint.remove()

    def _iteration(self, history: Sequence[Iteration], current: State | None) -> Iteration:
        """The next iteration, from its beginning or from its state in a checkpoint.

        What would happen again leaves a checkpoint with the iterations before; any other error
        leaves the checkpoint as it is.
        """
        if history and current is None:
            self.checkpoint.save(_state(history))
        try:
            return self._prune_and_fit(history, current or self._pretrained(history))
        except DeterministicError:
            if history:
                self.checkpoint.save(_state(history))
            else:
                self.checkpoint.remove()
            raise

    def _prune_and_fit(self, history: Sequence[Iteration], current: State | None) -> Iteration:
        started = time.perf_counter() - (current["seconds"] if current else 0.0)
        number = len(history)

        def now(pruning: Callable[[], State]) -> State:
            return {"pruning": pruning(), "seconds": time.perf_counter() - started}

        def save(pruning: Callable[[], State], pretrained: bool) -> None:
            if pretrained and not history:
                self.pretrained.save(now(pruning))
            self.checkpoint.save_when_due(lambda: _state(history, now(pruning)))

        settings = self.settings.updated(seed=iteration_seed(self.settings.seed, number))
        widths = _starting_widths(self.arch, history, settings)
        check_steps(self.arch, widths, settings)
        start = None if history else self.start
        if start is not None:
            settings = settings.updated(pretrain_epochs=0)
        trajectory = iterative_prune(
            self.arch,
            widths,
            self.supervision,
            settings,
            self.compute,
            self.progress,
            current["pruning"] if current else None,
            save,
            start,
        )
        law = trajectory.record().law()
        metric = scale_metric(settings.price)
        cost = metric.cost(self.arch)
        fit = solve_widths(law, cost, cost(self.arch.base_widths))
        seconds = time.perf_counter() - started
        proposed = tuple(fit.widths.tolist())
        low, high = _tuple(fit.widths_low), _tuple(fit.widths_high)
        return Iteration(trajectory, law, proposed, seconds, metric.name, low, high)

    def _pretrained(self, history: Sequence[Iteration]) -> State | None:
        """Where the first iteration may begin: after the pre-training of another search."""
        return None if history else self.pretrained.load(self.compute.device)


def _tuple(widths: NDArray[np.int64] | None) -> tuple[int, ...] | None:
    return None if widths is None else tuple(widths.tolist())


def _state(history: Sequence[Iteration], current: State | None = None) -> State:
    """What the checkpoint holds: iterations that are done, and the one that is running."""
    return {"history": [iteration.to_dict() for iteration in history], "current": current}


def _identity(
    arch: Architecture, supervision: Supervision, settings: SearchSettings, start: nn.Module | None
) -> dict[str, Any]:
    """What the iterations depend on; not how many there will be."""
    kept = settings.model_dump(mode="json", exclude={"iterations", "convergence"})
    network = {"arch": arch.name, "widths": list(arch.base_widths), "classes": arch.num_classes}
    weights = {} if start is None else {"start": weights_checksum(start)}
    return network | {"data": supervision.fingerprint(), "search": kept} | weights


def _without_price(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What pre-training depends on, and more."""
    search = {name: value for name, value in identity.get("search", {}).items() if name != "price"}
    return {**identity, "search": search}


def _starting_widths(
    arch: Architecture, history: Sequence[Iteration], settings: SearchSettings
) -> tuple[int, ...]:
    """The base widths, then the last proposal with its small widths raised."""
    if not history:
        return arch.base_widths
    small = settings.small_width
    return tuple(w + small if w < small else w for w in history[-1].widths)
