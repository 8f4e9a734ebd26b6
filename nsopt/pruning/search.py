"""Search the width law of a network."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nsopt.arguments import checked
from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.random_state import restore_at_end
from nsopt.data.images import ImageData
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.tracing.originals import unwrapped
from nsopt.notebook import make_html_table
from nsopt.progress import Progress
from nsopt.pruning.iterations import Descent
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.record import Iteration
from nsopt.tasks.outputs import check_outputs, check_training
from nsopt.tasks.supervise import supervise
from nsopt.tasks.supervision import Supervision
from nsopt.tasks.task import Task
from nsopt.terminal import show_progress
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


@torch.inference_mode(False)
@checked
@restore_at_end()
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
        progress: receives steps and messages; by default bars on a terminal and nothing elsewhere;
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
