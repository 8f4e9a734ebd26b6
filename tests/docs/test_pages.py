"""What the README and the pages of the site say: examples run, commands, links, messages exist."""

import ast
import dataclasses
import io
import re
import runpy
import shlex
from pathlib import Path
from types import FunctionType

import pandas as pd
import pytest
from rich.console import Console

import nsopt
from nsopt.cli import console
from nsopt.cli import data as data_commands
from nsopt.cli.app import app
from nsopt.cli.study import _print_summary
from nsopt.compression import compress
from nsopt.data.images import ImageData
from nsopt.models.architecture import Architecture, TableArchitecture
from nsopt.models.registry import get_architecture
from nsopt.reports.results import Results
from nsopt.storage.schema import TaskDescription
from nsopt.study.presets import get_preset
from tests.compression.test_compress import SETTINGS
from tests.conftest import first_digits
from tests.forked import Forked
from tests.latency.brief import measure_briefly

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def of_name(page: Path) -> str:
    return page.stem


def test_the_readme_is_short() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1300


@pytest.mark.parametrize("page", PAGES[1:], ids=of_name)
def test_a_page_begins_with_an_example(page: Path) -> None:
    parts = page.read_text().split("\n```", 1)
    assert len(parts) == 2
    assert "\n## " not in parts[0]
    assert parts[1].startswith(("python\nimport", "bash\nnsopt ", "bash\nmake ", "bash\npip "))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=of_name)
def test_the_examples_of_a_page_run_in_their_order(page: Path, tmp_path: Path) -> None:
    done = Forked(run_examples, page, cwd=tmp_path).finish()
    assert done.returncode == 0, done.stderr


def run_examples(page: Path) -> None:
    """Run all Python of a page, as if pasted into one session, on few images.

    VGG11 is a quarter as wide, and a compression searches and trains briefly.
    """
    digits = first_digits(100, 30)
    patch = pytest.MonkeyPatch()
    patch.setattr(nsopt, "load_data", lambda name: digits if name == "digits" else coloured(digits))
    patch.setattr(nsopt, "get_architecture", narrow_architecture)
    brief = dataclasses.replace(get_preset("compress"), settings=SETTINGS)
    patch.setattr(compress, "get_preset", lambda name: brief)
    measure_briefly(patch)
    session: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), session)


def narrow_architecture(name: str, **shape: int) -> Architecture:
    arch = get_architecture(name, **shape)
    if not isinstance(arch, TableArchitecture):
        return arch
    return dataclasses.replace(arch, base_widths=tuple(w // 4 for w in arch.base_widths))


def coloured(data: ImageData) -> ImageData:
    """The same images in three channels."""
    images = [split.images.expand(-1, 3, -1, -1).numpy() for split in (data.train, data.test)]
    labels = [split.labels.numpy() for split in (data.train, data.test)]
    return ImageData.from_arrays((images[0], labels[0]), (images[1], labels[1]))


def commands(page: Path) -> list[str]:
    """The commands of nsopt in the blocks of a page, one a line."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [line.replace("python -m nsopt.study", "nsopt study") for line in text.splitlines()]
    return [line for line in lines if line.startswith("nsopt ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=of_name)
def test_the_commands_of_a_page_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSOPT_STORAGE", "sqlite:///study.db")  # as the page exports it
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        function, _, unused = app.parse_args(words, exit_on_error=False, print_error=False)[:3]
        assert isinstance(function, FunctionType)
        assert not unused, line


def options() -> set[str]:
    """All options of all commands."""
    apps = [app[name] for name in app if not name.startswith("-") and name != "data"]
    apps += [data_commands.app[name] for name in data_commands.app if not name.startswith("-")]
    arguments = [argument for one in apps for argument in one.assemble_argument_collection()]
    return {name for argument in arguments for name in argument.names}


@pytest.mark.parametrize("page", PAGES, ids=of_name)
def test_every_option_in_the_text_exists(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    code = " ".join(re.findall(r"`([^`]+)`", text))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code))
    assert named <= options() | {"--help", "--install-completion"}


@pytest.mark.parametrize("page", PAGES, ids=of_name)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_every_message_of_the_troubleshooting_page_is_one_of_ours() -> None:
    table = (ROOT / "docs" / "troubleshooting.md").read_text().partition("| message |")[2]
    rows = [line.split(" | ")[0] for line in table.split("## Questions")[0].splitlines()[2:]]
    messages = [part for row in rows for part in re.findall(r"`([^`]+)`", row)]
    ours = "\n".join(texts_of(file) for file in (ROOT / "nsopt").rglob("*.py"))
    assert len(messages) > 20
    for message in messages:
        assert message in ours


def texts_of(file: Path) -> str:
    """The strings of a module, their parts joined, one a line."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return "\n".join(str(node.value) for node in nodes if isinstance(node, ast.Constant))


def test_the_readme_prints_the_answer_of_its_study(monkeypatch: pytest.MonkeyPatch) -> None:
    file = ROOT / "studies" / "vgg11-cifar10-params" / "outcomes.csv"
    outcomes = pd.read_csv(file)
    widths = outcomes["widths"].map(lambda key: tuple(int(width) for width in key.split("-")))
    terminal = Console(width=80, record=True, file=io.StringIO())
    monkeypatch.setattr(console, "console", terminal)
    # Its file is older than these columns.
    since = {"binding": None, "cost_latency": None, "latency_spread": 0.0, "latency_waited": 0.0}
    _print_summary(only_outcomes(outcomes.assign(widths=widths, **since)))
    printed = [line.rstrip() for line in terminal.export_text().splitlines()]
    (shown,) = blocks(README, "text")
    assert shown.splitlines() == printed


def only_outcomes(outcomes: pd.DataFrame) -> Results:
    nothing = pd.DataFrame()
    task = TaskDescription("vgg11", "cifar10", 10, 32, 3, (), ())
    settings = {"data": {"test": 10_000}}
    return Results(
        "vgg11-cifar10-params", task, settings, {}, outcomes, nothing, nothing, nothing, {}
    )


def test_the_figure_shows_the_numbers_of_its_study() -> None:
    folder = ROOT / "docs" / "figures"
    drawn = runpy.run_path(str(folder / "parameters.py"))["draw"]()
    assert drawn == (folder / "parameters.svg").read_text()
