"""Tables of kernels, the calls of networks, and the model that they make."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt.compute.device import resolve_compute
from nsopt.errors import NoWidthsError, NsoptError
from nsopt.latency import kernel_model
from nsopt.latency.calls import measure_table, record_calls
from nsopt.latency.kernel_model import latency_model, sample_widths
from nsopt.latency.measure import latency_conditions
from nsopt.latency.model import LatencyModel, Table
from nsopt.latency.runtime import TORCH, draw_images
from nsopt.models.architecture import Architecture, TableArchitecture
from nsopt.models.inputs import tensors_in
from nsopt.models.registry import table_architecture
from nsopt.progress import Silent
from nsopt.scaling.cost import differ
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.solve import solve_widths
from tests.latency.brief import learn_briefly
from tests.study.test_comparison import Listener

CPU = resolve_compute("cpu", "fp32")
milliseconds = st.lists(st.floats(0.01, 10), min_size=4, max_size=4)


@given(st.lists(milliseconds, min_size=3, max_size=3), st.floats(0, 100), st.floats(0, 100))
def test_tables_never_decrease(values: list[list[float]], one: float, other: float) -> None:
    axes = (np.array([2.0, 8.0, 16.0]), np.array([2.0, 16.0, 32.0, 64.0]))
    table = Table.of(axes, np.array(values), (1, 16))
    low, high = sorted((one, other))
    for fixed in (1.0, 20.0, 90.0):
        assert table.at(np.array([low, fixed])) <= table.at(np.array([high, fixed])) + 1e-9
        assert table.at(np.array([fixed, low])) <= table.at(np.array([fixed, high])) + 1e-9


def test_tables_are_exact_where_measured_and_extrapolate_beyond() -> None:
    table = Table.of((np.array([1.0, 2.0, 4.0]),), np.array([1.0, 3.0, 5.0]), (1,))
    sizes = np.array([[0.5], [1.0], [2.0], [3.0], [4.0], [6.0]])
    np.testing.assert_allclose(table.at(sizes), [1, 1, 3, 4, 5, 7.5])
    blocks = Table.of((np.array([16.0, 32.0]),), np.array([1.0, 2.0]), (16,))
    np.testing.assert_allclose(blocks.at(np.array([[16.0], [17.0], [32.0]])), [1, 2, 2])


def test_recorded_calls_match_the_layers_of_a_network(narrow: TableArchitecture) -> None:
    calls = record_calls(narrow.build(narrow.base_widths), narrow.input_shape, 5)
    convolutions = [call for call in calls if call.is_convolution]
    inputs = (1, *narrow.base_widths)
    assert [call.place for call in convolutions] == list(pairwise(inputs))
    assert [call.module for call in convolutions] == [f"conv{i}" for i in range(1, 9)]
    assert sum("batch_norm" in call.kind for call in calls) == len(narrow.base_widths)


class Keywords(nn.Module):
    """Convolutions whose arguments have names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.conv2d(images, self.first.weight, bias=self.first.bias, stride=2)
        x = functional.conv2d(input=x, weight=self.second.weight, dilation=(2, 2))
        return functional.conv2d(x, self.second.weight, groups=1)


def test_convolutions_with_named_arguments_are_timed() -> None:
    calls = record_calls(Keywords(), (3, 21, 21), 2)
    assert [call.place for call in calls] == [(3, 16), (16, 16), (16, 16)]
    assert [call.arguments[3:] for call in calls] == [
        *((2, 0, 1, 1), (1, 0, (2, 2), 1), (1, 0, 1, 1))
    ]
    assert len({call.kind for call in calls}) == 3
    for call in calls:
        measure_table([call], CPU.device, torch.contiguous_format)


class Written(nn.Module):
    """Calls that write into an argument, and calls that compute nothing."""

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(images.flatten(1)[:, 3:] + 1, inplace=True)
        x += x[:, :1]
        x[:, 1:].clamp_(max=1)
        return x.contiguous().requires_grad_(False).view(2, -1)


def test_calls_that_write_into_an_argument_take_time() -> None:
    names = [call.kind.split()[0] for call in record_calls(Written(), (3, 4, 4), 2)]
    assert [name.rpartition(".")[2] for name in names] == ["add", "relu", "add_", "clamp_"]


