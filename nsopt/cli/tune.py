"""`nsopt tune`: Optuna studies over P, eta or the width law."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from nsopt.cli.options import (
    BudgetOptions,
    Count,
    CountFrom2,
    DescentOptions,
    changes,
)

if TYPE_CHECKING:
    from optuna.study import Study

    from nsopt.scaling.metric import Metric
    from nsopt.tuning.settings import Over


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TuneOptions(BudgetOptions):
    """The options of `nsopt tune`."""

    over: Literal["pretrain-epochs", "eta", "curve"] = "pretrain-epochs"
    """What to tune: P, the step size of Algorithm 3, or the width law itself, which --methods tuned
    of `nsopt study` then compares."""
    trials: Count = 30
    """Trials with --over eta or curve."""
    pretrain_epochs: str | None = None
    """Values of P to try, by default 0,2,5,10,30,60. With --over curve: the P of its searches."""
    seeds: Count | None = None
    """Trials per value of P, by default as many as the preset has seeds. With --over curve:
    trainings per trial and budget, 1 by default."""
    confirmations: CountFrom2 = 5
    """New seeds on which the best law must beat uniform scaling."""
    sampler: Literal["gp", "tpe"] = "gp"
    """Optuna sampler of --over curve: Gaussian process or TPE."""
    search: DescentOptions = DescentOptions()


def tune(options: TuneOptions = TuneOptions()) -> None:
    """Tune P (epochs before pruning), eta (step size of Algorithm 3) or the width law itself.

    Example: nsopt tune --over curve --arch resnet18-tied --data cifar10 --metric macs
    """
    from nsopt.cli import preparation

    options.task.check_names()
    metric = preparation.read_metric(options.sizes)
    sizes = preparation.with_known_multiple(options.sizes, options.sgd.device, options.timing)
    options = replace(options, sizes=sizes)
    if options.over == "curve":
        _tune_law(options, metric)
    else:
        _tune_settings(options, options.over, metric)


def _tune_settings(options: TuneOptions, over: "Over", metric: "Metric") -> None:
    from nsopt.cli import preparation
    from nsopt.cli.console import live_progress, print_storage
    from nsopt.errors import NsoptError
    from nsopt.storage.opening import storage_errors
    from nsopt.storage.urls import hide_password
    from nsopt.study.learned_latency import with_latency_if_needed
    from nsopt.study.presets import get_preset
    from nsopt.tuning.settings import PRETRAIN_EPOCHS, Tuning, run_tuning

    preset = get_preset(options.task.preset, options.task.data)
    tried = _parse_epochs(options.pretrain_epochs) if options.pretrain_epochs else PRETRAIN_EPOCHS
    preparation.check_single(options.sizes)
    rounding = options.sizes.rounding
    if over == "eta" and any(rounding.values()):
        raise NsoptError("Algorithm 3 takes no --multiple-of or --min-width: leave them out")
    changed = changes(options.search, options.training, options.sgd, **rounding)
    settings = preparation.apply_changes(preset, changed)
    task, workspace = preparation.prepare(
        options.task, options.place, settings, timing=options.timing
    )
    with storage_errors(workspace.url):
        with live_progress() as progress:
            task = with_latency_if_needed(task, metric, (), workspace, progress)
            timed = over != "eta"
            (size,) = preparation.read_sizes(options.sizes, task.arch, (0.25,), timed)
            preparation.announce(task, preset, options.place.verbose)
            tuning = Tuning(
                task=task,
                metric=metric,
                budget=size.budget,
                over=over,
                trials=options.trials,
                seeds=options.seeds or preset.seeds,
                pretrain_epochs=tried,
            )
            study = run_tuning(tuning, workspace, progress)
        _publish(study)
        _print_trials(study, hide_password(workspace.url))
    print_storage(workspace.url)


def _tune_law(options: TuneOptions, metric: "Metric") -> None:
    from nsopt.cli import preparation
    from nsopt.cli.console import console, live_progress, print_storage
    from nsopt.storage.opening import storage_errors
    from nsopt.storage.urls import hide_password
    from nsopt.study.learned_latency import with_latency_if_needed
    from nsopt.study.presets import get_preset, override
    from nsopt.tuning.law import LawTuning, tune_law

    preset = get_preset(options.task.preset, options.task.data)
    training = replace(options.training, epochs=None)  # of which `short` below has its own
    changed = changes(options.search, training, options.sgd, **options.sizes.rounding)
    settings = preparation.apply_changes(
        preset, changed, _read_pretraining(options.pretrain_epochs)
    )
    epochs = options.training.epochs or max(1, settings.training.epochs // 2)
    task, workspace = preparation.prepare(
        options.task, options.place, settings, timing=options.timing
    )
    short = override(task.settings, {"training": {"epochs": epochs}})
    preparation.announce(replace(task, settings=short), preset, options.place.verbose)
    with storage_errors(workspace.url):
        with live_progress() as progress:
            task = with_latency_if_needed(task, metric, (), workspace, progress)
            tuning = LawTuning(
                task=task,
                metric=metric,
                sizes=preparation.read_sizes(options.sizes, task.arch, (0.125,)),
                trials=options.trials,
                seeds=options.seeds or 1,
                epochs=epochs,
                confirmations=options.confirmations,
                sampler=options.sampler,
            )
            study, confirmation = tune_law(tuning, workspace, progress)
        _publish(study)
        _print_table(study)
    best = ", ".join(f"{name} {value:.2f}" for name, value in confirmation.parameters.items())
    console.print(f"best: {best}; {confirmation}", soft_wrap=True)
    if confirmation.holds:
        console.print(
            f"to use it: nsopt study --methods uniform,tuned --metric {metric.name} "
            f"--storage '{hide_password(workspace.url)}', with the same network, data and preset",
            soft_wrap=True,
        )
    print_storage(workspace.url)


def _publish(study: "Study") -> None:
    """Write notes and figures for optuna-dashboard, if it is installed."""
    from nsopt.cli.extras import has_extra

    if has_extra("dashboard"):
        from nsopt.reports.tuning import publish_tuning

        publish_tuning(study)


def _read_pretraining(text: str | None) -> dict[str, dict[str, int]]:
    """Return the change of settings that one value of P makes. Raises NsoptError for several."""
    from nsopt.errors import NsoptError

    if text is None:
        return {}
    epochs = _parse_epochs(text)
    if len(epochs) > 1:
        raise NsoptError("--over curve takes a single P: give one --pretrain-epochs")
    return {"search": {"pretrain_epochs": epochs[0]}}


def _parse_epochs(text: str) -> tuple[int, ...]:
    from nsopt.errors import NsoptError

    try:
        found = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise NsoptError(f"--pretrain-epochs {text!r}: write numbers such as 0,2,5") from None
    if min(found) < 0:
        raise NsoptError("--pretrain-epochs must be 0 or more")
    return found


def _print_trials(study: "Study", url: str) -> None:
    from nsopt.cli.console import console
    from nsopt.tuning.settings import best_trial

    _print_table(study)
    best = ", ".join(f"{name} {value:.4g}" for name, value in best_trial(study).params.items())
    console.print(f"best: {best}")
    console.print(
        f"to use it: nsopt study --tuned-storage '{url}' --tuned {study.study_name}", soft_wrap=True
    )


def _print_table(study: "Study") -> None:
    from nsopt.cli.console import console, make_table
    from nsopt.reports.tuning_table import tuning_rows

    names, rows = tuning_rows(study)
    table = [dict(zip(names, row, strict=True)) for row in rows]
    console.print(make_table(table, study.study_name))
