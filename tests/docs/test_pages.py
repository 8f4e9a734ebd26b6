"""README and pages of the site: examples run; commands, links and messages exist."""

import ast
import dataclasses
import json
import re
import runpy
import shlex
import warnings
from pathlib import Path
from types import FunctionType
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import nsopt
from nsopt import Architecture, ImageData, get_architecture, get_preset
from nsopt.cli import data as data_commands
from nsopt.cli.commands import app
from nsopt.cli.console import console
from nsopt.cli.study import _print_summary
from nsopt.compression import compress, pipeline
from nsopt.compression.budgets import expand_curve
from nsopt.reports.results import Results
from nsopt.storage.schema import TaskDescription
from tests.compression.test_compress import SETTINGS
from tests.conftest import first_digits
from tests.forked import Forked
from tests.latency.brief import measure_briefly
from tests.rescaled import with_base_widths
from tests.tracing.operators import install_operators

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
GALLERY = ROOT / "docs" / "gallery.md"
NEEDS = {  # more than the other pages
    "yolo": "ultralytics",
    "detectors": "torchvision",
    "huggingface": "transformers",
    "onnx": "onnx2torch",
}
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
ERRORS = "NsoptError", "NoWidthsError", "DeterministicError", "OutOfMemoryError"

# Words of a message that say what to do, or what is expected.
CURE = re.compile(
    r"\b(give|write|run|use|leave|put|copy|remove|delete|choose|check|try|name|pip install|add|"
    r"unpack|trace|fetch|expected|start|restore|prune|known are|stored are|must|needs?|needs at|"
    r"take|see|call|divide|smallest|cannot exceed|cannot be below|train(?!/| images)|keep|go|set|"
    r"update|correct|pass|build it|make it|export it)\b"
    r"| = …: …|no slash|not an nsopt Method|test=\.\.\."  # or say what is allowed
)


def hooks() -> dict[str, Any]:
    """Return what docs/hooks.py defines."""
    return runpy.run_path(str(ROOT / "docs" / "hooks.py"))


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def of_name(page: Path) -> str:
    return page.stem


def test_messages_of_a_notebook_are_one_block_of_the_site() -> None:
    printed = [{"output_type": "stream", "text": text} for text in ("first\n", "second\n")]
    cells = [{"cell_type": "code", "source": "run()", "outputs": printed}]
    shown = hooks()["convert_notebook"](json.dumps({"cells": cells}))
    assert shown == "```python\nrun()\n```\n\n```text\nfirst\nsecond\n```"


def test_the_readme_is_short() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 700


@pytest.mark.parametrize("page", PAGES[1:], ids=of_name)
def test_a_page_begins_with_an_example(page: Path) -> None:
    parts = page.read_text().split("\n```", 1)
    assert len(parts) == 2
    assert "\n## " not in parts[0]
    assert parts[1].startswith(("python\nimport", "bash\nnsopt ", "bash\nmake ", "bash\npip "))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.networks) if page.stem in NEEDS else page
        for page in PAGES
        if blocks(page, "python") and page != GALLERY  # which is tested below
    ],
    ids=of_name,
)
def test_the_examples_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    if page.stem in NEEDS:
        install_operators()
        pytest.importorskip(NEEDS[page.stem])
    done = Forked(run_examples, page, cwd=tmp_path).finish()
    assert done.returncode == 0, done.stderr
    printed = [set(line.split()) for line in done.stdout.splitlines()]
    for table in blocks(page, "text"):
        if table.startswith("budget "):  # of a compression, which prints the same columns
            assert any(set(table.splitlines()[0].split()) <= line for line in printed)


def run_examples(page: Path) -> None:
    """Run all Python of a page, as if pasted into one session, on few images.

    VGG11 is an eighth as wide, and a compression searches and trains briefly.
    """
    if page.stem in NEEDS:
        install_operators()
    if page.stem == "onnx":
        write_onnx_file()
    digits = first_digits(100, 20)
    patch = pytest.MonkeyPatch()
    patch.setattr(nsopt, "load_data", lambda name: digits if name == "digits" else coloured(digits))
    patch.setattr(nsopt, "get_architecture", narrow_architecture)
    compress_briefly(patch)
    measure_briefly(patch)
    session: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), session)


def write_onnx_file() -> None:
    """Write `whole.onnx` as PyTorch's older exporter does, with products of three dimensions."""
    layers = nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Flatten()
    model, x = nn.Sequential(*layers, nn.Linear(5 * 24, 4)).eval(), torch.rand(2, 5, 12)
    named: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(model, (x,), "whole.onnx", dynamo=False, opset_version=13, **named)


def compress_briefly(patch: pytest.MonkeyPatch) -> None:
    """Let the preset `compress` train few steps; a curve has its first two budgets."""
    presets = {"compress": dataclasses.replace(get_preset("compress"), settings=SETTINGS)}
    for module in (compress, nsopt):
        patch.setattr(module, "get_preset", lambda name: presets.get(name) or get_preset(name))
    patch.setattr(pipeline, "expand_curve", lambda *asked: expand_curve(*asked)[:2])


