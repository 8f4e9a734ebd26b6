"""`nsopt tune`: studies over P and eta."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from nsopt.cli.options import (
    Count,
    PlaceOptions,
    PruneOptions,
    SgdOptions,
    SizeOptions,
    TaskOptions,
    TrainingOptions,
    changes,
)

if TYPE_CHECKING:
    from optuna.study import Study

    from nsopt.experiments.tuning_request import Tuning

# Imports inside functions keep `nsopt --help` light.


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The options of `nsopt tune`."""

    over: Literal["pretrain-epochs", "eta", "both"] = "pretrain-epochs"
    """What is tuned."""
    objective: Literal["pareto", "accuracy"] = "pareto"
    """Accuracy and search seconds, or accuracy alone."""
    pruner: Literal["hyperband", "asha"] = "hyperband"
    """Ends bad trainings, where accuracy alone counts."""
    trials: Count = 30
    """Trials of eta and both."""
    pretrain_epochs: str | None = None
    """Values of P to try; by default 0,2,5,10,30,60."""
    seeds: Count | None = None
    """Trials per value of P."""
    task: TaskOptions = TaskOptions()
    sizes: SizeOptions = SizeOptions()
    search: PruneOptions = PruneOptions()
    training: TrainingOptions = TrainingOptions()
    sgd: SgdOptions = SgdOptions()
    place: PlaceOptions = PlaceOptions()


def tune(options: TuneOptions = TuneOptions()) -> None:
    """Tune P, the epochs before pruning, and eta, the step size of Algorithm 3."""
    from nsopt.cli.console import console, live_progress
    from nsopt.cli.preparation import announce, prepare, preset_of, settings_of, sizes_of
    from nsopt.errors import NsoptError
    from nsopt.experiments.tuning import run_tuning
    from nsopt.experiments.tuning_request import PRETRAIN_EPOCHS, Tuning
    from nsopt.reports.tuning import publish_tuning
    from nsopt.scaling.metric import get_metric
    from nsopt.storage.opening import shown, storage_errors

    preset, metric = preset_of(options.task), get_metric(options.sizes.metric)
    tried = _epochs(options.pretrain_epochs) if options.pretrain_epochs else PRETRAIN_EPOCHS
    rounding = options.sizes.rounding
    if options.over != "pretrain-epochs" and any(rounding.values()):
        raise NsoptError("Algorithm 3 knows no --multiple-of or --min-width: leave them out")
    own = changes(options.search, options.training, options.sgd, **rounding)
    settings = settings_of(preset, own)
    task, workspace = prepare(options.task, options.place, settings)
    sizes = sizes_of(options.sizes, task.arch, metric, (0.25,))
    if len(sizes) != 1:
        raise NsoptError("tuning needs one size: give one --ratios or one --budgets")
    announce(task, preset)
    tuning = Tuning(
        task=task,
        metric=metric,
        budget=sizes[0].budget,
        over=options.over,
        objective=options.objective,
        pruner=options.pruner,
        trials=options.trials,
        seeds=options.seeds or preset.seeds,
        pretrain_epochs=tried,
    )
    with storage_errors(workspace.url):
        with live_progress() as progress:
            study = run_tuning(tuning, workspace, progress)
        publish_tuning(study, tuning.metric_names)
    _print_trials(study, tuning)
    console.print(f"storage: {shown(workspace.url)}", soft_wrap=True, highlight=False)


def _epochs(text: str) -> tuple[int, ...]:
    from nsopt.errors import NsoptError

    try:
        found = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise NsoptError(f"{text!r} are not numbers of epochs: write 0,2,5") from None
    if min(found) < 0:
        raise NsoptError("--pretrain-epochs must be 0 or more")
    return found


def _print_trials(study: "Study", tuning: "Tuning") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from nsopt.cli.console import console
    from nsopt.experiments.tuning_request import best_trial
    from nsopt.reports.tuning import tuning_rows

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
