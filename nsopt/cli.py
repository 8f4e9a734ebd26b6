"""The `nsopt` command."""

from pathlib import Path
from typing import Annotated

import typer

from nsopt.console import console, user_errors
from nsopt.study import study

app = typer.Typer(
    help="Widths for any parameter or MAC budget, from a power law found by pruning.",
    no_args_is_help=True,
    add_completion=False,
)
app.command()(study)


@app.command()
def report(
    storage: Annotated[str, typer.Option(help="Optuna storage URL, such as sqlite:///study.db.")],
    out: Annotated[Path, typer.Option(help="Folder for index.html and the CSV files.")],
    name: Annotated[
        str | None, typer.Option(help="ARCH-DATA-PRESET, where several are stored.")
    ] = None,
) -> None:
    """Write the report of a stored comparison anew."""
    with user_errors():
        from nsopt.reports.page import write_report  # noqa: PLC0415  (keeps --help light)
        from nsopt.tuning.storage import storage_errors  # noqa: PLC0415

        with storage_errors(storage):
            console.print(str(write_report(storage, out, name)), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    app()
