"""`nsopt proxy`: serve one database to many workers."""

import warnings
from dataclasses import dataclass

from cyclopts import Parameter

from nsopt.cli.console import console
from nsopt.cli.extras import need_extra
from nsopt.cli.options import StorageUrl, Whole
from nsopt.errors import NsoptError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ProxyOptions:
    storage: StorageUrl
    """Optuna storage URL of the database."""
    host: str = "127.0.0.1"
    """Address to serve on. With any other than 127.0.0.1, everybody who reaches it can read and
    change the storage."""
    port: Whole = 13000
    """Port to serve on."""


def proxy(options: ProxyOptions) -> None:
    """Serve a database to many workers; their --storage is then grpc://HOST:PORT."""
    need_extra("cluster")
    import optuna
    from optuna.exceptions import ExperimentalWarning

    from nsopt.storage.opening import open_storage
    from nsopt.storage.urls import GRPC, JOURNAL, check_address, hide_password, read_url

    url, host, port = options.storage, options.host, options.port
    if read_url(url).drivername in (GRPC, JOURNAL):  # optuna 6084
        raise NsoptError(f"{hide_password(url)} is no database: give --storage the database itself")
    check_address(host, port)  # gRPC itself would share the port of another proxy
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    storage = open_storage(url)
    # Optuna's cache knows only trials that it has read, such as those from before a restart.
    optuna.get_all_study_summaries(storage, include_best_trial=False)
    console.print(f"serving {hide_password(url)} at grpc://{host}:{port}")
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        optuna.storages.run_grpc_proxy_server(
            storage, host=f"[{host}]" if ":" in host else host, port=port
        )
