"""`nsopt dashboard`: show a storage in the browser."""

from dataclasses import dataclass

from cyclopts import Parameter

from nsopt.cli.extras import has_extra, install_command
from nsopt.cli.stored import ArtifactOptions
from nsopt.cli.values import Whole
from nsopt.errors import NsoptError


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
