"""`nsopt report` and `nsopt dashboard`: show what is stored."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from nsopt.cli.console import console, has_extra, install_command, tell_what_is_fixed
from nsopt.cli.values import ArtifactOptions, GivenPath, StoredOptions, Whole
from nsopt.errors import NsoptError
from nsopt.files import check_writable


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReportOptions(StoredOptions):
    out: GivenPath = None
    """Folder for index.html and the CSV files; by default `report` near an SQLite file."""


def report(options: ReportOptions = ReportOptions()) -> None:
    """Write the report of a stored study again. Of tunings optuna-dashboard shows plots.

    Example: nsopt report --storage sqlite:///study.db --out report
    """
    from nsopt.reports.page import write_report
    from nsopt.reports.results import read_results
    from nsopt.storage.opening import storage_file

    url = options.find_url()
    file = storage_file(url)
    out = options.out or (file.parent if file else Path()) / "report"
    check_writable(out, "--out")
    results = read_results(url, options.name)
    page = write_report(results, out)
    tell_what_is_fixed(results.task.fixed)
    console.print(str(page), soft_wrap=True)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DashboardOptions(ArtifactOptions):
    host: str = "127.0.0.1"
    """Address to serve on. With any other than 127.0.0.1, everybody who reaches it can read and
    delete studies."""
    port: Whole = 8080
    """Port to serve on."""


def dashboard(options: DashboardOptions = DashboardOptions()) -> None:
    """Browse a storage with optuna-dashboard, with nsopt's notes and figures for each study."""
    if not has_extra("dashboard"):
        command = install_command("dashboard")
        raise NsoptError(f"this command needs packages that are not installed: {command}")
    from nsopt.reports.dashboard import serve

    serve(options.find_url(), options.host, options.port, options.artifacts)
