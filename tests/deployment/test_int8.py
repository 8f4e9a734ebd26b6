"""Exported networks in 8-bit integers."""

import json
from pathlib import Path

import onnx
import pytest
import torch

import nsopt
from nsopt.data.images import ImageData
from nsopt.deployment.check import measure_accuracy
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
