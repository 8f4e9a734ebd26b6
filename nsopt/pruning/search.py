"""Search the width law of a network (Algorithm 4): prune, fit, rescale to the original size.

A checkpoint holds the finished iterations and the state of the current one. Searches with different
prices share their pre-training: a second file keeps the pre-trained network for the next search.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from nsopt.compute.checkpoint import Checkpoint, State, identify_code, weights_checksum
from nsopt.compute.device import Compute, resolve_compute
from nsopt.data.images import ImageData
from nsopt.errors import DeterministicError, NsoptError
from nsopt.isolation import public
from nsopt.models.architecture import Architecture
from nsopt.notebook import make_html_table
from nsopt.progress import Progress, show_progress
from nsopt.pruning.engine import iterative_prune
from nsopt.pruning.rules import check_range, check_steps, get_size_metric, with_enough_steps
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.cost import width_limits
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.record import Iteration
from nsopt.scaling.solve import solve_widths
from nsopt.tasks.supervise import check_outputs, check_training, supervise
from nsopt.tasks.supervision import Supervision
from nsopt.tasks.task import Task
from nsopt.tracing.originals import unwrapped
from nsopt.training.precision import choose_compute


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

    def __repr__(self) -> str:
        return f"SearchResult(iterations={len(self.iterations)}, law={self.law})"

    def _repr_html_(self) -> str:
        rows = [
            {
                "iteration": number,
                "prune steps": len(iteration.trajectory.tau) - 1,
                "seconds": f"{iteration.seconds:.1f}",
                "widths at the original size": "-".join(map(str, iteration.widths)),
                "lowest r2": f"{iteration.law.r2.min():.3f}",
            }
            for number, iteration in enumerate(self.iterations, start=1)
        ]
        return make_html_table(rows, repr(self))


@public
def search(
    arch: Architecture,
    task: Task | ImageData,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    start: nn.Module | None = None,
) -> SearchResult:
    """Find the width law of `arch`: prune, fit, rescale and prune again (Algorithms 1, 2 and 4).

    The loader of a task decides batch size and augmentation; its random numbers from torch follow
    from the seed. A task needs a loss here, but no score.

    Args:
        arch: the family of networks; the search starts at its base widths.
        task: batches and loss; or images with labels.
        settings: by default those of the paper for CIFAR.
        progress: receives steps and messages; by default bars on a terminal, else lines on stderr;
            `nsopt.Silent()` for silence.
        checkpoint: a file from which the same call continues after an interruption. It is written
            every 30 seconds and removed at the end; after an error it keeps finished iterations.
        start: a trained network of the base widths, which the first iteration prunes without
            pre-training; it does not change.

    Returns:
        The iterations of the search; `.law` is the law to solve for budgets.

    Raises:
        ShortRecordError: if pruning takes too few steps for a law.
        NonFiniteLossError: if the loss becomes NaN or infinite.
        OutOfMemoryError: if a batch does not fit the device.
        NsoptError: for a checkpoint of another search, or a task without a loss.

    Examples:
        >>> short = nsopt.SearchSettings(
        ...     iterations=1, pretrain_epochs=1, prune_every=3, filters_per_step=0.1, batch_size=64
        ... )
        >>> law = nsopt.search(arch, nsopt.load_data("digits"), short).law
        >>> nsopt.solve_widths(law, arch.cost("params"), 600_000).widths
    """
    settings = settings or SearchSettings()
    check_outputs(arch, task)
    check_training(arch, task)
    compute = resolve_compute(settings.device, settings.precision)
    if checkpoint is None:  # what continues must not change its precision
        compute = choose_compute(settings, arch, arch.base_widths, task)
    supervision = supervise_search(task, settings, compute)
    start = None if start is None else unwrapped(start)
    with show_progress(progress) as display:
        descent = Descent(arch, supervision, settings, compute, display, checkpoint, start)
        return SearchResult(tuple(descent.run(())))


def supervise_search(
    task: Task | ImageData, settings: SearchSettings, compute: Compute
) -> Supervision:
    """Return a task on the device of `compute`, with the images that a search uses.

    Raises:
        NsoptError: if the settings choose images, and the task has none.
    """
    if settings.search_images is not None and not isinstance(task, ImageData):
        raise NsoptError("search_images chooses images with labels: a loader chooses its own")
    return supervise(task, settings, compute, settings.search_images)


def is_complete(history: Sequence[Iteration], settings: SearchSettings) -> bool:
    """Return whether a search has run all its iterations, or has converged."""
    if len(history) >= settings.iterations:
        return True
    if settings.convergence is None or not history:
        return False
    return history[-1].change <= settings.convergence


def derive_seed(seed: int, number: int) -> int:
    """Return the seed of iteration `number`, from 0. It differs between searches and iterations."""
    if number == 0:
        return seed
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


@dataclass(frozen=True, eq=False)
class Descent:
    """A search that keeps finished iterations and the current state in a checkpoint.

    A resumed search equals an uninterrupted one.

    Attributes:
        supervision: what to train on, on the device of `compute`.
        checkpoint: a file from which an interrupted search resumes.
        start: a trained network of the base widths, see `search`.
        pretrained: a file with the state at the end of the first iteration's pre-training, which
            does not depend on the price. It is read if it exists, else written.
    """

    arch: Architecture
    supervision: Supervision
    settings: SearchSettings
    compute: Compute
    progress: Progress
    checkpoint: Path | None = None
    start: nn.Module | None = None
    pretrained: Path | None = None

    def run(self, done: Sequence[Iteration]) -> Iterator[Iteration]:
        """Run the iterations after those that are `done`; yield each one when it ends.

        The checkpoint keeps an iteration until the caller asks for the next one.

        Raises:
            NsoptError: as `search` does.
        """
        if is_complete(done, self.settings):
            Checkpoint(self.checkpoint, {}).remove()
            return
        state = self._checkpoint.load(self.compute.device) or {"history": [], "current": None}
        saved = [Iteration.from_dict(iteration) for iteration in state["history"]]
        history = list(done)
        for iteration in saved[len(history) :]:
            if is_complete(history, self.settings):
                break
            history.append(iteration)
            yield iteration
        current = state["current"] if len(history) == len(saved) else None
        while not is_complete(history, self.settings):
            history.append(self._run_iteration(history, current))
            current = None
            yield history[-1]
        self._checkpoint.remove()

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.checkpoint, self._identity)

    @cached_property
    def _pretrained(self) -> Checkpoint:
        """The file of the pre-training, which does not depend on the price."""
        search = {k: v for k, v in self._identity.get("search", {}).items() if k != "price"}
        return Checkpoint(self.pretrained, self._identity | {"search": search})

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What the iterations depend on, without their number; empty without a file."""
        if not self.checkpoint and not self.pretrained:
            return {}
        arch, excluded = self.arch, {"iterations", "convergence", "device"}
        return {
            "arch": arch.name,
            "widths": list(arch.base_widths),
            "classes": arch.num_classes,
            "code": identify_code(arch),
            "data": self.supervision.fingerprint(),
            "search": self.settings.model_dump(mode="json", exclude=excluded),
            **({} if self.start is None else {"start": weights_checksum(self.start)}),
        }

    def _run_iteration(self, history: Sequence[Iteration], current: State | None) -> Iteration:
        """Run the next iteration, from its beginning or from its state in a checkpoint.

        An error that would occur again removes the state of this iteration from the checkpoint. Any
        other error leaves the checkpoint as it is.
        """
        if current is None and history:
            self._checkpoint.save(_pack_state(history))
        elif current is None:  # another search may have pre-trained the network
            current = self._pretrained.load(self.compute.device)
        try:
            return self._prune_and_fit(history, current)
        except DeterministicError:
            if history:
                self._checkpoint.save(_pack_state(history))
            else:
                self._checkpoint.remove()
            raise

    def _tell_step(self, settings: SearchSettings) -> None:
        """Say if a step removes fewer filters than the user asked for."""
        asked, count = self.settings.filters_per_step, settings.filters_per_step
        if count != asked:
            self.progress.message(
                f"{asked} filters in a step are too many for a law of this network: {count} instead"
            )

    def _prune_and_fit(self, history: Sequence[Iteration], current: State | None) -> Iteration:
        started = time.perf_counter() - (current["seconds"] if current else 0.0)
        number = len(history)

        def pack(pruning: Callable[[], State]) -> State:
            return {"pruning": pruning(), "seconds": time.perf_counter() - started}

        def save(pruning: Callable[[], State], pretrained: bool) -> None:
            if pretrained and not history:
                self._pretrained.save(pack(pruning))
            self._checkpoint.save_when_due(lambda: _pack_state(history, pack(pruning)))

        settings = self.settings.updated(seed=derive_seed(self.settings.seed, number))
        widths = _choose_widths(self.arch, history, settings)
        settings = with_enough_steps(self.arch, widths, settings)
        check_steps(self.arch, widths, settings)
        check_range(self.arch, widths, settings)
        if not history and current is None:
            self._tell_step(settings)
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
        metric = get_size_metric(settings.price)
        cost = metric.cost(self.arch)
        fit = solve_widths(law, cost, cost(self.arch.base_widths), warn=False)
        seconds = time.perf_counter() - started
        return Iteration(trajectory, law, tuple(fit.widths.tolist()), seconds, metric.name)


def _pack_state(history: Sequence[Iteration], current: State | None = None) -> State:
    """Return the content of the checkpoint: the finished iterations, and the current one."""
    return {"history": [iteration.to_dict() for iteration in history], "current": current}


def _choose_widths(
    arch: Architecture, history: Sequence[Iteration], settings: SearchSettings
) -> tuple[int, ...]:
    """Return the base widths, or else the last proposal, its small widths raised if possible."""
    if not history:
        return arch.base_widths
    small, proposed = settings.small_width, np.array(history[-1].widths)
    cost = get_size_metric(settings.price).cost(arch)
    _, widest = width_limits(cost, len(proposed))
    raised = np.minimum(np.where(proposed < small, proposed + small, proposed), widest)
    return tuple(raised.astype(int).tolist())
