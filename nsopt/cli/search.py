"""`nsopt search`: find the law of a network, without training any at a budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from nsopt.cli.console import console, describe_storage, live_progress, make_table
from nsopt.cli.options import SearchOptions, TrainingOptions, WorkOptions, changes

if TYPE_CHECKING:
    from nsopt.scaling.record import Iteration


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LawOptions(WorkOptions):
    """The options of `nsopt search`."""

    search: SearchOptions = SearchOptions()


def search(options: LawOptions = LawOptions()) -> None:
    """Find the width law of a network and store it for `nsopt study` and `nsopt widths`.

    Repeat the command to continue an interrupted search.

    Example: nsopt search --arch mobilenetv2 --data cifar10 --preset fast
    """
    options.task.check_names(options.sgd, options.search)
    from nsopt.cli.preparation import announce, prepare
    from nsopt.session.presets import override
    from nsopt.session.searching import continue_searches
    from nsopt.session.session import start_session
    from nsopt.session.subject import Subject, complete

    preset = options.task.read_preset()
    settings = override(preset.settings, changes(options.search, TrainingOptions(), options.sgd))
    arch, data, settings, workspace = prepare(
        options.task, options.output, settings, TrainingOptions()
    )
    question, verbose = "how widths fall with the size", options.output.verbose
    announce(arch, data, settings, question, verbose, parts=["search"])
    searched = settings.search
    with live_progress() as progress:
        subject = complete(Subject.of(arch, data, settings), workspace, progress)
        session = start_session(subject, workspace, progress, searched.device)
        laws = continue_searches(session, {searched.price: searched.iterations})
    _print_law(arch.layer_names, laws[searched.price][-1])
    console.print(describe_storage(workspace.url), soft_wrap=True)


def _print_law(layer_names: Sequence[str], iteration: "Iteration") -> None:
    from nsopt.scaling.metric import get_metric

    law = iteration.law
    columns = (law.alpha, law.beta, law.r2, iteration.start_widths, iteration.widths)
    rows = [
        {
            "layer": name,
            "alpha": f"{alpha:.4g}",
            "beta": f"{beta:.3f}",
            "r2": f"{r2:.3f}",
            "pruned from": str(start),
            "proposed": str(width),
        }
        for name, alpha, beta, r2, start, width in zip(layer_names, *columns, strict=True)
    ]
    title = f"width = alpha * {get_metric(iteration.metric).noun} ** beta"
    console.print(make_table(rows, title, left=("layer",)))
