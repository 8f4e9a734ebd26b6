"""The report of tuning studies: trials, a figure and the result."""

from pathlib import Path
from typing import Any

from optuna.study import Study

from nsopt.errors import NsoptError
from nsopt.reports.template import flatten, fragment, render_template
from nsopt.reports.tuning import draw_tuning, question
from nsopt.reports.tuning_table import tuning_rows
from nsopt.storage import schema, trials
from nsopt.storage.opening import existing_storage
from nsopt.storage.studies import comparisons, load_studies, tunings
from nsopt.storage.urls import hide_password


def is_about_tuning(url: str, name: str | None) -> bool:
    """Return whether a report on `name` is about tuning: by the name, or because the storage has
    only searches besides. Raises NsoptError if nothing is stored there."""
    if name is not None:
        return schema.is_tuning(name)
    storage = existing_storage(url)
    kinds = [kind for own in comparisons(storage) for kind in load_studies(storage, own)]
    return bool(tunings(storage)) and all(map(schema.is_search, kinds))


def write_tuning_report(url: str, name: str | None, folder: Path) -> Path:
    """Write `index.html` about the tuning studies of a task; return its path.

    Args:
        name: ARCH-DATA-PRESET-tune; None takes the only one in the storage.

    Raises:
        NsoptError: if it is missing.
    """
    storage = existing_storage(url)
    found = tunings(storage)
    if name is None and len(found) == 1:
        name = found[0]
    if name not in found:
        known = ", ".join(found) or "none"
        raise NsoptError(f"choose a tuning with name=: at {hide_password(url)} are {known}")
    studies = [study for study in load_studies(storage, name).values() if study.trials]
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    described = [_describe(study, index) for index, study in enumerate(studies)]
    page.write_text(render_template("tuning.html", name, studies=described), encoding="utf-8")
    return page


def _describe(study: Study, index: int) -> dict[str, Any]:
    columns, rows = tuning_rows(study)
    return {
        "name": study.study_name,
        "question": question(study),
        "verdict": schema.read_verdict(study),
        "figure": fragment(draw_tuning(study), f"tuning-{index}"),
        "columns": columns,
        "rows": rows,
        "settings": flatten(schema.read_settings(study)),
        "provenance": flatten(trials.read_all_provenance(study)),
    }
