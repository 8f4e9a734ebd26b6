"""`nsopt report`: write the report of a stored study again."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from nsopt.cli.options import StorageUrl

# Imports inside functions keep `nsopt --help` light.


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The options of `nsopt report`."""

    storage: StorageUrl
    """Optuna storage URL, such as sqlite:///study.db."""
    out: Path
    """Folder for index.html and the CSV files."""
    name: str | None = None
    """The study as ARCH-DATA-PRESET, if several are stored; ARCH-DATA-PRESET-tune for its
    tuning."""


def report(options: ReportOptions) -> None:
    """Write the report of a stored study, or of its tuning, from what the storage holds."""
    from nsopt.cli.console import console, tell_what_is_fixed
    from nsopt.cli.extras import need_extra

    need_extra("report")
    from nsopt.files import check_writable
    from nsopt.reports.page import write_report
    from nsopt.reports.results import read_results
    from nsopt.reports.tuning_page import is_about_tuning, write_tuning_report
    from nsopt.storage.opening import storage_errors

    check_writable(options.out, "--out")
    url, name = options.storage, options.name
    with storage_errors(url):
        if is_about_tuning(url, name):
            page = write_tuning_report(url, name, options.out)
        else:
            results = read_results(url, name)
            page = write_report(results, options.out)
            tell_what_is_fixed(results.task.fixed)
    console.print(str(page), soft_wrap=True)