class Deviceless(nn.Module):
    """Keeps and makes tensors without a device, and remembers one."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.full((3, 1, 1), 0.5)
        self.places: Tensor | None = None
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        if self.places is None:
            self.places = torch.arange(images.shape[-1])
        x: Tensor = self.conv(images - self.mean)[..., self.places]
        x = x + torch.floor_divide(12, self.places + 1)
        logits: Tensor = torch.distributions.Categorical(logits=x).logits
        return logits


def test_tensors_without_a_device_are_timed() -> None:
    model = Deviceless()
    calls = record_calls(model, (3, 4, 4), 2)
    names = [call.kind.split()[0].rpartition(".")[2] for call in calls]
    assert names[:6] == ["arange", "sub", "conv2d", "__getitem__", "add", "floor_divide"]
    again = record_calls(model, (3, 4, 4), 2)  # torch remembers what it has done before
    assert [(call.kind, call.place) for call in again] == [(c.kind, c.place) for c in calls]
    for call in calls:
        assert {t.device.type for t in tensors_in(call.arguments)} <= {"meta"}
        measure_table([call], CPU.device, torch.contiguous_format)
    assert model.places is None
    assert type(model(torch.zeros(1, 3, 4, 4))) is Tensor


def learn_now(arch: Architecture) -> LatencyModel:
    calls = kernel_model._read_calls(arch, TORCH.batch_size)
    return kernel_model._learn(arch, *calls, CPU, Silent(), TORCH)


@pytest.fixture(scope="module")
def models(narrow: TableArchitecture) -> dict[str, tuple[Architecture, LatencyModel]]:
    """A built-in and a traced network of few kernels, each with its latency model."""
    module = nn.Sequential(
        *(nn.Conv2d(1, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 40, 3, 2, 1, bias=False), nn.Hardswish()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10)),
    )
    found: dict[str, Architecture] = {
        "vgg11": replace(narrow, base_widths=tuple(w // 2 for w in narrow.base_widths)),
        "traced": nsopt.trace(module, torch.randn(2, 1, 16, 16), name="small"),
    }
    with pytest.MonkeyPatch.context() as patch:
        learn_briefly(patch)
        return {name: (arch, learn_now(arch)) for name, arch in found.items()}


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    learn_briefly(monkeypatch)


def test_the_solver_never_exceeds_a_budget_of_predicted_milliseconds(
    models: dict[str, tuple[Architecture, LatencyModel]],
) -> None:
    for arch, model in models.values():
        rows = np.array(sample_widths(arch, 8, seed=3))
        costs = np.asarray(model(rows))
        assert (costs > 0).all()
        assert (model.lower_bound(rows) <= costs + 1e-9).all()
        assert (model.marginal(rows) >= 0).all()
        assert model(rows[0]) == pytest.approx(costs[0])
        law = uniform_curve(arch.base_widths)
        budgets = np.linspace(costs.min() * 1.05, costs.max(), 4)
        fits = solve_widths(law, model, budgets)
        assert (fits.cost <= budgets).all()


def test_no_prediction_is_below_the_fastest_measured_network(
    models: dict[str, tuple[Architecture, LatencyModel]],
) -> None:
    """As on a device that takes longer to start kernels than to run them."""
    for arch, model in models.values():
        assert model.floor > 0
        law, base = uniform_curve(arch.base_widths), np.array(arch.base_widths)
        floor = 1.5 * float(replace(model, floor=0.0)(base))
        slow = replace(model, floor=floor)
        assert slow(base) == slow.lower_bound(base) == floor
        with pytest.raises(NoWidthsError, match=r"smallest feasible one is [\d.]+ ms$") as error:
            solve_widths(law, slow, 0.9 * floor)
        named = float(str(error.value).split()[-2])
        assert floor <= solve_widths(law, slow, named).cost <= named  # rounded up to microseconds


def test_a_latency_that_hardly_depends_on_widths_causes_a_warning(
    models: dict[str, tuple[Architecture, LatencyModel]], tmp_path: Path
) -> None:
    arch, model = models["traced"]
    base = float(replace(model, floor=0.0)(arch.base_widths))
    path = tmp_path / f"{kernel_model._digest(arch, latency_conditions(CPU.device))}.json"
    messages = []
    for part in (0.5, 0.9):
        path.write_text(json.dumps(replace(model, floor=part * base).to_dict()))
        listener = Listener()
        latency_model(arch, CPU, listener, folder=tmp_path)
        messages.append(listener.messages)
    different, (alike,) = messages
    assert different == []
    takes = f"small takes {base:.3g} ms per batch, and "
    assert alike.startswith(f"latency hardly depends on widths here: {takes}")


@pytest.mark.usefixtures("briefly")
def test_a_width_that_has_to_stay_is_constant() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(128, 2))
    arch = nsopt.trace(model, torch.randn(2, 3, 8, 8))
    kept = replace(arch)
    vars(kept).update(vars(arch) | {"narrowest": (6, 1), "capped": {arch.layer_names[0]: "so"}})
    learned = latency_model(kept, CPU, Silent(), TORCH)
    assert learned([6, 8]) > 0


def test_networks_that_differ_in_an_activation_do_not_share_a_model() -> None:
    digests = {
        kernel_model._digest(
            nsopt.trace(
                nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 2, 3)),
                torch.zeros(2, 3, 8, 8),
            ),
            {},
        )
        for activation in (nn.ReLU(), nn.Tanh(), nn.ReLU())
    }
    assert len(digests) == 2


def test_a_model_survives_json(
    models: dict[str, tuple[Architecture, LatencyModel]],
) -> None:
    arch, model = models["traced"]
    again = LatencyModel.from_dict(json.loads(json.dumps(model.to_dict())))
    rows = np.array(sample_widths(arch, 5, seed=1))
    np.testing.assert_array_equal(again(rows), model(rows))


def test_a_model_of_another_format_is_refused(
    models: dict[str, tuple[Architecture, LatencyModel]],
) -> None:
    data = models["vgg11"][1].to_dict()
    del data["factors"]
    with pytest.raises(NsoptError, match="has another format: start a new storage"):
        LatencyModel.from_dict(data)


def without_noise(table: Table) -> Table:
    """Return a table of the same sizes, as of a device whose time grows with their product."""
    product = np.prod(np.meshgrid(*table.axes, indexing="ij"), axis=0)
    return replace(table, values=1e-3 + 1e-6 * product)


def test_the_correction_recovers_the_factors_of_operations(
    models: dict[str, tuple[Architecture, LatencyModel]],
) -> None:
    for arch, measured in models.values():
        tables = tuple(without_noise(table) for table in measured.tables)
        model = replace(measured, tables=tables)
        spread = np.random.default_rng(0).uniform(0.5, 2.0, model.factors.shape)
        truth = replace(model, factors=spread, constant=0.1, floor=0.0)
        widths = kernel_model._choose_networks(arch)
        unseen = np.array(sample_widths(arch, 10, seed=5))
        found = replace(model, floor=0.0).fitted_to(widths, truth(widths))
        np.testing.assert_allclose(found(unseen), truth(unseen), rtol=0.02)


def test_a_model_fitted_to_noise_still_grows_with_the_widths(
    models: dict[str, tuple[Architecture, LatencyModel]],
) -> None:
    for arch, model in models.values():
        widths = kernel_model._choose_networks(arch)
        noise = np.random.default_rng(0).uniform(1.0, 2.0, len(widths))
        found = replace(model, floor=0.0).fitted_to(widths, noise)
        base = np.array(arch.base_widths)
        assert found.lower_bound(2 * base) > found.lower_bound(base)
        assert solve_widths(uniform_curve(base), found, 2 * found(base)).cost <= 2 * found(base)


def test_projections_that_vanish_at_equal_widths_are_not_counted() -> None:
    arch = table_architecture("resnet18", num_classes=10, in_channels=1)
    arch = replace(arch, base_widths=tuple(w // 4 for w in arch.base_widths))
    terms, _ = kernel_model._read_calls(arch, 100)
    vanishing = [term for term in terms if term.unless_equal is not None]
    assert vanishing
    equal, unequal = np.array(arch.base_widths), np.array(arch.base_widths) + np.arange(17) * 2
    present = sum(int(differ(term.unless_equal, equal)) for term in vanishing)
    everywhere = sum(int(differ(term.unless_equal, unequal)) for term in vanishing)
    assert present < everywhere == len(vanishing)
    assert not {term.table for term in vanishing} & {
        term.table for term in terms if term.unless_equal is None
    }
    calls = kernel_model._record_calls(arch, unequal.tolist(), 100)
    for term, call in zip(terms, calls, strict=True):
        assert tuple(term.sizes(unequal)) == call.place


@pytest.mark.usefixtures("briefly")
def test_a_model_is_learned_once_per_device(
    models: dict[str, tuple[Architecture, LatencyModel]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arch, _ = models["traced"]
    model = latency_model(arch, CPU, Silent(), folder=tmp_path)
    monkeypatch.setattr(kernel_model, "_learn", None)
    again = latency_model(arch, CPU, Silent(), folder=tmp_path)
    assert again(arch.base_widths) == model(arch.base_widths)
    (kept,) = tmp_path.iterdir()
    assert json.loads(kept.read_text())["conditions"]["device"]


def test_a_damaged_model_in_the_cache_is_learned_again(
    models: dict[str, tuple[Architecture, LatencyModel]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arch, model = models["traced"]
    learned: list[Architecture] = []

    def learn_at_once(arch: Architecture, *_: object) -> LatencyModel:
        learned.append(arch)
        return model

    monkeypatch.setattr(kernel_model, "_read_calls", lambda *_: ())
    monkeypatch.setattr(kernel_model, "_learn", learn_at_once)
    latency_model(arch, CPU, Silent(), folder=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    data = json.loads(whole)
    required = model.to_dict().keys() - {"floor"}  # which earlier models lack
    changed = [
        *({k: v for k, v in data.items() if k != missing} for missing in required),
        data | {"layers": 7},
        data | {"factors": [[1.0, None]]},
        data | {"tables": data["tables"][:1]},
        data | {"constant": float("nan")},
        [],
    ]
    for text in ("", whole[:1000], "\x00" * 50, *map(json.dumps, changed)):
        file.write_text(text)
        again = latency_model(arch, CPU, Silent(), folder=tmp_path)
        assert again(arch.base_widths) == model(arch.base_widths)
        assert file.read_text() == whole
    assert len(learned) == 1 + 3 + len(changed)


def test_an_architecture_without_a_latency_model_raises_an_error(narrow: TableArchitecture) -> None:
    with pytest.raises(NsoptError, match="vgg11 has no latency model"):
        narrow.cost("latency")


def test_images_beyond_the_memory_are_refused() -> None:
    with pytest.raises(NsoptError, match="out of memory with batches of 1000000: try batch_size=5"):
        draw_images((3, 100_000, 100_000), 1_000_000)
