"""Read the laws that tuning and scoring studies of the same task stored."""

from nsopt.errors import NoWidthsError
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import get_metric
from nsopt.storage import schema
from nsopt.study.workspace import Workspace


def read_tuned_law(workspace: Workspace, name: str, metric: str) -> PowerLaw:
    """Return the law that `nsopt tune --over curve` found for a metric.

    Args:
        name: ARCH-DATA-PRESET.

    Raises:
        NoWidthsError: if that tuning has not ended.
    """
    return _read_tuned(workspace, name, metric)[0]


def check_tuned_law(workspace: Workspace, name: str, metric: str) -> None:
    """Raise NoWidthsError if no law is tuned for a metric."""
    _read_tuned(workspace, name, metric)


def read_tuned_verdict(workspace: Workspace, name: str, metric: str) -> str:
    """Return the result of that tuning in words. Raises NoWidthsError if it has not ended."""
    return _read_tuned(workspace, name, metric)[1]


def read_scored_law(workspace: Workspace, name: str, metric: str, budget: float) -> PowerLaw:
    """Return the law with the best score at a budget.

    Args:
        name: ARCH-DATA-PRESET.

    Raises:
        NoWidthsError: if nothing was scored.
    """
    kind = schema.scores_kind(metric, budget)
    study = workspace.studies(schema.tuning_name(name)).get(kind)
    law = schema.read_law(study) if study else None
    if law is None:
        raise NoWidthsError(
            f"no widths of {name} were scored at this budget of {metric}: run nsopt compress first"
        )
    return law


def _read_tuned(workspace: Workspace, name: str, metric: str) -> tuple[PowerLaw, str]:
    study = workspace.studies(schema.tuning_name(name)).get(schema.curve_kind(metric))
    law = schema.read_law(study) if study else None
    if study and law:
        return law, schema.read_verdict(study) or ""
    if len(get_metric(metric).parts) > 1:
        raise NoWidthsError("laws are tuned for budgets in one metric: leave the method tuned out")
    raise NoWidthsError(
        f"no law of {name} is tuned for {metric} in this storage: run nsopt tune "
        f"--over curve --metric {metric} with the same options first"
    )
