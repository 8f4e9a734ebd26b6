"""Packages that an extra installs, as `pip install 'nsopt[export]'` does."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsopt.reports.results import Results

EXTRAS = {  # their modules
    "dashboard": ("optuna_dashboard",),
    "cluster": ("psycopg",),
    "export": ("onnx", "onnxscript"),
}


def has_extra(extra: str) -> bool:
    try:
        for module in EXTRAS[extra]:
            import_module(module)
    except ImportError:
        return False
    return True


def install_command(extra: str) -> str:
    return f"pip install 'nsopt[{extra}]'"


def publish_if_installed(results: "Results", url: str) -> None:
    """Store notes and figures for optuna-dashboard, if it is installed."""
    if has_extra("dashboard"):
        from nsopt.reports.dashboard import publish

        publish(results, url)
