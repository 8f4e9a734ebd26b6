"""A trained network that smaller ones start from, read from a file of weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture, shapes_of
from nsopt.storage.weights_file import read_weights

_NESTED = ("state", "state_dict", "model")  # where files keep the weights, beside other things
_PREFIX = "module."  # of names that torch.nn.DataParallel wrote
_MOST = 3  # differing tensors that a message names


def load_trained(path: Path, arch: Architecture) -> nn.Module:
    """Return the network of base widths whose weights a file holds, in evaluation mode.

    Nothing in the file is executed.

    Args:
        path: a `state_dict` as `torch.save` writes it, alone or under the name `state_dict`,
            `model` or `state`, or a network that nsopt kept.

    Raises:
        NsoptError: for a file without weights, or with those of another network; the message names
            the first tensors that differ.
    """
    try:
        state = _state_of(read_weights(path))
    except NsoptError as error:
        raise NsoptError(f"no weights can be read from {path}: {error}") from None
    except OSError as error:
        raise NsoptError(f"no weights can be read from {path}: {error.strerror}") from None
    except Exception as error:  # whatever a foreign file makes torch raise
        raise NsoptError(
            f"{path} holds no weights as torch.save writes a state_dict ({type(error).__name__})"
        ) from None
    _check_shapes(path, arch, state)
    model = arch.build(arch.base_widths)
    model.load_state_dict(state)
    return model.eval()


def _state_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = next(
        (content[name] for name in _NESTED if isinstance(content.get(name), dict)), content
    )
    state = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise NsoptError("it holds no tensors by name")
    if all(name.startswith(_PREFIX) for name in state):
        state = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    return state


def _check_shapes(path: Path, arch: Architecture, state: Mapping[str, Tensor]) -> None:
    expected, found = arch.shapes(arch.base_widths), shapes_of(state)
    names = [*expected, *(name for name in found if name not in expected)]
    differing = [name for name in names if expected.get(name) != found.get(name)]
    if not differing:
        return
    shown = "; ".join(
        f"{name} is {_shape(found.get(name))} there and {_shape(expected.get(name))} here"
        for name in differing[:_MOST]
    )
    more = f"; {len(differing) - _MOST} more differ" if len(differing) > _MOST else ""
    raise NsoptError(
        f"{path} holds the weights of another network than {arch.name} with {arch.num_classes} "
        f"outputs: {shown}{more}"
    )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"
