"""Weights that are buffers, as converters from other formats make them."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import nsopt
from nsopt.errors import NsoptError
from nsopt.tracing.makers import find_weight_buffers
from tests.networks import layers


class Converted(nn.Module):
    """Its weights are buffers of a module without code; it has a norm and a table, too."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        self.last, self.norm = last, nn.BatchNorm1d(24, affine=False)
        self.kept: Any = nn.Module()
        for name, shape in {"a": (8, 32), "bias": (32,), "b": (32, 24), "c": (24, 4)}.items():
            self.kept.register_buffer(name, torch.randn(shape) / 4)
        self.table = nn.Buffer(torch.randn(4, 8))

    def forward(self, x: Tensor) -> Any:
        y = ((x * self.table[1]) @ self.kept.a + self.kept.bias).relu()
        y = self.norm(torch.matmul(y, self.kept.b)).relu()
        return y @ self.kept.c if self.last is None else self.last(y)


@layers(filter=nn.Buffer(torch.eye(8), persistent=False), linear=nn.Linear(8, 4))
def Filtered(self: Any, x: Tensor) -> Any:
    return self.linear(x @ self.filter)


WEIGHTS = ["kept.a", "kept.bias", "kept.b", "kept.c"]
INPUTS = torch.rand(100, 8)


def test_buffers_of_a_module_that_is_multiplied_are_weights() -> None:
    assert find_weight_buffers(Converted(), INPUTS) == WEIGHTS
    assert find_weight_buffers(nn.Linear(8, 2), INPUTS) == []
    assert find_weight_buffers(Filtered(), INPUTS) == [], "no file has its filter"
    assert find_weight_buffers(Converted(), INPUTS[:, :3]) == [], "it does not run"


@pytest.mark.parametrize("wrap", [lambda model: model, fx.symbolic_trace])
def test_they_count_as_parameters_where_nothing_trains(wrap: Any) -> None:
    model = wrap(Converted().eval())
    before = dict(model.named_buffers())
    result = nsopt.compress(model, INPUTS, ["params=50%"], epochs=0)
    assert result.dense.cost["params"] == 8 * 32 + 32 + 32 * 24 + 24 * 4
    small = result["params=50%"]
    first, second = small.widths
    assert small.cost["params"] == 8 * first + first + first * second + second * 4
    assert {n: p.numel() for n, p in small.model.named_parameters()}.keys() == {*WEIGHTS}
    assert dict(model.named_buffers()).keys() == before.keys()
    assert all(buffer is before[name] for name, buffer in model.named_buffers())
    assert nsopt.trace(model, INPUTS).base_widths == (32, 24)
    fitted = nsopt.fit(model, [16, 12], INPUTS)
    assert sum(p.numel() for p in fitted.parameters()) == 8 * 16 + 16 + 16 * 12 + 12 * 4


@pytest.mark.parametrize("last", [None, nn.Linear(24, 4)])
def test_where_something_trains_the_message_has_the_cure(last: nn.Module | None) -> None:
    model, labels = Converted(last), torch.randint(4, (100,))
    batches = list(zip(INPUTS.split(20), labels.split(20), strict=True))
    task = nsopt.Task(batches, loss=nn.CrossEntropyLoss())
    message = r"^training does not change the buffer kept\.a: make it .*, as in (part = .*)$"
    if last is None:
        with pytest.raises(NsoptError, match=message) as caught:
            nsopt.compress(model, task, ["params=50%"], epochs=1)
        text = str(caught.value)
    else:
        with pytest.warns(UserWarning, match=message) as warned:
            nsopt.compress(model, task, ["params=50%"], epochs=1)
        text = str(warned[0].message)
        explained = nsopt.trace(model, INPUTS).explain()
        assert "fixed: kept.a: no trainable parameters; training does" in explained
    found = re.search(message, text)
    assert found is not None
    for name in WEIGHTS:
        cure = found[1].replace("'a'", repr(name.rpartition(".")[2]))
        exec(cure, {"model": model, "torch": torch})
    assert {*WEIGHTS} <= {name for name, _ in model.named_parameters()}
    assert nsopt.trace(model, INPUTS).base_widths == (32, 24)
