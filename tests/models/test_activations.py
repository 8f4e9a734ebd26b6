"""Peak memory of activations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.models.activations import BufferRecorder, count_activations
from nsopt.models.registry import get_architecture
from nsopt.models.sizes import Size
from nsopt.models.tracing.trace import trace
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import MEMORY, get_metric
from nsopt.scaling.solve import solve_widths
from tests.models.tracing.awkward import Transformer
from tests.models.tracing.checks import check_costs

NETWORKS = ["vgg11", "resnet18", "resnet18-tied", "resnet18-convcut", "mobilenetv2"]


def measure_peak(model: nn.Module, *inputs: Tensor) -> int:
    """Return the peak of one network as it runs."""

    def sizes(tensor: Tensor) -> list[Size]:
        return [(np.zeros(1, np.int64), n) for n in tensor.shape]

    recorder = BufferRecorder(sizes)
    with torch.no_grad(), recorder:
        recorder.take(inputs)
        recorder.give(model.eval()(*inputs))
    return int(count_activations(recorder.buffers, 1)([1]))


class Steps(nn.Module):
    """Ten numbers in; a view, an operation in place, and indices that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(10, 40), nn.Linear(40, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(x).relu_().view(-1, 4, 10)  # 10 + 40
        y = nn.functional.max_pool1d(y, 2)  # 40 + 20, and no indices
        y = torch.cat([y, y], 1).flatten(1)  # 20 + 40, x is no longer needed
        return self.narrow(y) + x.sum()  # 10 + 40 + 6: x is


def test_a_buffer_lives_from_its_creation_to_its_last_use() -> None:
    assert measure_peak(Steps(), torch.rand(1, 10)) == 10 + 20 + 40
    linear = nn.Linear(10, 40)
    assert measure_peak(linear, torch.rand(1, 10)) == 50
    assert measure_peak(nn.Sequential(linear, nn.ReLU()), torch.rand(1, 10)) == 80
    assert measure_peak(nn.Sequential(linear, nn.ReLU(inplace=True)), torch.rand(1, 10)) == 50


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 1j).abs()


def test_a_complex_number_counts_as_two() -> None:
    assert measure_peak(Turned(), torch.rand(1, 10)) == 20 + 10


def test_transposed_weights_do_not_count_as_activations() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 300), nn.Linear(300, 5)
    )
    images = torch.rand(2, 3, 8, 8)
    arch = trace(model, images)
    assert (
        arch.cost("activations")(arch.base_widths) == measure_peak(model, images[:1]) == 288 + 300
    )


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=2)
@given(seed=st.integers(0, 2**31))
def test_the_predicted_peak_equals_that_of_the_built_network(name: str, seed: int) -> None:
    arch = get_architecture(name)
    cost = arch.cost("activations")
    generator = np.random.default_rng(seed)
    rows = generator.choice([1, 3, 8, 30], (2, len(arch.base_widths)))  # often equal
    images = torch.empty(1, *arch.input_shape, device="meta")
    with torch.device("meta"):
        peaks = [measure_peak(arch.build(row), images) for row in rows]
    assert cost(rows).tolist() == peaks
    assert cost(rows[0]) == peaks[0]
    assert (cost.lower_bound(rows) <= peaks).all()
    assert (cost.lower_bound(rows + 1) >= cost.lower_bound(rows)).all()


def test_the_memory_of_vgg11_equals_a_count_by_hand() -> None:
    arch = get_architecture("vgg11")
    widths = [8, 64, 4, 4, 4, 4, 4, 4]
    assert arch.cost("activations")([8, *[1] * 7]) == 2 * 8 * 32 * 32  # the first norm
    assert MEMORY.cost(arch)(widths) == 4 * 2 * 64 * 16 * 16
    assert get_metric("memory-int8").cost(arch)(widths) == 2 * 64 * 16 * 16
    wider = MEMORY.cost(arch).marginal(widths)
    assert wider.tolist() == [0, 4 * 2 * 256, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_budgets_are_met_and_no_larger_size_fits(name: str) -> None:
    arch = get_architecture(name)
    cost, law = MEMORY.cost(arch), uniform_curve(arch.base_widths)
    budget = MEMORY.read("64kB")
    fit = solve_widths(law, cost, budget)
    assert fit.cost == cost(fit.widths) <= budget
    larger = float(fit.tau) * np.geomspace(1 + 1e-9, 3, 300)
    assert (cost(np.maximum(np.floor(law.widths(larger)), 1)) > budget).all()


class Residual(nn.Module):
    """The input of the addition stays in memory while the branch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide, self.narrow = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        x = x + self.narrow(self.wide(x).relu_())
        return self.head(x.mean((2, 3)))


def test_the_memory_of_a_traced_network_follows_its_widths() -> None:
    arch = trace(Residual(), torch.rand(2, 3, 16, 16))
    cost = arch.cost("memory")
    rows = np.array([[8, 24], [4, 2], [2, 40], [30, 5]])
    stream, branch = rows.T
    needed = np.max([3 + stream, 2 * stream + branch, 3 * stream], axis=0)
    assert cost(rows).tolist() == (4 * 16 * 16 * needed).tolist()
    assert arch.cost("memory-int8")(rows[0]) == 16 * 16 * needed[0]
    law = uniform_curve(arch.base_widths)
    fit = solve_widths(law, [(cost, 16_000), (arch.cost("flash"), 4_000)])
    assert cost(fit.widths) <= 16_000
    assert arch.cost("flash")(fit.widths) <= 4_000
    smallest = solve_widths(law, cost, 4 * 16 * 16 * 6)
    assert smallest.widths.tolist() == [2, 2]
    with pytest.raises(NoWidthsError, match="smallest feasible one is 6,144"):
        solve_widths(law, cost, 1000)


def test_memory_follows_the_number_of_heads() -> None:
    x = torch.rand(2, 3, 32, 32)
    arch = trace(Transformer(), x)
    assert arch.cost("activations")([2, 32]) < arch.cost("activations")([4, 64])
    for widths in ([4, 64], [2, 32], [3, 51], [6, 66]):
        check_costs(arch, arch.build(widths), widths, x)


def test_memory_does_not_depend_on_the_layout_of_a_network() -> None:
    layers = nn.Conv2d(1, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 16, 3, 2), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 10))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        placed: nn.Module = model.to(memory_format=layout)  # type: ignore[call-overload]
        arch = trace(placed, torch.randn(2, 1, 32, 32))
        found.append(arch.cost("memory")([7, 16]))
    assert found[0] == found[1]


class Recurrent(nn.Module):
    """PyTorch makes the first states of its LSTM, of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(5, 16), nn.LSTM(16, 20, batch_first=True)
        self.out = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.first(x))[0])


def test_the_states_of_recurrent_layers_count() -> None:
    arch = trace(Recurrent(), torch.randn(2, 7, 5))
    for first, hidden in ((16, 20), (5, 8)):
        expected = 7 * first + 2 * hidden + 7 * hidden
        assert arch.cost("memory")([first, hidden]) == 4 * expected


class Copying(Residual):
    """Its code keeps a copy only of few channels."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        few = x.clone() if x.shape[1] < 8 else x
        return self.head((self.narrow(self.wide(x)) + few).mean((2, 3)))


def test_memory_that_does_not_depend_on_widths_alone_is_refused() -> None:
    arch = trace(Copying(), torch.rand(2, 3, 32, 32))
    with pytest.raises(NsoptError, match="cannot be counted"):
        arch.cost("memory")
