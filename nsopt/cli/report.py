"""`nsopt report`: write the report of a stored study again."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from nsopt.cli.console import console, tell_what_is_fixed
from nsopt.cli.stored import StoredOptions
from nsopt.cli.values import GivenPath
from nsopt.files import check_writable


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReportOptions(StoredOptions):
    out: GivenPath = None
    """Folder for index.html and the CSV files; by default `report` beside an SQLite file."""


def report(options: ReportOptions = ReportOptions()) -> None:
    """Write the report of a stored study again. Of tunings optuna-dashboard shows plots.

    Example: nsopt report --storage sqlite:///study.db --out report
    """
    from nsopt.reports.page import write_report
    from nsopt.reports.results import read_results
    from nsopt.storage.urls import storage_file

    url = options.find_url()
    file = storage_file(url)
    out = options.out or (file.parent if file else Path()) / "report"
    check_writable(out, "--out")
    results = read_results(url, options.name)
    page = write_report(results, out)
    tell_what_is_fixed(results.task.fixed)
    console.print(str(page), soft_wrap=True)
