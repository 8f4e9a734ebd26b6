"""Code that reads values: constants are computed, boxes are picked, decisions are refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nsopt
from nsopt.errors import NsoptError
from nsopt.tracing import tracer
from tests.networks import layers
from tests.tracing.checks import check_pruning, randomise

IMAGES = torch.randn(2, 3, 16, 16)


@layers(stride=torch.tensor([8.0, 2.0]), counts=torch.tensor([1, 2]))
@layers(steps=nn.Buffer(torch.tensor([1, 2])), body=nn.Conv2d(3, 32, 3, 2, 1))
@layers(boxes=nn.Conv2d(32, 4, 1))
def Strides(self: Any, x: Tensor) -> Any:
    """Reads numbers from constants of several kinds, as the heads of YOLO do."""
    y = self.boxes(torch.relu(self.body(x)))
    for i, stride in enumerate(self.stride):
        if y.shape[-1] * int(stride) == x.shape[-1]:
            y = y * self.stride[i].item()
    steps = torch.zeros(3)
    steps[1:] += torch.arange(2) + 1
    steps.mul_(2)
    assert steps.tolist() == [0, 2, 4]
    for count in (*self.counts.tolist(), *self.steps.tolist()):
        y = y + torch.full((count, 1, 1, 1), self.stride.max()).sum()
    return y[:, torch.tensor([True, False, True, True])]


@layers(body=nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1)))
@layers(scores=nn.Conv2d(64, 1, 1), boxes=nn.Conv2d(64, 4, 1))
@layers(refine=nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 4)))
def Detector(self: Any, x: Tensor) -> Any:
    """Dense layers, then boxes of a high score are picked, and refined by layers."""
    y = self.body(x).relu()
    found = []
    for scores, boxes in zip(self.scores(y).flatten(1), self.boxes(y).flatten(2), strict=True):
        picked = torch.where(scores > scores.mean())[0]
        picked = picked[scores[picked].argsort()][:5]
        refined = self.refine(boxes.T[picked])
        found.append(refined[refined[:, 0] > -1e9])
    if int(found[0][0, 0]) < 0:  # decides about the output alone
        found = [boxes.abs() for boxes in found]
    return found


@layers(a=nn.Linear(8, 32), b=nn.Linear(32, 32), c=nn.Linear(32, 4))
def Masked(self: Any, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Any:
    """Reads a mask in its input."""
    y = torch.relu(self.a(x)) * scale
    if mask is not None and not mask.all():
        y = self.b(y) * mask[..., None]
    return self.c(y)


def test_constants_that_code_reads_are_computed() -> None:
    model = Strides()
    arch = nsopt.trace(model, IMAGES)
    assert (arch.layer_names, arch.base_widths) == (("body",), (32,))
    randomise(model)
    check_pruning(arch, model, IMAGES)
    assert arch.build([7])(IMAGES).shape == (2, 3, 8, 8)


@layers(read=None, a=nn.Linear(8, 32), b=nn.Linear(32, 4))
@layers(scales=nn.Parameter(torch.tensor([2.0, 30.0, 4.0])))
def ReadsArrays(self: Any, x: Tensor) -> Any:
    """Reads tensors as NumPy arrays, before its last layer."""
    y = self.a(x).relu()
    scale = float(self.read(self, y))
    return self.b(y * scale) * self.scales.sum()


@pytest.mark.parametrize(
    ("read", "layers"),
    [
        (lambda net, _: net.scales.detach().cpu().numpy()[0], ("a",)),
        (lambda net, _: np.asarray(net.scales.detach())[2], ("a",)),
        (lambda _, y: torch.tensor([2.0, 3.0]).numpy().max(), ("a", "scales")),
        (lambda _, y: torch.from_numpy(np.arange(len(y))).numpy().sum(), ("a", "scales")),
    ],
    ids=["parameter", "asarray", "constant", "array"],
)
def test_a_tensor_that_is_read_as_an_array_keeps_its_size(
    read: Callable[[Any, Tensor], Any], layers: tuple[str, ...]
) -> None:
    model, x = ReadsArrays(read), torch.randn(2, 8)
    arch = nsopt.trace(model, x)
    assert arch.layer_names == layers
    check_pruning(arch, model, x)


@layers(a=nn.Linear(8, 32), b=nn.Linear(32, 4))
def Finds(self: Any, x: Tensor) -> Any:
    found = self.b(self.a(x).relu())
    return found if self.training else found.detach().cpu().numpy()


def test_activations_become_arrays_only_after_the_last_layer() -> None:
    assert nsopt.trace(Finds(), torch.randn(2, 8)).base_widths == (32,)
    message = r"depends on the values of tensors, in the network \(test"
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(ReadsArrays(lambda _, y: y.detach().numpy().max()), torch.randn(2, 8))


def test_a_whole_detector_comes_back_smaller() -> None:
    model = Detector()
    arch = nsopt.trace(model, IMAGES)
    assert arch.layer_names == ("body.0", "body.2", "boxes", "refine.0")
    assert "note: picks by values, traced as if everything were picked" in arch.explain()
    randomise(model)
    kept = [range(0, width, 2) for width in arch.base_widths]
    smaller = arch.prune(model, kept)
    assert len(smaller.get_parameter("body.0.weight")) == 16
    assert smaller.get_submodule("refine.2").in_features == 12
    smaller(IMAGES)[0].sum().backward()
    assert len(arch.inherit(model, kept, [20, 40, 4, 30])(IMAGES)) == 2
    dense = 64 * 32 * 27 + 16 * 64 * 32 * 9 + 16 * 64 * 5
    assert arch.cost("macs")(arch.base_widths) == dense + 5 * (4 * 24 + 24 * 4)  # of five boxes


@layers(write=None, a=nn.Linear(8, 16), b=nn.Linear(16, 16))
def Accumulating(self: Any, x: Tensor) -> Any:
    """Writes into zeros before it looks at them."""
    sums, y = torch.zeros_like(x), self.a(x).relu()
    self.write(sums, x)
    if bool((sums > 0).any()):
        y = self.b(y)
    return y


@pytest.mark.parametrize(
    "write",
    [
        lambda sums, x: torch.add(sums, x, out=sums),
        lambda sums, x: torch._foreach_add_([sums], [x]),
    ],
)
def test_zeros_that_are_written_are_unknown(write: Callable[[Tensor, Tensor], Any]) -> None:
    with pytest.raises(NsoptError, match="depends on the values of tensors"):
        nsopt.trace(Accumulating(write), torch.randn(2, 8))


def test_the_picked_boxes_of_a_pruned_detector_are_those_of_the_masked_one() -> None:
    model = Detector().double().eval()
    arch = nsopt.trace(model, IMAGES.double())
    kept = [np.arange(3, width) for width in arch.base_widths]
    smaller = arch.prune(model, kept)
    with torch.no_grad():
        for name in arch.layer_names:
            for part in ("weight", "bias"):
                model.get_parameter(f"{name}.{part}")[:3] = 0
        for found, expected in zip(smaller(IMAGES.double()), model(IMAGES.double()), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
            assert len(found) > 1


@pytest.mark.parametrize(
    ("inputs", "widths"),
    [
        (torch.randn(2, 5, 8), ["a"]),
        ((torch.randn(2, 5, 8), None), ["a"]),
        ((torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)), ["a"]),
        ((torch.randn(2, 5, 8), torch.eye(2, 5).bool(), 2.0), ["a", "b"]),
        ({"mask": torch.eye(2, 5).bool(), "x": torch.randn(2, 5, 8)}, ["a", "b"]),
        ({"x": torch.randn(2, 5, 8), "mask": None, "scale": 0.5}, ["a"]),
    ],
    ids=["alone", "None", "all", "some", "keywords", "keyword None"],
)
def test_masks_among_the_inputs_decide_as_in_the_example(inputs: Any, widths: list[str]) -> None:
    model = Masked()
    arch = nsopt.trace(model, inputs)
    assert list(arch.layer_names) == widths
    smaller = arch.prune(model, [range(9)] * len(widths))
    arguments = {"x": inputs} if isinstance(inputs, Tensor) else inputs
    if isinstance(arguments, tuple):
        arguments = dict(zip(("x", "mask", "scale"), arguments, strict=False))
    assert smaller(**arguments).shape == (2, 5, 4)
    masked = arguments.get("mask") is not None
    assert ("note: reads values of the input" in arch.explain()) == masked
    assert arch.cost("macs")(arch.base_widths) == 5 * 32 * (8 + 4 + 32 * ("b" in widths))


@layers(where=None, a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 8))
def Deciding(self: Any, x: Tensor) -> Any:
    """Values decide which layers run; `where` says at which point."""
    y = self.a(x)
    if self.where == "between" and y.max() > 0:
        y = self.b(y)
    if self.where == "parameter" and self.b.bias[0] > 0:
        y = self.b(y)
    y = self.c(y)
    if self.where == "after" and y.max() > 0:
        return y, y
    if self.where == "unread" and y.max() < 0:
        return self.b(y)
    if self.where == "training" and self.training and not y.isfinite().all():
        return self.b(self.c(y))
    if self.where == "targets" and self.training:
        raise ValueError("targets should not be None in training")
    return self.b(y)[:, :8] if self.where in ("training", "targets") else y


@pytest.mark.parametrize("where", ["between", "parameter", "unread"])
def test_values_that_decide_which_layers_run_are_refused(where: str) -> None:
    message = r"depends on the values of tensors, in the network \(test_values.py, line \d+\): dec"
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(Deciding(where), torch.randn(2, 8))


@layers(how=None, log=list[float](), a=nn.Linear(8, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 4))
def Checking(self: Any, x: Tensor) -> Any:
    """Checks and logs values between its layers."""
    x = self.a(x).relu()
    if self.how == "raise" and x.isnan().any():
        raise ValueError("nan")
    assert self.how != "assert" or (x >= 0).all()
    assert self.how != "training" or not self.training or not x.isnan().any()
    if self.how == "repair" and not x.isfinite().all():
        x = x.nan_to_num()
    if self.how == "log":
        self.log.append(x.mean().item())
    if self.how == "sample":
        x = torch.distributions.Normal(x, x.exp()).rsample()
    while self.how == "loop" and x.norm() > 1:
        x = x / 2
    y: Tensor = self.c(self.b(x))
    if self.how == "output" and y.isnan().any():
        raise ValueError("nan")
    return y


@pytest.mark.parametrize(
    "how", ["raise", "assert", "training", "repair", "output", "log", "sample"]
)
def test_values_that_are_only_checked_or_logged_decide_nothing(how: str) -> None:
    model, x = Checking(how), torch.randn(2, 8)
    arch = nsopt.trace(model, x)
    assert arch.base_widths == (16, 16)
    assert model.log == []
    if how != "sample":  # it checks nothing in a trace, and its noise has the sizes of the example
        assert "note: reads values of tensors, which decide nothing, in the" in arch.explain()
    assert arch.build([5, 3])(x).shape == (2, 4)


def test_a_loop_until_values_are_small_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "_MOST_GUESSES", 100)  # more take seconds
    with pytest.raises(NsoptError, match="depends on the values of tensors, in the network"):
        nsopt.trace(Checking("loop"), torch.randn(2, 8))


@layers(first=nn.Linear(4, 8), rnn=nn.GRU(8, 8), last=nn.Linear(8, 3))
def Packed(self: Any, x: Tensor) -> Any:
    """A recurrent layer that skips the padding, which is where the signal is zero."""
    lengths = x.any(2).sum(1)
    packed = nn.utils.rnn.pack_padded_sequence(self.first(x), lengths, batch_first=True)
    return self.last(self.rnn(packed)[1][-1])


def test_lengths_that_are_unknown_are_refused_with_the_way_out() -> None:
    with pytest.raises(NsoptError, match="give the lengths of the sequences to forward, as an"):
        nsopt.trace(Packed(), torch.randn(2, 5, 4))


@layers(a=nn.Linear(8, 16), b=nn.Linear(16, 4))
def Conditional(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    return self.b(torch.cond(y.sum() > 0, torch.sin, torch.cos, (y,)))


def test_the_operator_cond_is_refused() -> None:
    message = r"^nsopt cannot follow torch's operator cond: write torch\.where or others \(in the"
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(Conditional(), torch.randn(2, 8))


@pytest.mark.parametrize(
    ("where", "reason"),
    [("training", "depends on the values of tensors"), ("targets", "targets should not be None")],
)
def test_a_network_that_fails_in_training_is_traced_in_evaluation(where: str, reason: str) -> None:
    model, x = Deciding(where), torch.randn(2, 8)
    with pytest.warns(UserWarning, match=f"traced in evaluation mode only, .*{reason}") as caught:
        arch = nsopt.trace(model, x)
    assert caught[0].filename == __file__
    assert "note: traced in evaluation mode only, because of training mode: " in arch.explain()
    quiet = nsopt.trace(model, x, training=False)
    assert quiet.base_widths == arch.base_widths == (8, 8)
    assert "note" not in quiet.explain()
    randomise(model)
    assert arch.prune(model, [range(4)] * 2).eval()(x).shape == (2, 8)


class Cache:
    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


@layers(a=nn.Linear(8, 32), b=nn.Linear(32, 4))
def Caching(self: Any, x: Tensor) -> Any:
    y = torch.relu(self.a(x))
    logits = self.b(y)
    return {"logits": logits, "cache": Cache(y), "of": torch.distributions.Normal(logits, 1.0)}


def test_an_object_in_the_output_is_ignored() -> None:
    model = Caching()
    arch = nsopt.trace(model, torch.randn(2, 8))
    assert arch.layer_names == ("a",)
    assert "note: returns a Cache, whose tensors may change their sizes" in arch.explain()
    assert arch.prune(model, [range(7)])(torch.randn(2, 8))["logits"].shape == (2, 4)
