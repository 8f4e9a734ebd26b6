"""Weights of a trained network, read from the files of common training scripts."""

import math
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nsopt import Architecture, NsoptError, get_architecture, trace
from nsopt.deployment.kept import load_trained
from nsopt.models.networks import check_finite
from tests.conftest import one_line


@pytest.mark.parametrize("name", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_are_read_from_all_common_layouts_of_a_file(
    narrow: Architecture, tmp_path: Path, name: str | None, prefix: str
) -> None:
    model, file = narrow.build(narrow.base_widths), tmp_path / "weights.pt"
    state = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    beside = {"optimizer_state_dict": {"state": {0: {"step": 3}}, "param_groups": []}}
    torch.save(state if name is None else {"epoch": 3, name: state, **beside}, file)
    loaded = load_trained(file, narrow)
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_weights_of_compiled_parts_are_read(narrow: Architecture, tmp_path: Path) -> None:
    """`torch.compile` of a part writes its names with `_orig_mod` in the middle."""
    model, file = narrow.build(narrow.base_widths), tmp_path / "weights.pt"
    state = {f"{'._orig_mod.'.join(k.rsplit('.', 1))}": t for k, t in model.state_dict().items()}
    torch.save(state, file)
    found = load_trained(file, narrow).state_dict()
    torch.testing.assert_close(found, model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ema", "net", 3])
def test_another_layout_names_keys(narrow: Architecture, tmp_path: Path, name: object) -> None:
    state, file = narrow.build(narrow.base_widths).state_dict(), tmp_path / "weights.pt"
    torch.save({"epoch": 3, name: state}, file)
    with one_line(rf"its keys are \['epoch', {name!r}\]; write it again"):
        load_trained(file, narrow)
    torch.save({f"net.{key}": tensor for key, tensor in state.items()}, file)
    with pytest.raises(NsoptError, match=r"; the file's names are \['net\."):
        load_trained(file, narrow)


def test_a_module_of_the_network_may_be_called_module(tmp_path: Path) -> None:
    model = nn.Sequential(OrderedDict(module=nn.Linear(2, 3), last=nn.Linear(3, 2)))
    arch, file = trace(model, torch.zeros(2, 2)), tmp_path / "weights.pt"
    for prefix in ("", "module."):
        torch.save({prefix + key: tensor for key, tensor in model.state_dict().items()}, file)
        torch.testing.assert_close(load_trained(file, arch).state_dict(), model.state_dict())


def test_a_file_cannot_ask_for_memory_by_its_settings(narrow: Architecture, tmp_path: Path) -> None:
    """A path joined with itself is twice as long, and so on."""
    path = PurePosixPath("ab")
    for _ in range(3):
        path = path / path
    torch.save({"args": path}, tmp_path / "weights.pt")
    with pytest.raises(NsoptError, match=r"more than weights \(pathlib.*\)"):
        load_trained(tmp_path / "weights.pt", narrow)


def test_weights_are_read_from_safetensors(narrow: Architecture, tmp_path: Path) -> None:
    model, file = narrow.build(narrow.base_widths), tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    found = load_trained(file, narrow).state_dict()
    torch.testing.assert_close(found, model.state_dict(), rtol=0, atol=0)
    file.write_bytes(b"not a file of weights")
    with pytest.raises(NsoptError, match="safetensors did not write this file"):
        load_trained(file, narrow)


def test_other_weights_name_a_difference(narrow: Architecture, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    other = get_architecture("vgg11", num_classes=8, in_channels=1)
    torch.save(other.build([8, *narrow.base_widths[1:]]).state_dict(), file)
    name = next(iter(narrow.build(narrow.base_widths).state_dict()))
    message = f"network than vgg11 with 10 outputs: {name} is 8x1x3x3 there and 4x1x3x3 here; "
    with pytest.raises(NsoptError, match=message):
        load_trained(file, narrow)
    torch.save({"weight": torch.zeros(3)}, file)
    with pytest.raises(NsoptError, match=f"{name} is missing there and .* more differ"):
        load_trained(file, narrow)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a file of weights"])
def test_files_without_weights_raise(narrow: Architecture, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(content)
    with one_line("save did not write this file"):
        load_trained(file, narrow)
    with pytest.raises(NsoptError, match="the file does not exist"):
        load_trained(tmp_path / "missing.pt", narrow)
    torch.save({"epoch": 3}, file)
    with pytest.raises(NsoptError, match="it has no named tensors"):
        load_trained(file, narrow)


def test_a_whole_module_in_a_file_is_named(tmp_path: Path, narrow: Architecture) -> None:
    torch.save(narrow.build(narrow.base_widths), tmp_path / "whole.pt")
    message = r"than weights \(nsopt.models.vgg.VGG, torch.*\), .* again with torch.save\(model.st"
    with pytest.raises(NsoptError, match=message):
        load_trained(tmp_path / "whole.pt", narrow)


def test_a_folder_in_place_of_weights_is_named(tmp_path: Path, narrow: Architecture) -> None:
    with pytest.raises(NsoptError, match=f"cannot read weights from {tmp_path}: it is a folder"):
        load_trained(tmp_path, narrow)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_infinite_weights_are_refused(narrow: Architecture, tmp_path: Path, value: float) -> None:
    model, file = narrow.build(narrow.base_widths), tmp_path / "weights.pt"
    name, weight = next(iter(model.named_parameters()))
    with torch.no_grad():
        weight[0] = value
    torch.save(model.state_dict(), file)
    with pytest.raises(NsoptError, match=f"{name} of .*weights.pt has values that are NaN or inf"):
        load_trained(file, narrow)


def test_weights_without_values_or_of_integers_are_named(tmp_path: Path) -> None:
    model, file = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), tmp_path / "weights.pt"
    arch = trace(model, torch.zeros(2, 2))
    for kind, message in (("meta", "no values"), (torch.int8, "numbers of type torch.int8")):
        torch.save({name: t.to(kind) for name, t in model.state_dict().items()}, file)
        with pytest.raises(NsoptError, match=f"weights.pt has {message}: give weights as the net"):
            load_trained(file, arch)


def test_a_mask_may_be_infinite() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("mask", torch.full((2,), -math.inf))
    module.get_extra_state = lambda: "text"  # type: ignore[method-assign]
    check_finite(module, "the model")
    module.register_buffer("mask", torch.full((2,), math.nan))
    with pytest.raises(NsoptError, match="mask of the model"):
        check_finite(module, "the model")
