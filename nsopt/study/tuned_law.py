"""The laws that tuning and scoring studies of the same task ended with."""

from nsopt.errors import NoWidthsError
from nsopt.scaling.law import PowerLaw
from nsopt.storage import schema
from nsopt.study.workspace import Workspace


def tuned_law(workspace: Workspace, name: str, metric: str) -> PowerLaw:
    """What `nsopt tune --over curve` found for a metric; NoWidthsError if it has not ended.

    name: ARCH-DATA-PRESET.
    """
    return _ended(workspace, name, metric)[0]


def tuned_verdict(workspace: Workspace, name: str, metric: str) -> str:
    """What that tuning said of its law; NoWidthsError if it has not ended."""
    return _ended(workspace, name, metric)[1]


def scored_law(workspace: Workspace, name: str, metric: str, budget: float) -> PowerLaw:
    """Return the law of the best score at a budget. Raises NoWidthsError if nothing was scored.

    Args:
        name: ARCH-DATA-PRESET.
    """
    kind = schema.scores_kind(metric, budget)
    study = workspace.studies(schema.tuning_name(name)).get(kind)
    law = schema.read_law(study) if study else None
    if law is None:
        raise NoWidthsError(
            f"no widths of {name} were scored at this budget of {metric}: nsopt compress does that"
        )
    return law


def _ended(workspace: Workspace, name: str, metric: str) -> tuple[PowerLaw, str]:
    study = workspace.studies(schema.tuning_name(name)).get(schema.curve_kind(metric))
    law = schema.read_law(study) if study else None
    if study and law:
        return law, schema.read_verdict(study) or ""
    raise NoWidthsError(
        f"no law of {name} is tuned for {metric} in this storage: run nsopt tune "
        f"--over curve --metric {metric} with the same options first"
    )
