"""The score of a task that has none: how closely outputs follow those of the trained network."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nsopt.models.inputs import count_examples
from nsopt.pruning.fitting.inputs import Inputs
from nsopt.pruning.fitting.smaller import AgreementScore
from nsopt.session.subject import Subject
from nsopt.tasks.supervision import Batches
from nsopt.tasks.task import Task, TaskSupervision

AGREEMENT = "agreement with the trained network (%)"
_COMPARED = 256  # examples on which outputs are compared


def with_score(subject: Subject) -> Subject:
    """Return a subject whose task has a score, if it trains nothing and has a trained network."""
    task, start = subject.data, subject.start
    if start is None or subject.settings.training.epochs:
        return subject
    if not isinstance(task, Task) or task.score is not None:
        return subject
    batches = TaskSupervision(task, torch.device("cpu")).batches(0, seed=1)
    compare = AgreementScore(start, Inputs(read_batches(batches, _COMPARED)))

    def agreement(network: nn.Module) -> float:
        return compare(network)

    return replace(subject, data=replace(task, score=agreement, score_name=AGREEMENT))


def read_batches(batches: Batches, most: int) -> list[Any]:
    """Return batches without their targets: at most an epoch, and enough for `most` examples."""
    found = list[Any]()
    for _ in range(batches.per_epoch):
        if sum(map(count_examples, found)) >= most:
            break
        found.append((batches.next()[0], None))  # a tuple of arguments is no such pair
    return found
