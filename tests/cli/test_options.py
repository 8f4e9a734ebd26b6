"""Options: each declared once, named like the setting that it changes, with help and range."""

import ast
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclopts import Parameter

import nsopt
from nsopt import SearchSettings, TrainSettings
from nsopt.cli import options
from nsopt.cli.commands import app
from nsopt.cli.options import DescentOptions, SearchOptions, SgdOptions, TrainingOptions, changes
from nsopt.cli.values import Count
from nsopt.cli.worker import _find_folder
from nsopt.session.presets import Preset, get_preset, override
from tests.conftest import REPOSITORY, call_nsopt

COMMANDS = ["study", "search", "tune", "widths", "report", "latency", "export"]
COMMANDS += ["dashboard", "worker"]


def names_of(group: type) -> set[str]:
    return {field.name for field in dataclasses.fields(group)}


def test_options_are_named_like_the_settings_they_change() -> None:
    search, training = SearchSettings.model_fields.keys(), TrainSettings.model_fields.keys()
    assert names_of(SearchOptions) <= search
    assert names_of(TrainingOptions) <= training
    assert names_of(SgdOptions) <= search & training


def test_a_new_search_option_is_one_field() -> None:
    """As CONTRIBUTING says: a setting, and a field of the same name."""

    @Parameter(name="*")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Longer(SearchOptions):
        prune_lr_epochs: Count | None = None
        """Epochs after which the learning rate falls."""

    changed = changes(Longer(prune_lr_epochs=7), TrainingOptions(), SgdOptions())
    settings = override(get_preset("smoke").settings, changed)
    assert settings.search.prune_lr_epochs == 7
    of_smoke = get_preset("smoke").settings.training
    assert settings.training == of_smoke.updated(device="auto", precision="auto")


def test_options_not_given_keep_the_values_of_the_preset() -> None:
    changed = changes(
        DescentOptions(), TrainingOptions(epochs=3), SgdOptions(lr=0.5), {"eta": None}
    )
    before = get_preset("quick").settings
    settings = override(before, changed)
    assert (settings.training.epochs, settings.training.lr, settings.search.lr) == (3, 0.5, 0.5)
    assert settings.search == before.search.updated(lr=0.5)
    assert settings.eta is None


def test_options_are_few() -> None:
    """Each declaration counts once, also where commands share its group."""
    declared = set[str]()
    for path in Path(nsopt.__file__).with_name("cli").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Options"):
                fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
                options_in = [f for f in fields if "Options" not in ast.unparse(f.annotation)]
                declared |= {f"{node.name}.{ast.unparse(field.target)}" for field in options_in}
            elif path.name == "data.py" and isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
                declared |= {f"{node.name}.{name}" for name in names}
    assert 60 < len(declared) <= 95, len(declared)
    words = {name.partition(".")[2] for name in declared}
    assert {"storage", "ratios", "workers"} <= words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command: str) -> None:
    rows = re.findall(r"│ \*? *(--[\w-]+)([^│]*)│", call_nsopt(command, "--help").stdout)
    assert len(rows) > 2
    for option, row in rows:
        help_text = re.sub(r"\[[^]]*\]|^ [A-Z]+\b", "", row).strip()
        assert len(help_text) > 5, option


@pytest.mark.parametrize(
    "command", ["study", "search", "widths", "compress", "tune", "report", "export"]
)
def test_help_has_an_example_that_parses(command: str) -> None:
    text = " ".join(call_nsopt(command, "--help").stdout.split())
    (example,) = re.findall(r"Example: nsopt (.*?) ╭", text)
    function, _, ignored = app.parse_args(example, exit_on_error=False, print_error=False)
    assert function.__name__ == command
    assert ignored == {}


def test_make_study_runs_a_command_that_parses() -> None:
    (line,) = re.findall(r"python -m nsopt\.study(.*)", (REPOSITORY / "Makefile").read_text())
    function, bound, ignored = app.parse_args(f"study {line}", exit_on_error=False)
    assert function.__name__ == "study"
    assert ignored == {}
    assert bound.arguments["options"].task.preset == "tiny"


def test_help_lists_the_values_of_all_presets() -> None:
    text = " ".join(re.sub("[│╭╮╰╯]", " ", call_nsopt("study", "--help").stdout).split())
    values: dict[str, Callable[[Preset], float]] = {
        "Number of trainings at each budget": lambda preset: preset.settings.seeds,
        "Passes over the training images": lambda preset: preset.settings.training.epochs,
        "Initial learning rate": lambda preset: preset.settings.training.lr,
        "Budgets as width ratios": lambda preset: preset.settings.ratios[0],
    }
    for option, value in values.items():
        own = re.split("Presets:|By default", text.partition(option)[2], maxsplit=1)[1]
        for name in ("smoke", "tiny", "quick", "fast", "paper"):
            match = re.search(rf"{name}[a-z ]* (\d+(\.\d+)?)", own)
            assert match is not None, option
            assert float(match[1]) == value(get_preset(name)), (option, name)


def test_the_version_option_prints_the_version() -> None:
    assert call_nsopt("--version").stdout.strip() == nsopt.__version__


def test_a_task_of_the_user_gets_the_preset_that_compare_takes() -> None:
    assert options.TaskOptions().read_preset() is get_preset("smoke")
    assert options.TaskOptions(task="mine:make").read_preset() is get_preset("quick")


def test_a_worker_keeps_its_networks_beside_the_study_that_it_joins() -> None:
    for url, folder in (
        ("sqlite:///here/study.db", Path("here")),
        ("sqlite:///here/other.db", Path("runs/name")),
        ("postgresql://host/study.db", Path("runs/name")),
    ):
        assert _find_folder(url, "name") == folder
