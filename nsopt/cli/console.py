"""How the command line prints: progress, text, and errors as one line."""

import errno
import os
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from nsopt.errors import DISK_IS_FULL, NsoptError
from nsopt.files import cache_folder
from nsopt.progress import LineProgress, LiveProgress, PlainConsole, printable, show_bars

if TYPE_CHECKING:
    from nsopt.reports.results import Results

_USER_ERROR = 2
_READER_LEFT = 1  # as Rich exits then
_OF_A_PATH = {  # errors that another path avoids
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM),
    errno.EROFS,
}
_UNLIMITED = 10_000

console = PlainConsole()
EXTRAS = {  # of nsopt, as `pip install 'nsopt[export]'` names them, and their modules
    "dashboard": ("optuna_dashboard",),
    "cluster": ("psycopg",),
    "export": ("onnx", "onnxscript"),
}
# Arguments that messages of the library name, as words of their own; not in what a user wrote.
_NAMED = (
    "arch|artifacts|batch_size|classes|data|device|epochs|filters_per_step|format|host|image_size|"
    "iterations|lr|mean|measure|metric|name|out|per_class|port|pretrain_epochs|skip_corrupt|split|"
    "start|std|storage|task"
)
_SETTING = re.compile(r"^([a-z_]+) = ")  # begins the error of a value out of range
_ARGUMENT = re.compile(rf"(?<![^\s(])({_NAMED})=('?[\w.]*'?)")


def make_table(
    rows: Sequence[Mapping[str, str | Text]], title: str | None = None, left: Collection[str] = ()
) -> Table:
    """Return a table of `rows`, whose keys name the columns.

    Args:
        left: the columns that are aligned to the left, and whose cells may break.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, collapse_padding=True, title=title)
    for name in rows[0] if rows else ():
        is_left = name in left
        justify: Literal["left", "right"] = "left" if is_left else "right"
        table.add_column(name, justify=justify, no_wrap=not is_left, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    return table


def fits(table: Table) -> bool:
    """Return whether the terminal shows a table without wrapping or cutting cells."""
    unlimited = console.options.update(width=_UNLIMITED)
    return console.measure(table, options=unlimited).maximum <= console.width


def make_fitting_table(
    rows: Sequence[Mapping[str, str]], title: str, left: Sequence[str], left_out: Sequence[str]
) -> Table:
    """Return a table without those of the columns `left_out`, in this order, that do not fit."""
    table = make_table(rows, title, left)
    for name in left_out:
        if fits(table):
            break
        rows = [{key: text for key, text in row.items() if key != name} for row in rows]
        table = make_table(rows, title, left)
    return table


def tell_what_is_fixed(summary: str) -> None:
    """Print an architecture's summary, if it has one: which layers keep their widths."""
    if summary:
        console.print(summary)


def describe_storage(url: str) -> str:
    """Return where results are stored, without the password."""
    from nsopt.storage.opening import hide_password

    return f"storage: {hide_password(url)}"


def name_options(text: str) -> str:
    """Return a message of the library with options in place of arguments: `out=` is `--out`.

    `try batch_size=32` becomes `try --batch-size 32`, and `lr = -1: ...` becomes `--lr -1: ...`.
    """

    def name(match: re.Match[str]) -> str:
        value = match[2].strip("'")
        return f"--{match[1].replace('_', '-')}{' ' if value else ''}{value}"

    return _ARGUMENT.sub(name, _SETTING.sub(lambda match: f"--{match[1].replace('_', '-')} ", text))


@contextmanager
def live_progress(for_another: bool = False) -> Iterator[LiveProgress | LineProgress]:
    """Show progress until the block ends; messages stay on the screen.

    Args:
        for_another: whether another process started this one and prints its messages.
    """
    if for_another or not console.is_terminal:
        lines = LineProgress(
            lambda text: console.print(name_options(text), soft_wrap=True), steps=not for_another
        )
        with lines.repeating():
            yield lines
        return
    with show_bars(console, name_options) as bars:
        yield bars


@contextmanager
def user_errors() -> Iterator[None]:
    """Print an error that the user can fix as one line on stderr, and exit with code 2."""
    usual, warnings.formatwarning = warnings.formatwarning, _format_warning
    try:
        yield
    except NsoptError as error:
        _stop(f"error: {name_options(str(error))}")
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the flush at exit
        raise SystemExit(_READER_LEFT) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _stop(f"error: the disk is full: {DISK_IS_FULL}")
        path = error.filename2 or error.filename
        if path is None or error.errno not in _OF_A_PATH:
            raise
        advice = f"rename it, let this user write there, or {_advise_another(str(path))}"
        _stop(f"error: cannot use {path!s:.500} ({error.strerror}): {advice}")
    finally:
        warnings.formatwarning = usual


def _advise_another(path: str) -> str:
    with suppress(NsoptError, OSError):
        if cache_folder().is_relative_to(path) or Path(path).is_relative_to(cache_folder()):
            return "name another folder in XDG_CACHE_HOME"
    return "give another folder"


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: object = None
) -> str:
    """Show a warning as one line, without its line of code."""
    name = "warning" if category is UserWarning else category.__name__
    return printable(f"{name}: {' '.join(name_options(str(message)).split())}") + "\n"


def _stop(message: str) -> NoReturn:
    print(printable(" ".join(message.split())), file=sys.stderr)
    raise SystemExit(_USER_ERROR) from None


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
