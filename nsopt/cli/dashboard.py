"""`nsopt dashboard`: show a storage in the browser."""

from dataclasses import dataclass

from cyclopts import Parameter

from nsopt.cli.extras import need_extra
from nsopt.cli.options import GivenPath, OptionalStorageUrl, Whole


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    storage: OptionalStorageUrl = None
    """Optuna storage URL; by default the newest study.db under runs/."""
    host: str = "127.0.0.1"
    """Address to serve on. With any other than 127.0.0.1, everybody who reaches it can read and
    delete studies."""
    port: Whole = 8080
    """Port to serve on."""
    artifacts: GivenPath = None
    """Folder of the stored networks; by default `artifacts` beside an SQLite file."""


def dashboard(options: DashboardOptions = DashboardOptions()) -> None:
    """Browse a storage with optuna-dashboard, with nsopt's notes and figures for each study."""
    need_extra("dashboard")
    from nsopt.reports.dashboard import serve
    from nsopt.storage.opening import newest_storage

    url = options.storage or newest_storage()
    serve(url, options.host, options.port, options.artifacts)
