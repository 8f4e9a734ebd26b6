"""Files of weights that somebody else may have written."""

import os
import resource
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nsopt
from nsopt.deployment.kept import load_network
from nsopt.errors import NsoptError
from nsopt.storage.weights_file import read_weights
from tests.deployment.test_artifacts import make_network

HUGE = (6000,) * 8
_KIB = 1024
_DEFLATED = zipfile.ZIP_DEFLATED


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
    with pytest.raises(NsoptError, match=r"weights.pt: its tensors are not .* stored widths.*6000"):
        load_network(path)
    path = write(tmp_path / "weights.pt", widths=[10**12] * 8)
    with pytest.raises(NsoptError, match="a width of 1000000000000 is above 65536"):
        load_network(path)


@pytest.mark.usefixtures("little_memory")
def test_a_small_file_that_names_a_large_network_takes_no_memory(tmp_path: Path) -> None:
    changes = {"arch": "torchvision:vgg11", "classes": ["a"] * 20_000}
    with pytest.raises(NsoptError, match=r"weights.pt: torchvision:vgg11 has \d+ widths, got 8"):
        load_network(write(tmp_path / "weights.pt", **changes))


@pytest.mark.usefixtures("little_memory")
def test_tensors_cannot_claim_more_than_the_file_holds(tmp_path: Path) -> None:
    shapes = nsopt.get_architecture("vgg11").shapes(HUGE)
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    path = write(tmp_path / "weights.pt", widths=list(HUGE), state=state)
    assert path.stat().st_size < 2**15
    with pytest.raises(NsoptError, match="tensors or lists claim more than the file holds"):
        load_network(path)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", ["more", "classes", "arch"])
def test_nested_lists_that_share_their_elements_are_refused(name: str, tmp_path: Path) -> None:
    """A walk through all 2 ** 60 of them would never end."""
    lists: list[Any] = ["ants"]
    for _ in range(60):
        lists = [lists, lists]
    with pytest.raises(NsoptError, match="tensors or lists claim more than the file holds"):
        load_network(write(tmp_path / "weights.pt", **{name: lists}))
    lists.append(lists)
    with pytest.raises(NsoptError, match="tensors or lists claim more than the file holds"):
        load_network(write(tmp_path / "weights.pt", **{name: lists}))


class Zeros:
    """Unpickled as a billion bytes."""

    def __reduce__(self) -> Any:
        return bytearray, (2**30,)


@pytest.mark.usefixtures("little_memory")
def test_a_pickle_cannot_ask_for_memory(tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match=r"weights.pt: it makes a bytearray"):
        load_network(write(tmp_path / "weights.pt", more=Zeros()))
    assert read_weights(write(tmp_path / "weights.pt", more="bytearray"))["more"] == "bytearray"


@pytest.mark.usefixtures("little_memory")
def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt", more=torch.zeros(2**25))
    deflated = tmp_path / "deflated.pt"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(deflated, "w", _DEFLATED) as packed:
        for member in archive.infolist():
            with archive.open(member) as source, packed.open(member.filename, "w") as target:
                shutil.copyfileobj(source, target)
    with pytest.raises(NsoptError, match=r"deflated.pt: it is compressed"):
        load_network(deflated)


def test_members_of_an_archive_cannot_share_their_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt")
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        for number in range(1000):
            shared = zipfile.ZipInfo(f"copy{number}")
            shared.header_offset, shared.CRC = largest.header_offset, largest.CRC
            shared.file_size = shared.compress_size = largest.file_size
            archive.filelist.append(shared)
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(NsoptError, match="it is compressed"):
        load_network(path)


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
    with pytest.raises(NsoptError, match=r"weights\.pt") as caught:
        load_network(write(tmp_path / "weights.pt", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1], torch.zeros(3)], ids=["list", "tensor"])
def test_a_file_without_a_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(NsoptError, match="it contains no named tensors"):
        read_weights(tmp_path / "weights.pt")


def test_the_format_before_pytorch_1_6_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(
        NsoptError, match=r"format of PyTorch before 1\.6.*torch\.save\(torch\.load"
    ):
        read_weights(path)


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


@pytest.mark.parametrize("name", nsopt.architectures())
def test_shapes_equal_those_of_the_built_network(name: str) -> None:
    arch = nsopt.get_architecture(name)
    base = [max(1, width // 32) for width in arch.base_widths]
    for widths in (base, [5 + i % 3 for i in range(len(base))]):
        built = arch.build(widths).state_dict()
        assert arch.shapes(widths) == {name: tuple(t.shape) for name, t in built.items()}


def test_shapes_of_a_traced_network_equal_those_of_the_built_one() -> None:
    layers = [nn.Conv2d(3, 8, 3, groups=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 10)]
    arch = nsopt.trace(nn.Sequential(*layers), torch.zeros(2, 3, 8, 8))
    built = arch.build([5]).state_dict()
    assert arch.shapes([5]) == {name: tuple(t.shape) for name, t in built.items()}


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({"weight": torch.arange(1000.0)}, file)
    content = bytearray(file.read_bytes())
    place = content.index(torch.arange(1000.0).numpy().tobytes())
    content[place + 7] ^= 1
    file.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile):
        read_weights(file)


def test_sparse_tensors_are_named_as_such(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt", state={"weight": torch.eye(3).to_sparse()})
    with pytest.raises(NsoptError, match="it holds a sparse tensor: make it dense first"):
        load_network(path)
