import dataclasses
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt import Architecture, Epoch, ImageData, NsoptError, TrainSettings, measure_latency, train
from nsopt.compute import checkpoint
from nsopt.compute.device import explain_out_of_memory, resolve_compute, use_seed
from nsopt.errors import NonFiniteLossError, OutOfMemoryError
from nsopt.latency.measure import latency_conditions
from nsopt.tasks.classification import AccuracyEvaluation
from tests.conftest import one_line
from tests.networks import layers

SHORT = TrainSettings(epochs=4, batch_size=32, lr=0.05, device="cpu", precision="fp32")


def test_training_learns_and_records_its_curves(narrow: Architecture, digits: ImageData) -> None:
    widths = tuple(2 * width for width in narrow.base_widths)
    outcome = train(narrow, widths, digits, SHORT)
    assert len(outcome.epochs) == 4
    assert outcome.losses[-1] < 0.5 * outcome.losses[0]
    assert outcome.val_accuracy > 60
    assert outcome.test_accuracy == outcome.test_score == outcome.epochs[-1].test_score
    assert outcome.test_score_best_epoch == max(e.test_score or 0 for e in outcome.epochs)
    assert outcome.widths == widths
    assert outcome.seconds > 0


def test_same_seed_gives_the_same_numbers(narrow: Architecture, digits: ImageData) -> None:
    settings, before = SHORT.updated(epochs=2), torch.get_rng_state()
    one, two = (train(narrow, narrow.base_widths, digits, settings) for _ in range(2))
    assert one.epochs == two.epochs
    assert torch.equal(torch.get_rng_state(), before)
    other = train(narrow, narrow.base_widths, digits, settings.updated(seed=1))
    assert other.losses != one.losses


