"""AdamW, a linear learning rate, a teacher, and a running average of the weights."""

from threading import Lock

import pytest
import torch
from torch import nn
from torch.nn import functional

import nsopt
from nsopt import Architecture, ImageData, TrainSettings, train
from nsopt.compute.checkpoint import full_state, load_full_state
from nsopt.training.step import EMA, make_schedule
from tests.conftest import one_line
from tests.study.test_comparison import Listener

SHORT = TrainSettings(epochs=2, batch_size=32, lr=0.05, device="cpu", precision="fp32")


def test_the_learning_rate_rises_and_falls_linearly() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.8)
    settings = SHORT.updated(epochs=5, schedule="linear", warmup_epochs=1.0)
    schedule, rates = make_schedule(optimizer, settings, batches=4), []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rising, falling = torch.tensor(rates[:5]).diff(), torch.tensor(rates[4:]).diff()
    assert max(rates) == rates[4] == 0.8
    torch.testing.assert_close(rising, torch.full((4,), 0.16))
    torch.testing.assert_close(falling, torch.full((15,), -0.05))
    assert optimizer.param_groups[0]["lr"] == 0


@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.01), ("sgd", 0.05)])
def test_only_adamw_learns_as_much_from_a_loss_in_other_units(optimizer: str, lr: float) -> None:
    """A mean over hundreds of outputs, most of them zero, is such a loss."""
    x = torch.randn(256, 8)
    pairs = list(zip(x.split(32), x[:, :3].abs().split(32), strict=True))
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    arch = nsopt.trace(model, x)

    def fall(scale: float) -> float:
        def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return scale * functional.mse_loss(outputs, targets)

        task = nsopt.Task(pairs, loss, score=lambda net: -float(loss(net(x), x[:, :3].abs())))
        settings = SHORT.updated(optimizer=optimizer, lr=lr, momentum=0.9, epochs=6)
        losses = train(arch, arch.base_widths, task, settings, start=model).losses
        return losses[-1] / losses[0]

    assert fall(1.0) < 0.7
    alike = fall(0.001) == pytest.approx(fall(1.0), rel=0.05)
    assert alike == (optimizer == "adamw")


def test_distillation_brings_students_close(narrow: Architecture, digits: ImageData) -> None:
    """Even to an untrained teacher, to which labels would not lead."""
    torch.manual_seed(1)
    teacher = narrow.build(narrow.base_widths).train()
    with torch.no_grad():
        for _ in range(30):  # BatchNorm's running statistics
            teacher(torch.randn(32, 1, 32, 32))
    images = torch.randn(64, 1, 32, 32)
    distance = {}
    for weight in (None, 1.0):
        each = SHORT.updated(distillation=weight)
        model = train(narrow, narrow.base_widths, digits, each, teacher=teacher).model
        with torch.no_grad():
            own, wanted = (functional.log_softmax(m.eval()(images), 1) for m in (model, teacher))
            apart = functional.kl_div(own, wanted, reduction="batchmean", log_target=True)
            distance[weight] = float(apart)
    assert distance[1.0] < 0.5 * distance[None]
    with one_line("distillation needs a teacher"):
        train(narrow, narrow.base_widths, digits, SHORT.updated(distillation=0.5))


