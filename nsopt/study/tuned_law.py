"""Read the laws that tuning and scoring studies of the same task stored."""

from typing import NamedTuple

from nsopt.errors import NoWidthsError
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import Metric
from nsopt.storage import schema
from nsopt.study.workspace import Workspace


class TunedLaw(NamedTuple):
    """A tuned law, and the result of its tuning in words."""

    law: PowerLaw
    verdict: str


def read_tuned_law(workspace: Workspace, name: str, metric: Metric) -> TunedLaw:
    """Return the law that `nsopt tune --over curve` found for a metric.

    Args:
        name: ARCH-DATA-PRESET.

    Raises:
        NoWidthsError: if that tuning has not ended.
    """
    study = workspace.studies(schema.tuning_name(name)).get(schema.curve_kind(metric.name))
    law = schema.read_law(study) if study else None
    if study and law:
        return TunedLaw(law, schema.read_verdict(study) or "")
    if len(metric.parts) > 1:
        raise NoWidthsError("laws are tuned for budgets in one metric: leave the method tuned out")
    raise NoWidthsError(
        f"no law of {name} is tuned for {metric.name} in this storage: run nsopt tune "
        f"--over curve --metric {metric.name} with the same options first"
    )


def read_scored_law(workspace: Workspace, name: str, metric: Metric, budget: float) -> PowerLaw:
    """Return the law with the best score at a budget.

    Args:
        name: ARCH-DATA-PRESET.

    Raises:
        NoWidthsError: if nothing was scored.
    """
    kind = schema.scores_kind(metric.name, budget)
    study = workspace.studies(schema.tuning_name(name)).get(kind)
    law = schema.read_law(study) if study else None
    if law is None:
        raise NoWidthsError(
            f"no widths of {name} were scored at this budget of {metric.name}: "
            "run nsopt compress first"
        )
    return law
