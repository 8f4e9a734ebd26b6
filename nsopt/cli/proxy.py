"""`nsopt proxy`: serve one database to many workers."""

from dataclasses import dataclass

from cyclopts import Parameter

from nsopt.cli.options import StorageUrl


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ProxyOptions:
    """The options of `nsopt proxy`."""

    storage: StorageUrl
    """Optuna storage URL of the database."""
    host: str = "127.0.0.1"
    """Address to serve on. With any other than 127.0.0.1, everybody who reaches it can read and
    change the storage."""
    port: int = 13000
    """Port to serve on."""


def proxy(options: ProxyOptions) -> None:
    """Serve a database to many workers; their --storage is then grpc://HOST:PORT."""
    from nsopt.cli.extras import need_extra

    need_extra("cluster")
    import optuna

    from nsopt.cli.console import console
    from nsopt.storage.opening import storage_errors
    from nsopt.storage.serving import serve_proxy
    from nsopt.storage.urls import hide_password

    def announce() -> None:
        address = f"grpc://{options.host}:{options.port}"
        console.print(f"serving {hide_password(options.storage)} at {address}")

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with storage_errors(options.storage):
        serve_proxy(options.storage, options.host, options.port, announce)
