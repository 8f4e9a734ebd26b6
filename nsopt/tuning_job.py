"""`nsopt tune`: from the words of a command line to a tuning study and its best settings."""

from dataclasses import replace
from typing import get_args

from optuna.study import Study
from rich.box import SIMPLE_HEAD
from rich.table import Table

from nsopt.console import console, live_progress
from nsopt.errors import NsoptError, unknown_name
from nsopt.job import Job, prepare
from nsopt.reports.tuning import publish_tuning, tuning_rows
from nsopt.tuning.storage import shown, storage_errors
from nsopt.tuning.tune import run_tuning
from nsopt.tuning.tune_request import (
    PRETRAIN_EPOCHS,
    Objective,
    Over,
    Pruner,
    Tuning,
    best_trial,
)


def run_tune(
    job: Job, over: str, objective: str, pruner: str, trials: int, pretrain_epochs: str | None
) -> None:
    """Run what is missing, print all trials and the best. Raises NsoptError for bad options."""
    for kind, name, known in (
        ("--over", over, get_args(Over)),
        ("--objective", objective, get_args(Objective)),
        ("--pruner", pruner, get_args(Pruner)),
    ):
        if name not in known:
            raise unknown_name(kind, name, known)
    tried = _numbers(pretrain_epochs) if pretrain_epochs else PRETRAIN_EPOCHS
    comparison, folder = prepare(job)
    comparison = replace(comparison, checkpoints=folder / "tuning-checkpoints")
    if len(comparison.sizes) != 1:
        raise NsoptError("tuning needs one size: give one --ratios or one --budgets")
    tuning = Tuning(
        comparison=comparison,
        over=over,  # type: ignore[arg-type]
        objective=objective,  # type: ignore[arg-type]
        pruner=pruner,  # type: ignore[arg-type]
        trials=trials,
        pretrain_epochs=tried,
    )
    with storage_errors(comparison.storage):
        with live_progress() as progress:
            study = run_tuning(tuning, progress)
        publish_tuning(study, tuning.metric_names)
    _print_trials(study, tuning)
    console.print(f"storage: {shown(comparison.storage)}", soft_wrap=True, highlight=False)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise NsoptError(f"{text!r} are not numbers of epochs: write 0,2,5") from None
    if min(found) < 0:
        raise NsoptError("--pretrain-epochs must be 0 or more")
    return found


def _print_trials(study: Study, tuning: Tuning) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, title=study.study_name)
    names, rows = tuning_rows(study, tuning.metric_names)
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    best = ", ".join(f"{name} {value:.4g}" for name, value in best_trial(study).params.items())
    console.print(f"best: {best}", highlight=False)
    console.print(
        f"use it: nsopt study --tuned-storage URL --tuned {study.study_name}",
        soft_wrap=True,
        highlight=False,
    )
