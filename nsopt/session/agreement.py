"""The score of a task that has none: how closely outputs follow those of the trained network."""

from dataclasses import replace
from typing import Any

import torch

from nsopt.models.inputs import count_examples
from nsopt.pruning.fitting.inputs import FEWEST, Inputs
from nsopt.pruning.fitting.smaller import AgreementScore
from nsopt.session.subject import Subject
from nsopt.tasks.supervision import Batches
from nsopt.tasks.task import Task, TaskSupervision

AGREEMENT = "agreement with the trained network (%)"
MOST = 1024  # examples to fit to, and to compare on


def with_score(subject: Subject) -> Subject:
    """Return a subject whose task has a score, if it trains nothing and has a trained network."""
    task, start = subject.data, subject.start
    if start is None or subject.settings.training.epochs:
        return subject
    if not isinstance(task, Task) or task.score is not None:
        return subject
    seed = subject.settings.training.seed
    batches = TaskSupervision(task, torch.device("cpu")).batches(0, seed)
    compared, fitted = hold_out(read_batches(batches))
    score = HeldOutScore(start, Inputs(compared))
    score.fitted = fitted
    return replace(subject, data=replace(task, score=score, score_name=AGREEMENT))


class HeldOutScore(AgreementScore):
    """A score on inputs to which layers are not fitted; `fitted` has the others."""

    fitted: list[Any]


def read_batches(batches: Batches) -> list[Any]:
    """Return batches without their targets: at most an epoch, and enough for a fit."""
    inputs = list[Any]()
    for _ in range(batches.per_epoch):
        if _count(inputs) >= MOST:
            break
        inputs.append((batches.next()[0], None))  # a tuple of arguments is no such pair
    return inputs


def hold_out(batches: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return those on which outputs are compared, the first fifth, and those to which layers are
    fitted; all of them twice, if either would be too few.
    """
    held = max(1, len(batches) // 5)
    while _count(batches[:held]) < FEWEST and held < len(batches):
        held += 1
    compared, fitted = batches[:held], batches[held:]
    if min(_count(compared), _count(fitted)) < FEWEST:
        return batches, batches
    return compared, fitted


def _count(batches: list[Any]) -> int:
    return sum(count_examples(inputs) for inputs, _ in batches)
