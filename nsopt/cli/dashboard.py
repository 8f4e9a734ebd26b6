"""`nsopt dashboard`: a storage in the browser."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from nsopt.cli.options import OptionalStorageUrl

# Imports inside functions keep `nsopt --help` light.


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """The options of `nsopt dashboard`."""

    storage: OptionalStorageUrl = None
    """Optuna storage URL; by default the newest study in runs/."""
    host: str = "127.0.0.1"
    """Address to serve on; beyond 127.0.0.1 anyone may read and delete."""
    port: int = 8080
    """Port to serve on."""
    artifacts: Path | None = None
    """Folder of kept weights; by default beside an SQLite file."""


def dashboard(options: DashboardOptions = DashboardOptions()) -> None:
    """Browse a storage with optuna-dashboard, with the notes and figures of its studies."""
    from nsopt.cli.extras import need_extra

    need_extra("dashboard")
    from nsopt.reports.dashboard import serve
    from nsopt.storage.opening import newest_storage, storage_errors

    url = options.storage or newest_storage(Path("runs"))
    with storage_errors(url):
        serve(url, options.host, options.port, options.artifacts)
