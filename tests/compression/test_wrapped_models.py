"""Compression of models that something wraps, in modes of the caller, and with long names."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import nsopt
from nsopt import NsoptError
from tests.compression.test_own_task import SETTINGS


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16)),
        *(nn.ReLU(), nn.Linear(16, 4)),
    )


def make_task(name: str = "task") -> nsopt.Task:
    inputs = torch.rand(64, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    targets = (4 * inputs.flatten(1)[:, 0]).long()
    batches = list(zip(inputs.split(16), targets.split(16), strict=True))

    def score(network: nn.Module) -> float:
        return -float(functional.cross_entropy(network(inputs), targets))

    return nsopt.Task(batches, functional.cross_entropy, score, name=name)


def compress(model: nn.Module, out: Path | None = None, name: str = "task") -> float:
    """Return the score of a network at half of the MACs."""
    options = {"epochs": 1, "settings": SETTINGS, "out": out}
    return nsopt.compress(model, make_task(name), ["macs=50%"], **options)["macs=50%"].score


@pytest.fixture(scope="module")
def expected() -> float:
    return compress(make_model())


def add_hooks(model: nn.Sequential) -> nn.Module:
    next(model.parameters()).register_hook(lambda gradient: gradient)
    model[0].register_forward_hook(lambda module, inputs, outputs: None)
    return model


def change_nothing(model: nn.Sequential) -> nn.Module:
    return model


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch.compile
@pytest.mark.parametrize(
    ("wrap", "mode"),
    [
        (torch.compile, nullcontext),
        (nn.DataParallel, nullcontext),
        (add_hooks, nullcontext),
        (change_nothing, torch.inference_mode),
        (change_nothing, torch.no_grad),
    ],
)
def test_wrapped_models_and_modes_of_the_caller_change_no_result(
    expected: float,
    wrap: Callable[[nn.Sequential], nn.Module],
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    with mode():
        assert compress(wrap(make_model())) == expected


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
@pytest.mark.parametrize("name", ["traced", "vgg11"])
def test_units_are_of_the_network(name: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    inputs = torch.rand(16, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    arch = nsopt.get_architecture("vgg11", in_channels=1)
    model = arch.build([8] * 8).eval()
    if name == "traced":
        arch = nsopt.trace(model, inputs[:2])
    norms = [norm.tolist() for norm in arch.filter_norms(model)]
    assert [norm.tolist() for norm in arch.filter_norms(wrap(model))] == norms
    kept, widths = [torch.arange(4)] * 8, [4] * 8
    plain, found = (arch.inherit(each, kept, widths) for each in (model, wrap(model)))
    torch.testing.assert_close(found.state_dict(), plain.state_dict(), rtol=0, atol=0)
    pruned = arch.prune(wrap(model), kept)
    torch.testing.assert_close(pruned.state_dict(), plain.state_dict(), rtol=0, atol=0)
    fitted = [nsopt.fit(each, widths, inputs).state_dict() for each in (model, wrap(model))]
    torch.testing.assert_close(fitted[1], fitted[0], rtol=0, atol=0)


def test_a_network_of_another_family_has_nothing_to_inherit() -> None:
    arch = nsopt.get_architecture("vgg11")
    with pytest.raises(NsoptError, match=r"the model is no vgg11: it has no module conv"):
        arch.inherit(make_model(), [torch.arange(4)] * 8, [4] * 8)


def test_long_names_become_names_of_files(expected: float, tmp_path: Path) -> None:
    class_of_500_letters = type("N" * 500, (nn.Sequential,), {})
    model = class_of_500_letters(*make_model())
    assert compress(model, tmp_path, name="t" * 300) == expected
    assert max(len(path.name) for path in tmp_path.rglob("*")) < 200


class Noted(nn.Sequential):
    def get_extra_state(self) -> Fraction:
        return Fraction(1, 3)


def test_a_state_that_no_file_may_hold_is_refused_before_any_work() -> None:
    with pytest.raises(NsoptError, match=r"_extra_state of the model is a Fraction, which no file"):
        compress(Noted(*make_model()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_number_type_are_named(dtype: torch.dtype) -> None:
    with pytest.raises(NsoptError, match=r"different number types in 0 .*model\.float\(\)"):
        compress(make_model().to(dtype))


def test_searches_studies_and_trainings_start_from_wrapped_models() -> None:
    model, task = make_model(), make_task()
    arch = nsopt.trace(model, task.inputs)
    search = SETTINGS.search.updated(filters_per_step=4)
    asked = SETTINGS.updated(search=search, ratios=[0.5], seeds=1)

    def run(start: nn.Module) -> tuple[list[float], float, list[float]]:
        law = nsopt.search(arch, task, search, start=start).law
        settings = SETTINGS.training.updated(epochs=1, distillation=0.5)
        trained = nsopt.train(arch, arch.base_widths, task, settings, start=start, teacher=start)
        table = nsopt.compare(arch, task, settings=asked.updated(start=start)).table
        return law.beta.tolist(), trained.score, table["val_mean"].tolist()

    assert run(nn.DataParallel(model)) == run(model)


class Remembering(nn.Module):
    """Makes a table of positions when it runs, and a longer one for longer inputs."""

    table: torch.Tensor | None

    def __init__(self, persistent: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 4)
        self.register_buffer("table", None, persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[2]
        if self.table is None or len(self.table) < rows:
            self.table = torch.linspace(0, 1, rows)[:, None]
        features = self.first(x[:, 0] + self.table[:rows]).relu()
        return torch.as_tensor(self.second(features).mean(1))


class Making(Remembering):
    """Registers its table when it first runs."""

    def __init__(self) -> None:
        super().__init__()
        del self.table

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.linspace(0, 1, x.shape[2])[:, None], False)
        return super().forward(x)


class Timed(nn.Module):
    """Adds one channel to all, so that the units before it cannot be removed one by one."""

    def __init__(self, has_more: bool) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(36, 8), nn.Linear(9, 8), nn.Linear(8, 4)
        more = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.more = more if has_more else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x.flatten(1))
        y = y + self.second(torch.cat([y[:, :1] * 0.5, y], 1))
        return torch.as_tensor(self.out(y + self.more(y)))


def test_units_that_cannot_be_removed_one_by_one_stay() -> None:
    small = nsopt.compress(
        Timed(has_more=True), make_task(), ["params=80%"], epochs=0, settings=SETTINGS
    )["params=80%"]
    assert small.widths[0] == 8
    assert small.widths[1] < 16
    with pytest.raises(NsoptError, match="timed has no unit that can be removed by itself: train"):
        compress(Timed(has_more=False))


@pytest.mark.parametrize("rows", [0, 3])
def test_a_table_that_grows_when_the_network_runs(rows: int) -> None:
    model = Remembering()
    if rows:
        model(torch.rand(2, 1, rows, 6))
    before = model.table
    assert compress(model) < 0  # the score, a negative loss
    assert model.table is before


def test_a_table_that_the_first_run_registers() -> None:
    assert compress(Making()) < 0


def test_a_table_that_a_file_of_weights_would_hold_is_refused_before_training() -> None:
    with pytest.raises(NsoptError, match=r"shapes of its state_dict when it runs: table is 6x1 th"):
        compress(Remembering(persistent=True))


class Split(nn.Linear):
    """Refuses to be copied, like the modules of FSDP."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise AssertionError("FSDP does not support deepcopy")


def test_a_network_that_refuses_to_be_copied_is_one_line() -> None:
    network = nn.Sequential(Split(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(NsoptError, match=r"copied \(FSDP .*\): build it again and load its state"):
        nsopt.trace(network, torch.rand(2, 4))
