"""What a network is trained and evaluated on: a task, on a device."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from nsopt.compute.device import Compute

Loss = Callable[[Any, Any], Tensor]


class Resumable(Protocol):
    """Continues after an interruption."""

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs to continue with the next step."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`."""


class Batches(Resumable, Protocol):
    """Endless mini-batches, `per_epoch` of them in each epoch."""

    per_epoch: int

    def next(self) -> tuple[Any, Any]:
        """Return inputs and targets, on the device of the network."""


class Evaluation(Resumable, Protocol):
    """Scores a network in small steps, between which its state can be saved."""

    @property
    def complete(self) -> bool:
        """Whether the score is known."""

    @property
    def score(self) -> float:
        """Higher is better."""

    def advance(self, model: nn.Module) -> object:
        """Do one step. It changes `model` to evaluation mode."""

    def start_over(self) -> None:
        """Forget the score."""


class Supervision(Resumable, Protocol):
    """A task on the device of a network: all that training, searching and scoring need."""

    def renew(self) -> "Supervision":
        """Return it as every training begins with it: what a loss remembers is of one training."""
        return self

    def state(self) -> dict[str, Any]:
        """Return what the loss remembers."""
        return {}

    def batches(self, batch_size: int, seed: int) -> Batches:
        """Return mini-batches whose order and augmentation follow from `seed`."""

    def batch_size(self, requested: int) -> int | None:
        """Return the size of the batches for a requested size; None if a loader decides it."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean loss over the examples of a batch. Outputs are float32 or wider."""

    def distil(self, outputs_of_teacher: Any, weight: float) -> Loss:
        """Return the loss of a batch that mixes its targets with the outputs of a teacher.

        Args:
            outputs_of_teacher: for this batch.
            weight: of the teacher, from 0 to 1; the targets have the rest.
        """

    def validation(self, compute: Compute) -> Evaluation:
        """Return the evaluation that selects networks."""

    def test(self, compute: Compute) -> Evaluation | None:
        """Return the evaluation that is only reported, if there is one."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what distinguishes it from others, for the identity of a checkpoint."""


def evaluations_of(supervision: Supervision, compute: Compute) -> dict[str, Evaluation]:
    """Return the evaluations of a task: `validation`, and `test` if there is one."""
    evaluations = {"validation": supervision.validation(compute), "test": supervision.test(compute)}
    return {name: evaluation for name, evaluation in evaluations.items() if evaluation is not None}


def evaluate(evaluation: Evaluation, model: nn.Module) -> float:
    """Return the score of a network on the device of its inputs."""
    while not evaluation.complete:
        evaluation.advance(model)
    return evaluation.score
