"""`nsopt report`: the report of a stored comparison, written anew."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

# Imports inside functions keep `nsopt --help` light.


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The options of `nsopt report`."""

    storage: str
    """Optuna storage URL, such as sqlite:///study.db."""
    out: Path
    """Folder for index.html and the CSV files."""
    name: str | None = None
    """ARCH-DATA-PRESET, where several are stored."""


def report(options: ReportOptions) -> None:
    """Write the report of a stored comparison anew."""
    from nsopt.cli.console import console, tell_what_is_fixed
    from nsopt.reports.page import write_report
    from nsopt.reports.results import read_results
    from nsopt.storage.opening import storage_errors

    with storage_errors(options.storage):
        results = read_results(options.storage, options.name)
        page = write_report(results, options.out)
    tell_what_is_fixed(results.task.fixed)
    console.print(str(page), soft_wrap=True, highlight=False)
