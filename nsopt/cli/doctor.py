"""`nsopt doctor`: what nsopt finds on this machine."""

from nsopt.cli.console import EXTRAS, console, has_extra, install_command, name_options
from nsopt.errors import NsoptError
from nsopt.files import cache_folder


def doctor() -> None:
    """Print versions, device and folders, and what is missing; for bug reports."""
    from rich.table import Table

    from nsopt.compute.device import float32_precision, resolve_compute
    from nsopt.storage.engine import provenance
    from nsopt.storage.opening import newest_storage
    from nsopt.torchvision_import import describe_torchvision

    compute = resolve_compute("auto", "auto")
    try:
        newest = newest_storage()
    except NsoptError as error:
        newest = name_options(str(error))
    facts = provenance(compute) | {
        "float32": float32_precision(compute.device),
        "torchvision loads": describe_torchvision(),
        **{
            f"extra {extra}": "installed" if has_extra(extra) else install_command(extra)
            for extra in EXTRAS
        },
        "cache": str(cache_folder()),
        "newest study": newest,
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(name, value)
    console.print(table)
