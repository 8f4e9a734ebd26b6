"""How closely networks follow the trained one, on inputs that no fit sees.

It chooses among fitted networks, and is the score of a task that has none.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nsopt.errors import NsoptError
from nsopt.inputs import count_examples
from nsopt.pruning.fitting.plan import FEWEST, Inputs
from nsopt.session.subject import Subject
from nsopt.tasks.agreement import Agreement, differ, measure_variances, relative_distance
from nsopt.tasks.supervision import Batches
from nsopt.tasks.task import Distance, Task, TaskSupervision
from nsopt.tracing.originals import copy_model

AGREEMENT = "agreement with the trained network (%)"
MOST = 1024  # examples to fit to, and to compare on
Compare = Callable[[nn.Module], Agreement]


class AgreementScore:
    """Scores networks by how closely their outputs follow those of the trained network (%).

    Calling it returns `100 exp(-d)` for a network, where d is its mean distance: by default the
    squared difference of the outputs, relative to their variance over all inputs.

    Args:
        model: the trained network.
        inputs: what the networks run on; better others than those of the fit.
        distance: that of the task, if it has one.

    Raises:
        NsoptError: if the trained network returns the same numbers for all inputs, or is not at a
            finite distance from itself.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, distance: Distance | None = None) -> None:
        self._inputs, self._distance = inputs, distance
        model = copy_model(model)  # as it runs, it may leave marks
        self._wanted = [self._run(model, batch) for batch in range(len(inputs))]
        if distance is None and not differ(self._wanted):
            raise NsoptError(
                "the trained network returns the same numbers for all inputs, so nothing tells how "
                "closely others follow it: check its weights and the inputs"
            )
        self._variances = measure_variances(self._wanted) if distance is None else []
        if distance is not None and not self.compare(model).distances.isfinite().all():
            raise NsoptError(
                "distance= of the trained network from itself is not finite: it must be 0 for "
                "equal outputs"
            )

    def __call__(self, model: nn.Module) -> float:
        return self.compare(model).percentage

    def compare(self, model: nn.Module) -> Agreement:
        """Return the distance from the trained network for each example."""
        distances = [self._measure(self._run(model, n), w) for n, w in enumerate(self._wanted)]
        if not all(isinstance(value, Tensor) and value.ndim == 1 for value in distances):
            raise NsoptError("the distance must be a tensor of one number for each example")
        found = torch.cat(distances).float().cpu()
        return Agreement(found.where(found.isfinite(), math.inf))

    def _measure(self, outputs: Any, wanted: Any) -> Tensor:
        if self._distance is not None:
            return self._distance(outputs, wanted)
        return relative_distance(outputs, wanted, self._variances)

    def _run(self, model: nn.Module, batch: int) -> Any:
        modes = {module: module.training for module in model.modules()}
        with torch.no_grad():
            outputs = self._inputs.call(model.eval(), batch)()
        for module, training in modes.items():
            module.training = training
        return outputs


def with_score(subject: Subject) -> Subject:
    """Return a subject with a trained network whose task has a score.

    What it is fitted to and trained on is then in memory, without the inputs that are compared.
    """
    task, start, training = subject.data, subject.start, subject.settings.training
    assert start is not None
    if not isinstance(task, Task) or task.score is not None:
        return subject
    batches = TaskSupervision(task, torch.device("cpu")).batches(0, training.seed)
    compared, others = hold_out(read_batches(batches, math.inf if training.epochs else MOST))
    score = AgreementScore(start, Inputs(compared), task.distance)
    kept = cast("Dataset[Any]", others)
    shuffled = DataLoader(kept, batch_size=None, shuffle=True, collate_fn=tuple)
    task = replace(task, score=score, score_name=AGREEMENT, train=shuffled)
    return replace(subject, data=task)


def read_batches(batches: Batches, most: float = MOST) -> list[tuple[Any, Any]]:
    """Return inputs and targets: an epoch, or as many batches as hold `most` examples."""
    read = list[tuple[Any, Any]]()
    for _ in range(batches.per_epoch):
        if _count(read) >= most:
            break
        read.append(batches.next())
    return read


def hold_out(batches: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return those on which outputs are compared, the first fifth up to a number, and the others;
    all of them twice, if either would be too few.
    """
    held = max(1, len(batches) // 5)
    while _count(batches[: held - 1]) >= MOST:
        held -= 1
    while _count(batches[:held]) < FEWEST and held < len(batches):
        held += 1
    compared, fitted = batches[:held], batches[held:]
    if min(_count(compared), _count(fitted)) < FEWEST:
        return batches, batches
    return compared, fitted


def _count(batches: list[Any]) -> int:
    return sum(count_examples(inputs) for inputs, _ in batches)
