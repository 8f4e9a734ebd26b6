"""One precision for a study, on whatever device its networks train."""

from dataclasses import replace

from nsopt.compute.device import resolve_compute
from nsopt.storage import schema
from nsopt.study.task import Task
from nsopt.study.workspace import Workspace


def with_precision(task: Task, workspace: Workspace) -> Task:
    """Return `task` with a precision in place of `auto`.

    That of its stored studies and tunings has priority. A new study gets the best precision of this
    device.
    """
    stored = [
        schema.read_settings(study)
        for name in (task.name, schema.tuning_name(task.name))
        for study in workspace.studies(name).values()
    ]
    settings = task.settings
    for part in ("search", "training"):
        own = getattr(settings, part)
        if own.precision == "auto":
            known = [each[part]["precision"] for each in stored if part in each]
            precision = known[0] if known else resolve_compute(own.device, "auto").precision
            settings = settings.updated(**{part: own.updated(precision=precision)})
    return replace(task, settings=settings)
