"""The law that a tuning study of the same task ended with."""

from optuna.study import Study

from nsopt.errors import NoWidthsError
from nsopt.experiments.workspace import Workspace
from nsopt.scaling.law import PowerLaw
from nsopt.storage import schema
from nsopt.storage.studies import load_studies


def tuned_law(workspace: Workspace, name: str, metric: str) -> PowerLaw:
    """What `nsopt tune --over curve` found for a metric; NoWidthsError if it has not ended.

    name: ARCH-DATA-PRESET.
    """
    study = _tuning(workspace, name, metric)
    law = schema.read_law(study) if study else None
    if law is None:
        raise NoWidthsError(
            f"no law of {name} is tuned for {metric} in this storage: run nsopt tune "
            f"--over curve --metric {metric} with the same options first"
        )
    return law


def tuned_verdict(workspace: Workspace, name: str, metric: str) -> str:
    """What the tuning said of its law; empty if it has not ended."""
    study = _tuning(workspace, name, metric)
    return (schema.read_verdict(study) if study else None) or ""


def _tuning(workspace: Workspace, name: str, metric: str) -> Study | None:
    if not workspace.has_storage:
        return None
    studies = load_studies(workspace.storage, schema.tuning_name(name))
    return studies.get(schema.curve_kind(metric))