def narrow_architecture(name: str, **shape: int) -> Architecture:
    arch = get_architecture(name, **shape)
    is_own = name in nsopt.architectures()
    return with_base_widths(arch, [w // 8 for w in arch.base_widths]) if is_own else arch


def coloured(data: ImageData) -> ImageData:
    """The same images in three channels."""
    images = [split.images.expand(-1, 3, -1, -1).numpy() for split in (data.train, data.test)]
    labels = [split.labels.numpy() for split in (data.train, data.test)]
    return ImageData.from_arrays((images[0], labels[0]), (images[1], labels[1]))


def commands(page: Path) -> list[str]:
    """Return the commands of nsopt in the blocks of a page."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [line.replace("python -m nsopt.study", "nsopt study") for line in text.splitlines()]
    return [line for line in lines if line.startswith("nsopt ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=of_name)
def test_the_commands_of_a_page_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSOPT_STORAGE", "sqlite:///study.db")  # as the page exports it
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        function, _, unused = app.parse_args(words, exit_on_error=False, print_error=False)[:3]
        assert isinstance(function, FunctionType)
        assert not unused, line


def options() -> set[str]:
    """Return all options of all commands."""
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
def test_links_point_to_existing_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            file, _, heading = link.partition("#")
            target = page.parent / file
            assert target.exists(), link
            headings = re.findall("^#+ (.*)$", target.read_text() if heading else "", re.M)
            assert not heading or heading in [h.lower().replace(" ", "-") for h in headings], link


def explained() -> list[str]:
    """Return the parts of messages that the troubleshooting page explains."""
    table = (ROOT / "docs" / "troubleshooting.md").read_text().partition("| message |")[2]
    rows = [line.split(" | ")[0] for line in table.split("## Questions")[0].splitlines()[2:]]
    return [part for row in rows for part in re.findall(r"`([^`]+)`", row)]


def read_messages() -> list[str]:
    """Return the messages of all errors that the package raises for its users."""
    trees = [ast.parse(file.read_text()) for file in (ROOT / "nsopt").rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    raised = [call for call in calls if ast.unparse(call.func) in ERRORS and call.args]
    messages = [read_text(call.args[0]) for call in raised]
    return [message for message in messages if message.strip("…: ")]


def read_text(node: ast.expr) -> str:
    """Return the text of an expression, with an ellipsis for what is not constant."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(read_text, node.values))
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def test_a_message_says_what_to_do_or_the_troubleshooting_page_does() -> None:
    parts, messages = explained(), read_messages()
    assert len(messages) > 150
    for message in messages:
        assert CURE.search(message) or any(part in message for part in parts), message
    for part in parts:
        unclear = [message for message in messages if part in message and not CURE.search(message)]
        assert unclear, f"the message says what to do: {part}"


def test_the_readme_shows_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "vgg11-cifar10-params"
    # A stored study may also have networks that nsopt no longer trains.
    stored = pd.read_csv(ROOT / "studies" / name / "outcomes.csv")
    outcomes = stored.query("method != 'tuned' and ratio.notna()")
    widths = outcomes["widths"].map(lambda key: tuple(int(width) for width in key.split("-")))
    monkeypatch.setattr(console, "width", 80)
    # The stored files are older than these columns.
    since = {"binding": None, "cost_latency": None, "latency_spread": 0.0}
    task = TaskDescription("vgg11", "cifar10", (), (), 10, 32, 3)
    settings, none = {"data": {"test": 10_000}}, pd.DataFrame()
    outcomes = outcomes.assign(widths=widths, **since)
    with console.capture() as printed:
        _print_summary(Results(name, task, settings, {}, outcomes, none, none, none, {}))
    lines = [line.rstrip() for line in printed.get().splitlines()]
    assert blocks(README, "text")[1].splitlines() == lines


@pytest.mark.parametrize("name", ["compression", "parameters"])
def test_a_figure_is_up_to_date_with_its_study(name: str) -> None:
    folder = ROOT / "docs" / "figures"
    drawn = runpy.run_path(str(folder / f"{name}.py"))["draw"]()
    assert drawn == (folder / f"{name}.svg").read_text()


def test_every_figure_of_the_gallery_is_drawn_by_its_code() -> None:
    text = GALLERY.read_text()
    names = re.findall(r"<!-- figure: (\w+) -->", text)
    assert len(names) == 3
    page = hooks()["add_figures"](text)
    assert "<!-- figure" not in page
    for name in names:
        assert f'id="figure-{name}"' in page


def test_the_reference_has_every_public_name() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    listed = {line for page in pages for line in re.findall(r"^::: (\S+)", page.read_text(), re.M)}
    for name in nsopt.__all__:
        found = getattr(nsopt, name)
        assert f"{found.__module__}.{found.__qualname__}" in listed


def test_docstrings_use_a_section_that_the_site_shows_as_code() -> None:
    """The site shows a section `Example:` as a quotation, and `Examples:` as code."""
    for file in (ROOT / "nsopt").rglob("*.py"):
        assert not re.search(r"^ *Example:$", file.read_text(), re.M), file