def test_a_non_finite_loss_raises_an_error(narrow: Architecture, digits: ImageData) -> None:
    with pytest.raises(NonFiniteLossError, match=r"epoch 1: try a learning rate below 1e\+06"):
        train(narrow, narrow.base_widths, digits, SHORT.updated(lr=1e6))


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        (1e15, r"the score must be a finite number, not inf: .* a lower learning rate"),
        (1e38, r"the weights became NaN or infinite in epoch 1: try a learning rate below"),
    ],
)
def test_weights_of_the_last_step_of_an_epoch_may_diverge(lr: float, message: str) -> None:
    """The loss before this step was finite, and the score is not."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    x, y = torch.randn(32, 8), 100 * torch.randn(32, 1)

    def score(net: nn.Module) -> Tensor:
        return functional.mse_loss(net(x), y)

    arch = nsopt.trace(model, x[:2])
    task = nsopt.Task([(x, y)], functional.mse_loss, score=score)
    with pytest.raises(NonFiniteLossError, match=message):
        train(arch, [16], task, SHORT.updated(lr=lr, epochs=1), start=model)


def test_bf16_trains_as_well(narrow: Architecture, digits: ImageData) -> None:
    outcome = train(narrow, narrow.base_widths, digits, SHORT.updated(precision="bf16"))
    assert outcome.val_accuracy > 60


def test_milestones_scale_with_the_number_of_epochs() -> None:
    assert TrainSettings().milestones == [100, 200, 250]
    assert TrainSettings(epochs=12).milestones == [4, 8, 10]


def test_the_learning_rate_falls_at_a_milestone(narrow: Architecture, digits: ImageData) -> None:
    weights = {}
    for epochs, decay in ((1, 1.0), (3, 1e-9), (3, 1.0)):
        settings = SHORT.updated(epochs=epochs, decay_after=(1 / 3,), decay=decay)
        model = train(narrow, narrow.base_widths, digits, settings).model
        weights[epochs, decay] = torch.cat([p.flatten() for p in model.parameters()])
    torch.testing.assert_close(weights[3, 1e-9], weights[1, 1.0])
    assert not torch.allclose(weights[3, 1.0], weights[1, 1.0], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "epochs = -1"),
        ({"lr": -1}, "lr = -1"),
        ({"val_fraction": 1}, "val_fraction = 1"),
        ({"epoch": 3}, "epoch = 3"),
        ({"precision": "fp8"}, "precision = 'fp8'"),
        ({"warmup_epochs": 1.0}, "needs schedule = 'linear'"),
        ({"epochs": 2, "schedule": "linear", "warmup_epochs": 2.0}, "must be below epochs"),
        ({"schedule": "cosine"}, "schedule = 'cosine'"),
        ({"distillation": 2}, "distillation = 2"),
        ({"averaging": 1}, "averaging = 1"),
    ],
)
def test_settings_out_of_range_raise_an_error(changes: dict, message: str) -> None:
    with one_line(message):
        TrainSettings(**changes)


def test_settings_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        SHORT.epochs = 5


@pytest.mark.parametrize(
    ("batch_size", "run", "error", "message"),
    [
        (128, lambda: torch.empty(2**55), OutOfMemoryError, "try batch_size=64"),
        (2, lambda: torch.empty(2**55), OutOfMemoryError, "no memory left for batches of 2"),
        (128, lambda: torch.zeros(2, 3) @ torch.zeros(2, 3), RuntimeError, "shape"),
    ],
)
def test_running_out_of_memory_suggests_a_smaller_batch(
    batch_size: int, run: Any, error: type[Exception], message: str
) -> None:
    """Below the smallest batch it suggests none, and other errors stay."""
    memory = explain_out_of_memory(torch.device("cpu"), batch_size=batch_size)
    with pytest.raises(error, match=message), memory:
        run()


@pytest.mark.parametrize("device", ["cuda:99", "warp", "meta-physical", "meta"])
def test_unavailable_devices_are_refused(device: str) -> None:
    with pytest.raises(NsoptError, match="is not available: use device='auto'"):
        resolve_compute(device, "fp32")


def test_auto_chooses_an_available_device() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_compute("auto", "auto").device.type == expected


def test_unknown_precision_suggests_the_nearest() -> None:
    with pytest.raises(NsoptError, match="did you mean 'bf16'"):
        resolve_compute("cpu", "bf-16")


def test_use_seed_restores_the_random_state() -> None:
    before = torch.get_rng_state()
    with use_seed(3, torch.device("cpu")):
        inside = torch.rand(3)
    with use_seed(3, torch.device("cpu")):
        torch.testing.assert_close(torch.rand(3), inside)
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_latency_is_the_median_of_timed_passes(narrow: Architecture) -> None:
    model = narrow.build(narrow.base_widths).train()
    calls: list[int] = []
    model.register_forward_hook(lambda _, images, __: calls.append(len(images[0])))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    strides = [tensor.stride() for tensor in model.parameters()]
    latency = measure_latency(model, narrow.input_shape, batch_size=5, warmup=3, repeats=7)
    assert calls == [2] * 2 + [5] * 10  # two passes choose the layout
    assert model.training
    assert [tensor.stride() for tensor in model.parameters()] == strides
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert latency.median_ms > 0
    threads = torch.get_num_threads()
    assert latency.device.endswith(f", {threads} thread{'' if threads == 1 else 's'}")
    assert dataclasses.asdict(latency)["repeats"] == 7


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_latencies_record_the_rounding_of_float32(
    narrow: Architecture, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """So latencies with TF32 do not count for exact products."""
    model, cpu = narrow.build(narrow.base_widths), torch.device("cpu")
    exact = latency_conditions(cpu)
    monkeypatch.setattr(torch.backends, "fp32_precision", precision)
    rounded = measure_latency(model, narrow.input_shape, batch_size=1, warmup=0, repeats=1)
    assert rounded.precision == f"fp32, {precision} convolutions, {precision} products"
    differing = {key for key, value in latency_conditions(cpu).items() if value != exact[key]}
    assert differing == {"precision"}
    assert exact["precision"] == "fp32"


def test_latency_arguments_are_checked(narrow: Architecture) -> None:
    with pytest.raises(NsoptError, match="repeats"):
        measure_latency(narrow.build(narrow.base_widths), narrow.input_shape, repeats=0)


def test_threads_give_the_same_results(narrow: Architecture, digits: ImageData) -> None:
    """Dropout draws from torch's single generator."""
    arch = nsopt.trace(build_dropping(), torch.randn(2, 1, 32, 32))
    each = [SHORT.updated(epochs=2, seed=seed) for seed in range(3)]

    def run(settings: TrainSettings) -> tuple:
        return train(arch, arch.base_widths, digits, settings).epochs

    alone = [run(settings) for settings in each]
    before = torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(run, each))
    assert together == alone
    assert len({epochs[0].train_loss for epochs in alone}) == 3
    torch.testing.assert_close(torch.get_rng_state(), before)


def build_dropping() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Dropout2d(0.2)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
    )


