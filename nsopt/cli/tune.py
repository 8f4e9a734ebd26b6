"""`nsopt tune`: Optuna studies over P or eta."""

import shlex
from dataclasses import dataclass
from typing import Literal

from cyclopts import Parameter

from nsopt.cli.console import console, live_progress
from nsopt.cli.options import BudgetOptions, DescentOptions, RepeatOptions, changes, refuse_unused
from nsopt.cli.values import Repeats
from nsopt.errors import NsoptError

_TRIALS = 30
_RATIOS = (0.25,)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TuneOptions(BudgetOptions, RepeatOptions):
    over: Literal["pretrain-epochs", "eta"] = "pretrain-epochs"
    """What to tune: P, or the step size of Algorithm 3."""
    trials: Repeats | None = None
    """Trials with --over eta, by default 30."""
    pretrain_epochs: str | None = None
    """Values of P to try with --over pretrain-epochs, by default 0,2,5,10,30,60."""
    search: DescentOptions = DescentOptions()


def tune(options: TuneOptions = TuneOptions()) -> None:
    """Tune P (epochs before pruning) or eta (step size of Algorithm 3).

    Example: nsopt tune --arch resnet18-tied --data cifar10 --metric macs
    """
    options.task.check_names(options.sgd, options.search)
    is_eta = options.over == "eta"
    unused = ["pretrain_epochs", "seeds", *vars(options.training)] if is_eta else ["trials"]
    refuse_unused(f"with --over {options.over}", unused, options, options.training)
    from nsopt.cli import preparation
    from nsopt.session.presets import override
    from nsopt.session.subject import Subject, complete
    from nsopt.storage.opening import hide_password
    from nsopt.study.plan import find_sizes, read_requests
    from nsopt.study.tuning import PRETRAIN_EPOCHS, Tuning, describe_best, run_tuning

    ratios, budgets = preparation.read_sizes(options.sizes)
    requested = read_requests(options.sizes.metric, ratios or _RATIOS, budgets)
    if len(requested) > 1:
        raise NsoptError("tune takes a single budget: give one --ratios or one --budgets")
    if requested[0].is_joint:
        raise NsoptError("tune takes a budget in one metric: write --budgets 20M --metric macs")
    preset = options.task.read_preset()
    text = options.pretrain_epochs
    tried = PRETRAIN_EPOCHS if text is None else _parse_epochs(text)
    rounding = options.sizes.rounding
    if is_eta and any(rounding.values()):
        raise NsoptError("Algorithm 3 takes no --multiple-of or --min-width: leave them out")
    given = options.search, options.training, options.sgd
    study_changes = {"seeds": options.seeds} | rounding | options.timing.changes
    changed = changes(*given, study_changes)
    settings = override(preset.settings, changed)
    arch, data, settings, workspace = preparation.prepare(
        options.task, options.output, settings, options.training
    )
    with live_progress() as progress:
        subject = complete(Subject.of(arch, data, settings), workspace, progress)
        subject, (size,) = find_sizes(subject, requested, workspace, progress, timed=not is_eta)
        about = subject.arch, subject.data, subject.settings
        preparation.announce(*about, preset.question, options.output.verbose)
        tuning = Tuning(
            subject=subject,
            metric=size.metric,
            budget=size.budget,
            over=options.over,
            trials=options.trials or _TRIALS,
            seeds=subject.settings.seeds,
            pretrain_epochs=tried,
        )
        study = run_tuning(tuning, workspace, progress)
    console.print(f"best: {describe_best(study)}", soft_wrap=True)
    named = shlex.join([f"--storage={hide_password(workspace.url)}", f"--tuned={study.study_name}"])
    console.print(f"to use it: nsopt study with the same options and {named}", soft_wrap=True)


def _parse_epochs(text: str) -> tuple[int, ...]:
    try:
        epochs = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise NsoptError(f"--pretrain-epochs {text!r}: write numbers such as 0,2,5") from None
    if min(epochs) < 0:
        raise NsoptError("--pretrain-epochs must be 0 or more")
    return epochs
