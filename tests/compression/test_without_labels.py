"""Networks that are trained to return what the trained one returns: no labels, no loss."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import nsopt
from tests.conftest import one_line

BUDGET = "macs=15%"


@cache
def make_teacher() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 3)
    return nn.Sequential(*layers).eval()


def make_inputs(seed: int, count: int = 512) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def measure_error(model: nn.Module) -> float:
    """Return the mean squared difference from the teacher's outputs on inputs of their own."""
    inputs = make_inputs(9)
    with torch.no_grad():
        return float((model(inputs) - make_teacher()(inputs)).square().mean())


@cache
def compress(epochs: int) -> nsopt.Compression:
    return nsopt.compress(make_teacher(), make_inputs(0), [BUDGET], epochs=epochs)


def test_training_without_labels_comes_closer_to_the_trained_network() -> None:
    fitted, trained = compress(0)[BUDGET], compress(30)[BUDGET]
    assert measure_error(trained.model) < 0.5 * measure_error(fitted.model)
    assert trained.cost["macs"] <= 0.15 * 6 * 48 + 0.15 * 48 * 48 + 0.15 * 48 * 3


@pytest.mark.parametrize(
    "batches",
    [
        lambda x: x.split(64),
        lambda x: [(part,) for part in x.split(64)],
        lambda x: [(part, ["a word"] * len(part)) for part in x.split(64)],
        lambda x: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 64),
    ],
    ids=["tensors", "tuples", "words beside them", "loader"],
)
def test_batches_give_the_numbers_of_their_tensor(batches: Callable[[Tensor], Any]) -> None:
    inputs = make_inputs(0)
    found = nsopt.compress(make_teacher(), batches(inputs), [BUDGET], epochs=3)[BUDGET]
    assert found.widths == compress(3)[BUDGET].widths
    expected = measure_error(compress(3)[BUDGET].model)
    assert measure_error(found.model) == pytest.approx(expected, rel=1e-3)


def test_scored_inputs_are_not_trained_on() -> None:
    seen = list[Tensor]()

    def trainer(model: nn.Module, task: nsopt.Task, context: Any) -> nn.Module:
        seen.extend(inputs for inputs, _ in task.train)
        return model

    inputs = make_inputs(0)
    nsopt.compress(make_teacher(), inputs, [BUDGET], epochs=1, trainer=trainer)
    rows = {tuple(row.tolist()) for row in torch.cat(seen)}
    assert len(rows) == 512 - 64, "one of eight batches is only scored"
    assert rows < {tuple(row.tolist()) for row in inputs}


def test_the_distance_of_a_task_is_what_training_without_a_loss_minimises() -> None:
    calls = list[bool]()

    def distance(outputs: Tensor, wanted: Tensor) -> Tensor:
        calls.append(outputs.requires_grad)
        return (outputs - wanted).abs().mean(1)

    task = nsopt.Task(make_inputs(0).split(64), distance=distance)
    nsopt.compress(make_teacher(), task, [BUDGET], epochs=1)
    assert any(calls), "no step was taken on it"


def test_a_task_with_a_loss_alone_is_scored_by_agreement() -> None:
    task = nsopt.Task([(make_inputs(0), make_inputs(1)[:, :3])], loss=nn.functional.mse_loss)
    found = nsopt.compress(make_teacher(), task, [BUDGET], epochs=1)
    assert found.about.score_name == "agreement with the trained network (%)"
    assert found[BUDGET].score < 100 == pytest.approx(found.dense.score)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(1, 6), "pass at least two examples"),
        (torch.zeros(5, 6), "give at least 16 inputs, got 5"),
        (torch.full((64, 6), torch.nan), "contains NaN or infinite numbers"),
        ([["a word"] * 64], "a tensor of inputs is enough"),
        ([(["a word"] * 64, ["a word"] * 64)], "hold no tensor"),
        ([], "the loader has no batches"),
        (5, "give an nsopt.Task"),
        (
            nsopt.Task([torch.ones(64, 6)], score=lambda model: math.nan),
            "score must be a finite number, not nan",
        ),
        (
            nsopt.Task(make_inputs(0).split(64), distance=lambda own, _: own[:, 0] * math.inf),
            "from itself is not finite",
        ),
    ],
)
@pytest.mark.parametrize("epochs", [0, 1])
def test_bad_inputs_are_one_line(inputs: Any, message: str, epochs: int, tmp_path: Path) -> None:
    with one_line(message):
        nsopt.compress(make_teacher(), inputs, [BUDGET], epochs=epochs, out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_trained_network_of_constant_outputs_is_one_line(epochs: int, tmp_path: Path) -> None:
    model = make_teacher_of_constants()
    with pytest.raises(nsopt.NsoptError, match="returns the same numbers for all inputs"):
        nsopt.compress(model, make_inputs(0), [BUDGET], epochs=epochs, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_broken_file_in_an_unlabelled_folder_is_one_line(tmp_path: Path) -> None:
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    broken = tmp_path / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(nsopt.NsoptError, match=r"3\.png is not a complete image .*: replace or"):
        nsopt.compress(make_teacher(), nsopt.load_images(tmp_path), [BUDGET], epochs=0)


def make_teacher_of_constants() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    nn.init.zeros_(model[-1].weight)
    return model
