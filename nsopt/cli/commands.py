"""The subcommands of `nsopt`; prints user errors as one line."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError

import nsopt
from nsopt.cli import data
from nsopt.cli.compress import compress
from nsopt.cli.console import user_errors
from nsopt.cli.doctor import doctor
from nsopt.cli.export import export
from nsopt.cli.latency import latency
from nsopt.cli.report import dashboard, report
from nsopt.cli.search import search
from nsopt.cli.study import study
from nsopt.cli.tune import tune
from nsopt.cli.widths import widths
from nsopt.cli.worker import worker
from nsopt.errors import NsoptError

app = App(
    name="nsopt",
    help="Widths for any budget of parameters, MACs or milliseconds, from a law found by pruning.",
    version=nsopt.__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)
for command in (study, compress, search, widths, tune, report, latency, export, dashboard, worker):
    app.command(command)
app.command(doctor)
app.command(data.app)
app.register_install_completion_command(add_to_startup=False)


def run(words: Sequence[str]) -> None:
    """Run a command. A user error prints one line on stderr and exits with code 2."""
    with user_errors():
        _find_modules_here()
        try:
            app(words, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            raise NsoptError(_hide_passwords(_describe(error), words)) from None
        except NsoptError as error:
            raise NsoptError(_hide_passwords(str(error), words)) from None


def _find_modules_here() -> None:
    """Let Python import the modules of the working directory, for --arch module:factory."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        raise NsoptError("the working directory is deleted: go to another one") from None
    if "" not in sys.path and here not in sys.path:
        sys.path.append(here)


def _describe(error: CycloptsError) -> str:
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        command = " ".join(["nsopt", *(error.command_chain or ())])
        return f"{error.keyword or error.argument.name} needs a value: see {command} --help"
    if not isinstance(error, UnusedCliTokensError):
        number = r"write a number, such as 0.1, in place of \1"
        return re.sub(r"unable to convert (.*) into float\.", number, str(error))
    unused = " ".join(error.unused_tokens or ())
    return (
        f"{unused!r} belongs to no option: write values without spaces, with commas between them, "
        "as in --budgets 600k,2M"
    )


def _hide_passwords(text: str, arguments: Sequence[str]) -> str:
    """Return `text` with the password of every URL among `arguments` replaced."""
    from nsopt.storage.opening import hide_password

    for argument in arguments:
        url = argument.partition("=")[2] if argument.startswith("-") else argument
        if "://" in url and hide_password(url) != url:
            for written in (url, repr(url)[1:-1], str(Path(url))):
                text = text.replace(written, hide_password(url))
    return text
