"""What is only there when its extra was installed: `pip install 'nsopt[report]'`."""

from importlib import import_module

from nsopt.errors import NsoptError

_MODULES = {
    "report": ("jinja2", "plotly"),
    "dashboard": ("plotly", "optuna_dashboard"),
    "cluster": ("grpc", "google.protobuf"),
}


def has_extra(extra: str) -> bool:
    """Whether all packages of an extra are installed."""
    try:
        for module in _MODULES[extra]:
            import_module(module)
    except ImportError:
        return False
    return True


def need_extra(extra: str) -> None:
    """NsoptError, with the command that mends it, where an extra is not installed."""
    if not has_extra(extra):
        raise NsoptError(f"this needs packages that are not installed: {install_command(extra)}")


def install_command(extra: str) -> str:
    return f"pip install 'nsopt[{extra}]'"