def test_the_distance_of_a_user_gets_equal_types_in_bf16() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(8, 4)
    seen = []

    def distance(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        seen.append((outputs.dtype, wanted.dtype))
        return (outputs - wanted).square().mean(1)

    how = functional.cross_entropy, lambda net: float(net(x).sum())
    task = nsopt.Task([(x, torch.arange(8) % 3)], *how, distance=distance)
    settings = SHORT.updated(epochs=1, distillation=0.5, precision="bf16")
    train(nsopt.trace(model, x), [8], task, settings, teacher=model)
    assert seen == [(torch.float32, torch.float32)]


def test_the_average_is_evaluated_and_returned(narrow: Architecture, digits: ImageData) -> None:
    def trained(averaging: float | None) -> dict[str, torch.Tensor]:
        outcome = train(narrow, narrow.base_widths, digits, SHORT.updated(averaging=averaging))
        return {"val": torch.tensor(outcome.val_accuracy), **outcome.model.state_dict()}

    last, hardly_averaged, averaged = trained(None), trained(1e-12), trained(0.9)
    torch.testing.assert_close(hardly_averaged, last)
    name = "classifier.weight"
    assert not torch.allclose(averaged[name], last[name], atol=1e-4)


def test_buffers_that_never_change_are_their_own_average() -> None:
    """A mask of attention, positions, and a value that is not stored."""
    net = nn.Linear(2, 2)
    net.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    net.register_buffer("positions", torch.arange(512))
    net.bias.requires_grad_(False)[0] = torch.inf
    net.register_buffer("scale", torch.tensor(0.1), persistent=False)
    expected = {name: buffer.clone() for name, buffer in net.named_buffers()}
    average = EMA(net, 0.99)
    for step in range(150):
        with torch.no_grad():
            net.weight += step
        average.update(net)
    for name, buffer in average.module.named_buffers():
        assert torch.equal(buffer, expected[name]), name
    mask = net.get_buffer("mask")
    mask[0, 1], mask[2, 0] = 0.0, -torch.inf  # later, in the same shape
    for _ in range(3):
        average.update(net)
        assert torch.equal(average.module.get_buffer("mask"), mask)
    weight, bias = average.module.parameters()
    assert torch.equal(bias, net.bias)
    assert weight.isfinite().all()
    assert not torch.equal(weight, net.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_average_of_a_half_precision_network_follows_it(dtype: torch.dtype) -> None:
    """It goes on from a stored state to the same numbers."""
    nets = [nn.Linear(2, 2, dtype=dtype) for _ in range(2)]
    whole, resumed = (EMA(nets[0], 0.99) for _ in range(2))
    for average in (whole, resumed):
        for net, steps in zip(nets, (1, 100), strict=True):
            for _ in range(steps):
                average.update(net)
    continued = EMA(nets[0], 0.99)
    load_full_state(continued, full_state(resumed))
    for _ in range(1000):
        for average in (whole, continued):
            average.update(nets[1])
    modules = whole.module, continued.module, nets[1]
    for one, other, latest in zip(*(each.parameters() for each in modules), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, latest, atol=1e-3, rtol=1e-3)


def test_a_model_may_hold_what_cannot_be_copied() -> None:
    net = nn.Linear(2, 2)
    net.lock = Lock()  # type: ignore[assignment]
    average = EMA(net, 0.9)
    average.update(net)
    assert torch.equal(average.module.get_parameter("weight"), net.weight)


def test_the_average_follows_buffers_that_a_model_makes_again() -> None:
    """A mask that is as long as the batch, and a table that grows between statistics."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net.register_buffer("mask", None, persistent=False)
    average = EMA(net, 0.9)

    def follow(length: int) -> None:
        net.register_buffer("mask", torch.full((length, length), -torch.inf).triu(1), False)
        net.get_buffer("1.running_mean").fill_(length)
        average.update(net)
        assert torch.equal(average.module.get_buffer("mask"), net.get_buffer("mask"))

    for length in (3, 3, 4, 2, 2):
        follow(length)
    assert 2 < float(average.module.get_buffer("1.running_mean")[0]) < 4
    average.module.register_buffer("mask", torch.ones(7).double(), False)  # as evaluations may
    follow(2)


def test_buffers_that_a_model_makes_in_its_first_pass_keep_their_names_in_the_average() -> None:
    """Rotary embeddings make their tables so; PyTorch pairs buffers by position."""
    net = nn.Linear(2, 2)
    average = EMA(net, 0.9)
    net.register_buffer("sin", torch.tensor([0.0, 1.0]), persistent=False)
    net.register_buffer("cos", torch.tensor([1.0, 0.0]), persistent=False)
    for _ in range(3):
        average.update(net)
        assert torch.equal(average.module.get_buffer("sin"), net.get_buffer("sin"))
        assert torch.equal(average.module.get_buffer("cos"), net.get_buffer("cos"))


def test_few_images_train_the_least_steps(narrow: Architecture, digits: ImageData) -> None:
    """An epoch of 360 images has 12 batches of 32."""
    for least, epochs in ((None, 2), (20, 2), (30, 3)):
        outcome = train(narrow, narrow.base_widths, digits, SHORT.updated(least_steps=least))
        assert len(outcome.epochs) == epochs


def test_even_the_first_weights_may_be_best(narrow: Architecture, digits: ImageData) -> None:
    begun = train(narrow, narrow.base_widths, digits, SHORT.updated(epochs=4))
    ruinous = SHORT.updated(lr=3.0, keep_best=True)
    kept = train(narrow, narrow.base_widths, digits, ruinous, start=begun.model)
    assert max(epoch.score for epoch in kept.epochs) < begun.score == kept.score
    for name, weights in begun.model.state_dict().items():
        assert torch.equal(kept.model.state_dict()[name], weights), name
    better = train(narrow, narrow.base_widths, digits, SHORT.updated(keep_best=True))
    assert better.score == max(epoch.score for epoch in better.epochs)


def test_statistics_of_momentum_0_follow_the_data(narrow: Architecture, digits: ImageData) -> None:
    """As in networks that were never trained in PyTorch."""
    usual, stuck = (narrow.build(narrow.base_widths) for _ in range(2))
    stuck.load_state_dict(usual.state_dict())
    norms = [module for module in stuck.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.0
    listener = Listener()
    how = narrow, narrow.base_widths, digits, SHORT
    one, other = (train(*how, start=model, progress=listener) for model in (usual, stuck))
    assert (one.losses, one.score) == (other.losses, other.score)
    told = f"{len(norms)} BatchNorms of momentum 0 follow the data from now on"
    assert listener.messages == [told]
    assert {norm.momentum for norm in norms} == {0.0}  # the user's network stays as it was
