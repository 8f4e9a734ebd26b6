"""Recurrent layers fitted without training."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import nsopt
from nsopt.models.trace import trace
from nsopt.pruning.fitting.fit import fit_network
from nsopt.pruning.fitting.plan import Inputs
from nsopt.pruning.fitting.products import RecurrentWatch
from tests.networks import layers

STEPS, HIDDEN = 7, 12


class Classifier(nn.Module):
    """A recurrent layer, padded or packed, between two linear ones."""

    def __init__(self, layer: nn.RNNBase, is_packed: bool = False) -> None:
        super().__init__()
        ways = 1 + layer.bidirectional
        self.first, self.layer = nn.Linear(3, 6), layer
        self.out = nn.Linear(ways * (layer.proj_size or layer.hidden_size), 4)
        self.is_packed = is_packed

    def forward(self, x: Tensor) -> Tensor:
        x, batch_first = self.first(x).relu(), self.layer.batch_first
        if self.is_packed:
            lengths = torch.arange(len(x)) % STEPS + 1
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            found, _ = pad_packed_sequence(self.layer(packed)[0], batch_first=True)
        else:
            found = self.layer(x if batch_first else x.transpose(0, 1))[0]
        out: Tensor = self.out(found)
        return out if batch_first or self.is_packed else out.transpose(0, 1)


@layers(first=nn.LSTMCell(3, HIDDEN), second=nn.GRUCell(HIDDEN, HIDDEN))
@layers(third=nn.RNNCell(HIDDEN, HIDDEN, bias=False), out=nn.Linear(HIDDEN, 4))
def Stepwise(self: Any, x: Tensor) -> Any:
    """Cells that a loop calls."""
    first: Any = None
    second = third = None
    for step in x.unbind(1):
        first = self.first(step, first)
        second = self.second(first[0], second)
        third = self.third(second, third)
    return self.out(third)


MODELS: list[Callable[[], nn.Module]] = [
    lambda: Classifier(nn.LSTM(6, HIDDEN, 2, batch_first=True)),
    lambda: Classifier(nn.LSTM(6, HIDDEN, 2, bidirectional=True, bias=False)),
    lambda: Classifier(nn.LSTM(6, HIDDEN, 2, bidirectional=True), is_packed=True),
    lambda: Classifier(nn.GRU(6, HIDDEN, 2, batch_first=True, bidirectional=True)),
    lambda: Classifier(nn.GRU(6, HIDDEN), is_packed=True),
    lambda: Classifier(nn.RNN(6, HIDDEN, 3, batch_first=True)),
    lambda: Classifier(nn.RNN(6, HIDDEN, nonlinearity="relu")),
    Stepwise,
]


def errors_of(model: nn.Module, others: list[nn.Module]) -> list[float]:
    """Mean square differences of outputs on new inputs, relative to the variance."""
    x = torch.randn(64, STEPS, 3, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = model(x)
        return [float((other(x) - wanted).square().mean() / wanted.var()) for other in others]


@pytest.mark.parametrize("make", MODELS)
def test_units_that_repeat_others_cost_nothing(make: Callable[[], nn.Module]) -> None:
    model, x = make().eval(), torch.randn(256, STEPS, 3)
    arch = trace(model, x[:2])
    half = HIDDEN // 2
    with torch.no_grad():  # the second half of the states repeats the first
        for module in model.modules():
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                for tensor in module.parameters():
                    rows = tensor.unflatten(0, (-1, 2, half))
                    rows[:, 1] = rows[:, 0]
    kept = [torch.arange(width if width == 6 else half) for width in arch.base_widths]
    fitted = fit_network(arch, model, kept, Inputs(x), ridge=1e-6)
    assert not fitted.left
    inherited, now = errors_of(model, [arch.prune(model, kept).eval(), fitted.model])
    assert inherited > 1e-3
    assert now < 1e-5


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_layer_makes_up_for_inputs_that_are_gone() -> None:
    model, x = Classifier(nn.LSTM(6, HIDDEN, proj_size=5, batch_first=True)), torch.randn(128, 7, 3)
    with torch.no_grad():
        for tensor in model.first.parameters():
            tensor[3:] = tensor[:3]
    arch = trace(model.eval(), x[:2])
    kept = [torch.arange(3 if width == 6 else width) for width in arch.base_widths]
    fitted = fit_network(arch, model, kept, Inputs(x), ridge=1e-6)
    inherited, now = errors_of(model, [arch.prune(model, kept).eval(), fitted.model])
    assert inherited > 1e-3
    assert now < 1e-5


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_units_that_do_nothing_are_removed_exactly(kind: type[nn.RNNBase]) -> None:
    layer = kind(6, HIDDEN, 2, batch_first=True)
    model, x = Classifier(layer), torch.randn(128, STEPS, 3)
    with torch.no_grad():
        for tensor in layer.parameters():  # states that are always zero
            tensor.unflatten(0, (-1, HIDDEN))[:, [0, 4, 5, 9]] = 0
    arch = trace(model.eval(), x[:2])
    widths = [width if width == 6 else HIDDEN - 4 for width in arch.base_widths]
    with pytest.warns(UserWarning, match="^layer: fitted step by step to the states"):
        small = nsopt.fit(model, widths, x, arch)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), atol=1e-4, rtol=0)


def next_state(x: Tensor, state: Tensor, total: Tensor) -> Tensor:
    """What a cell makes of its products: of its inputs, and with those of its states (N, gates)."""
    if x.shape == state.shape:
        return total.tanh()
    reset, update = total[:, :-5].sigmoid().chunk(2, 1)
    return (1 - update) * (x[:, -5:] + reset * total[:, -5:]).tanh() + update * state


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_products_of_a_step_make_the_next_states(kind: type[nn.RNNBase], is_packed: bool) -> None:
    layer, x = kind(3, 5, 2, bidirectional=True), torch.randn(STEPS, 4, 3)
    sequences = pack_padded_sequence(x, torch.tensor([7, 5, 5, 1])) if is_packed else x
    shown: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), RecurrentWatch(lambda *s: shown.append(s[::2]), lambda *_: None):
        result = layer(sequences, torch.randn(4, 4, 5))[0]
    wanted = result.data if isinstance(result, PackedSequence) else result.flatten(0, 1)
    pairs = zip(shown[4::2], shown[5::2], strict=True)
    found = [next_state(of_x, *rest) for (_, of_x), rest in pairs]
    torch.testing.assert_close(torch.cat(found, 1), wanted)


def test_no_steps_are_refused_as_by_pytorch() -> None:
    layer = nn.LSTM(3, 4)
    with pytest.raises(RuntimeError), RecurrentWatch(lambda *_: None, lambda *_: None):
        layer(torch.randn(0, 2, 3))