def test_the_callback_gets_every_epoch_and_may_end_the_training(
    narrow: Architecture, digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    seen: list[tuple[int, float]] = []

    def listen(epoch: int, metrics: Epoch) -> None:
        seen.append((epoch, metrics.score))
        if epoch == 2:
            raise optuna.TrialPruned

    file, widths = tmp_path / "training.pt", narrow.base_widths
    with pytest.raises(optuna.TrialPruned):
        train(narrow, widths, digits, SHORT, checkpoint=file, on_epoch=listen)
    whole = train(narrow, widths, digits, SHORT)
    assert seen == [(i + 1, whole.epochs[i].score) for i in range(2)]
    assert not file.exists()


def test_training_can_start_from_less(narrow: Architecture, digits: ImageData) -> None:
    trained = train(narrow, narrow.base_widths, digits, SHORT).model
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    kept = [torch.arange(width - 1) for width in narrow.base_widths]
    widths = [width - 1 for width in narrow.base_widths]
    start = narrow.inherit(trained, kept, widths)
    gentle = SHORT.updated(epochs=1, lr=0.005)
    inherited = train(narrow, widths, digits, gentle, start=start)
    fresh = train(narrow, widths, digits, gentle)
    assert inherited.val_accuracy > fresh.val_accuracy + 20
    torch.testing.assert_close(dict(trained.state_dict()), before, rtol=0, atol=0)


def test_a_training_can_start_from_a_network_that_has_run(digits: ImageData) -> None:
    """A hook of weight norm then keeps a weight that autograd computed."""
    with warnings.catch_warnings(action="ignore"):
        first = nn.utils.weight_norm(nn.Conv2d(1, 8, 3))
    others = nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 10)
    model, x = nn.Sequential(first, *others), torch.randn(2, 1, 32, 32)
    arch = nsopt.trace(model, x)
    start = arch.build(arch.base_widths)
    start(x)
    outcome = train(arch, arch.base_widths, digits, SHORT.updated(epochs=1), start=start)
    assert outcome.epochs[0].train_loss < 3
    assert measure_latency(start, (1, 32, 32), batch_size=1, repeats=5, warmup=0).median_ms > 0


def test_a_network_that_does_not_fit_is_one_line_before_anything_is_trained(
    narrow: Architecture, digits: ImageData, tmp_path: Path
) -> None:
    double = narrow.build([2 * width for width in narrow.base_widths])
    with pytest.raises(NsoptError, match="start is no network of these widths"):
        train(narrow, narrow.base_widths, digits, SHORT, start=double)
    with pytest.raises(NsoptError, match=r"checkpoint=.* is a folder: name a file"):
        train(narrow, narrow.base_widths, digits, SHORT, checkpoint=tmp_path)
    few = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    arch = nsopt.trace(few, torch.randn(2, 1, 32, 32))
    for use in (lambda: train(arch, [4], digits, SHORT), lambda: nsopt.search(arch, digits)):
        with pytest.raises(NsoptError, match="has 5 outputs, and the data 10 classes"):
            use()


@layers(seen=nn.Buffer(torch.zeros(()), persistent=False), conv=nn.Conv2d(1, 4, 3, 4))
@layers(out=nn.Linear(4, 10))
def Counting(self: Any, x: Tensor) -> Any:
    """A buffer counts batches, and no state holds it; outputs are worse with every batch."""
    if self.training:
        self.seen += 1
    return self.out(self.conv(x).mean((2, 3))) * 2**-self.seen


def test_buffers_that_no_state_holds_belong_to_the_best_epoch(digits: ImageData) -> None:
    model = Counting()
    arch = nsopt.trace(model, torch.randn(2, 1, 32, 32))
    settings = SHORT.updated(epochs=2, lr=1e-9, keep_best=True)
    outcome = train(arch, arch.base_widths, digits, settings, start=model)
    best = [epoch.score for epoch in outcome.epochs].index(outcome.score) + 1
    per_epoch = outcome.model.get_buffer("seen") / best
    assert per_epoch == per_epoch.round() > 0
    copy = arch.build(arch.base_widths)
    checkpoint.load_full_state(copy, checkpoint.full_state(outcome.model))
    assert copy.get_buffer("seen") == outcome.model.get_buffer("seen")


def test_a_checkpoint_of_other_modules_is_another_training(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)

    def stop(epoch: int, metrics: object) -> None:
        raise KeyboardInterrupt

    for act, error in ((nn.ReLU(), KeyboardInterrupt), (nn.Tanh(), NsoptError)):
        parts = nn.Conv2d(1, 4, 3, 4), act, nn.AdaptiveMaxPool2d(1), nn.Flatten()
        arch = nsopt.trace(nn.Sequential(*parts, nn.Linear(4, 10)), torch.randn(2, 1, 32, 32))
        with pytest.raises(error):
            train(arch, [4], digits, SHORT, checkpoint=tmp_path / "c", on_epoch=stop)


def test_train_returns_the_trained_network(narrow: Architecture, digits: ImageData) -> None:
    outcome = train(narrow, narrow.base_widths, digits, SHORT.updated(epochs=1))
    splits, compute = digits.split(SHORT.val_fraction), resolve_compute("cpu", "fp32")
    evaluation = AccuracyEvaluation(splits.test, splits, compute)
    while not evaluation.complete:
        evaluation.advance(outcome.model)
    assert evaluation.score == pytest.approx(outcome.test_accuracy, abs=1.5)
    kinds = {type(module).__module__ for module in outcome.model.modules()}
    assert not any(kind.startswith("nsopt.training.kernels") for kind in kinds)
