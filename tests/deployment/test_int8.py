"""Exported networks in 8-bit integers."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import nsopt
from nsopt.data.images import ImageData
from nsopt.deployment.check import measure_accuracy, measure_score
from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import NsoptError
from nsopt.models.architecture import TableArchitecture
from nsopt.scaling.metric import PARAMS
from nsopt.storage.trials import Point
from nsopt.training.settings import TrainSettings
from tests.conftest import first_digits


@pytest.fixture(scope="module")
def digits() -> ImageData:
    """400 training and 100 test digits, enough to learn from."""
    return first_digits(400, 100)


@pytest.fixture(scope="module")
def kept(narrow: TableArchitecture, digits: ImageData) -> KeptNetwork:
    settings = TrainSettings(epochs=4, batch_size=32, lr=0.05, precision="fp32", device="cpu")
    outcome = nsopt.train(narrow, narrow.base_widths, digits, settings)
    point = Point("uniform", PARAMS, 1000, 0, 0.25)
    return KeptNetwork.of(narrow.name, point, outcome, digits.split(0.1), digits.classes)


def test_8_bit_integers_keep_the_accuracy(
    kept: KeptNetwork, digits: ImageData, tmp_path: Path
) -> None:
    whole, small = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    nsopt.export(kept, whole)
    found = nsopt.quantise(whole, small, digits)
    exact, quantised = (measure_accuracy(file, digits.test) for file in (whole, small))
    assert exact == pytest.approx(kept.test_accuracy)
    assert quantised > exact - 6 > 60
    assert found.form == min(("QDQ", "QOperator"), key=found.milliseconds.__getitem__)
    assert found.is_faster == (found.milliseconds[found.form] < found.milliseconds["float"])
    predict = nsopt.load_exported(small, "onnx")
    assert predict(torch.rand(7, 1, 32, 32)).shape == (7, 10)
    model = onnx.load(small)
    stored = {fact.key: json.loads(fact.value) for fact in model.metadata_props}
    assert stored == kept.facts
    colours = torch.zeros(20, 3, 32, 32, dtype=torch.uint8), torch.arange(20) % 10
    coloured = ImageData.from_arrays(colours, colours)
    with pytest.raises(NsoptError, match=r"float\.onnx does not run on .* arrays: .* dimensions"):
        nsopt.quantise(whole, tmp_path / "coloured.onnx", coloured)
    assert not (tmp_path / "coloured.onnx").exists()
    kernels = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert kernels == {onnx.TensorProto.INT8}


class Tagger(nn.Module):
    """A network of tokens, with keyword arguments and several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix = nn.Embedding(20, 16), nn.Linear(16, 16)
        self.out = nn.Linear(16, 3)

    def forward(self, tokens: Tensor, weights: Tensor) -> dict[str, Tensor | None]:
        hidden = self.mix(self.words(tokens)).relu() * weights[..., None]
        return {"rest": None, "hidden": hidden, "tags": self.out(hidden)}


def make_sentences(length: int) -> dict[str, Tensor]:
    return {
        "weights": torch.rand(8, length),
        "tokens": torch.randint(20, (8, length)),
        "labels": torch.zeros(8),
    }


def test_a_network_of_a_task_is_quantised_and_scored_by_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, sentences = Tagger().eval(), [make_sentences(n) for n in (5, 7, 5)]
    task, whole, small = nsopt.Task(sentences), tmp_path / "float.onnx", tmp_path / "int8.onnx"
    facts = "net", (16, 16), (), (), (), (), "scored", "params", 1.0, None, 0, 1.0, None
    nsopt.export(KeptNetwork(*facts, model), whole, inputs=task.inputs)
    found = nsopt.quantise(whole, small, task)
    assert found.milliseconds[found.form] < 1000
    kinds = {tensor.data_type for tensor in onnx.load(small).graph.initializer if tensor.dims}
    assert onnx.TensorProto.INT8 in kinds

    def read_tags(network: nn.Module) -> float:
        assert next(network.parameters()).shape == (20, 16)
        outputs = network(**task.inputs)
        assert outputs["rest"] is None
        return float(outputs["tags"].detach().sum())

    def measure(file: Path, score: Callable[[nn.Module], float]) -> float:
        return measure_score(file, model, task.inputs, score)

    exact = read_tags(model)
    assert measure(whole, read_tags) == pytest.approx(exact, rel=1e-4)
    assert exact != measure(small, read_tags) == pytest.approx(exact, rel=0.1)
    with pytest.raises(NsoptError, match=r"does not call the network as a whole, model\(inputs\)"):
        measure(whole, lambda network: 1.0)
    longer = make_sentences(9)
    with pytest.raises(
        NsoptError, match=r"does not run as the score calls the network \(.*\): give"
    ):
        measure(whole, lambda network: network(longer["tokens"], longer["weights"]))

    def read_otherwise(network: nn.Module) -> float:
        tokens, weights = task.inputs["tokens"], task.inputs["weights"]
        outputs = [network(tokens, weights)["tags"], network(tokens, weights=weights)["tags"]]
        return float(torch.stack(outputs).detach().mean(0).sum())

    assert measure(whole, read_otherwise) == pytest.approx(exact, rel=1e-4)
    other = nsopt.Task([make_sentences(6)])
    with pytest.raises(NsoptError, match=r"float\.onnx does not run on the inputs of task: .*"):
        nsopt.quantise(whole, tmp_path / "other.onnx", other)
