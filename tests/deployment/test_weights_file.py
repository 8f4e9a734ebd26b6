"""Files of weights that somebody else may have written."""

import os
import resource
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nsopt
from nsopt import NsoptError, load_network
from nsopt.deployment.kept import read_weights
from tests.conftest import one_line
from tests.deployment.test_artifacts import make_network

HUGE = (6000,) * 8
_KIB = 1024


def write(path: Path, **changes: Any) -> Path:
    """Write a kept network with changed content to a file."""
    torch.save(make_network(50.0).content | changes, path)
    return path


@pytest.fixture
def little_memory() -> Any:
    """Fail if a test takes more than half a gigabyte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**29 // _KIB


@pytest.mark.usefixtures("little_memory")
def test_huge_widths_in_a_small_file_take_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt", widths=list(HUGE))
    with one_line(r"weights.pt: its tensors are not .* stored widths.*6000"):
        load_network(path)
    path = write(tmp_path / "weights.pt", widths=[10**12] * 8)
    with pytest.raises(NsoptError, match="a width of 1000000000000 is above 65536"):
        load_network(path)


@pytest.mark.usefixtures("little_memory")
def test_a_small_file_that_names_a_large_network_takes_no_memory(tmp_path: Path) -> None:
    changes = {"arch": "torchvision:vgg11", "classes": ["a"] * 20_000}
    with pytest.raises(NsoptError, match=r"weights.pt: torchvision:vgg11 has \d+ widths, got 8"):
        load_network(write(tmp_path / "weights.pt", **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": "large"},
        {"widths": "wide"},
        {"metric": ["params"]},
        {"input_shape": [3, 32]},
        {"input_shape": [3, 10**9, 10**9], "arch": "torchvision:squeezenet1_1"},
        {"state": [1]},
        {"classes": [[1]] * 10},
        {"arch": None},
    ],
    ids=str,
)
def test_invalid_content_causes_a_one_line_error(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match=r"weights\.pt"):
        load_network(write(tmp_path / "weights.pt", **changes))


@pytest.mark.parametrize("content", [[1], torch.zeros(3)], ids=["list", "tensor"])
def test_a_file_without_a_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(NsoptError, match="it contains no named tensors"):
        read_weights(tmp_path / "weights.pt")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.pt")
    with pytest.raises(NsoptError, match="the file does not exist"):
        load_network(tmp_path / "weights.pt")


def test_shared_tensors_are_stored_separately(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model[1].weight = model[0].weight
    replace(make_network(50.0), model=model).save(tmp_path / "weights.pt")
    state = read_weights(tmp_path / "weights.pt")["state"]
    assert torch.equal(state["0.weight"], state["1.weight"])


LAYERS = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 10)
TRACED = nsopt.trace(nn.Sequential(*LAYERS), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("arch", [TRACED, *map(nsopt.get_architecture, nsopt.architectures())])
def test_shapes_equal_those_of_the_built_network(arch: nsopt.Architecture) -> None:
    base = [max(1, width // 32) for width in arch.base_widths]
    for widths in (base, [5 + i % 3 for i in range(len(base))]):
        built = arch.build(widths).state_dict()
        assert arch.shapes(widths) == {name: tuple(t.shape) for name, t in built.items()}


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({"weight": torch.arange(1000.0)}, file)
    content = bytearray(file.read_bytes())
    place = content.index(torch.arange(1000.0).numpy().tobytes())
    content[place + 7] ^= 1
    file.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile):
        read_weights(file)
