"""The score of a task that has none: how closely outputs follow those of the trained network.

It is measured on inputs that no fit and no training sees.
"""

import math
from dataclasses import replace
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from nsopt.models.inputs import count_examples
from nsopt.pruning.fitting.inputs import FEWEST, Inputs
from nsopt.pruning.fitting.smaller import AgreementScore
from nsopt.session.subject import Subject
from nsopt.tasks.supervision import Batches
from nsopt.tasks.task import Task, TaskSupervision

AGREEMENT = "agreement with the trained network (%)"
MOST = 1024  # examples to fit to, and to compare on


def with_score(subject: Subject) -> Subject:
    """Return a subject whose task has a score, if it has a trained network.

    What it trains on is then in memory, without the inputs that the score compares.
    """
    task, start, training = subject.data, subject.start, subject.settings.training
    if start is None or not isinstance(task, Task) or task.score is not None:
        return subject
    batches = TaskSupervision(task, torch.device("cpu")).batches(0, training.seed)
    compared, others = hold_out(read_batches(batches, math.inf if training.epochs else MOST))
    score = HeldOutScore(start, Inputs(compared))
    score.fitted = others
    task = replace(task, score=score, score_name=AGREEMENT)
    if training.epochs:
        batches_left = cast("Dataset[Any]", others)
        shuffled = DataLoader(batches_left, batch_size=None, shuffle=True, collate_fn=tuple)
        task = replace(task, train=shuffled)
    return replace(subject, data=task)


class HeldOutScore(AgreementScore):
    """A score on inputs to which layers are not fitted; `fitted` has the others."""

    fitted: list[Any]


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
