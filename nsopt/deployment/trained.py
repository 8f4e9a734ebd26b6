"""A trained network that smaller ones start from, read from a file of weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture, shapes_of
from nsopt.models.tracing.architecture import TracedArchitecture
from nsopt.storage.weights_file import read_weights

_NESTED = ("state", "state_dict", "model")  # where files keep the weights, beside other things
_PREFIX = "module."  # of names that torch.nn.DataParallel wrote
_MOST = 3  # differing tensors that a message names


def load_trained(path: Path, arch: Architecture) -> nn.Module:
    """Load the network of base widths from a file of weights, in evaluation mode.

    No code in the file is executed.

    Args:
        path: a `state_dict` that `torch.save` wrote, alone or under the name `state_dict`, `model`
            or `state`; or a network that nsopt stored.

    Raises:
        NsoptError: if the file has no weights, or those of another network; the message names the
            first tensors that differ.
    """
    with explain_reading(path, "torch.save"):
        state = _find_state(read_weights(path))
    differences = describe_differences(arch, arch.base_widths, state)
    if differences:
        raise NsoptError(
            f"{path} has the weights of another network than {arch.name} with {arch.num_classes} "
            f"outputs: {differences}"
        )
    return _build(arch, state, str(path))


def copy_traced(arch: TracedArchitecture) -> nn.Module:
    """Return the network that was traced, with its weights, in evaluation mode.

    Raises NsoptError if some are NaN or infinite.
    """
    return _build(arch, arch.network.template.state_dict(), arch.name)


def _build(arch: Architecture, state: Mapping[str, Tensor], origin: str) -> nn.Module:
    model = arch.build(arch.base_widths)
    model.load_state_dict(state)
    check_finite(model, origin)
    return model.eval()


def check_finite(model: nn.Module, origin: str) -> None:
    """Raise NsoptError if a weight is NaN or infinite, or a buffer NaN; masks may be infinite."""
    weights = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        if tensor.isnan().any() or (name in weights and tensor.isinf().any()):
            raise NsoptError(
                f"{name} of {origin} has values that are NaN or infinite: give weights of a "
                "training that ended well"
            )


@contextmanager
def explain_reading(path: Path | str, writer: str) -> Iterator[None]:
    """Turn any error while a file of weights is read into an NsoptError of one line.

    Args:
        writer: what should have written the file.
    """
    try:
        yield
    except NsoptError as error:
        raise NsoptError(f"cannot read weights from {path}: {error}") from None
    except OSError as error:
        raise NsoptError(f"cannot read weights from {path}: {error.strerror}") from None
    except UnpicklingError:
        raise NsoptError(
            f"cannot read weights from {path}: it holds more than weights, such as a whole module; "
            "write it again with torch.save(model.state_dict(), path)"
        ) from None
    except BadZipFile:
        raise NsoptError(
            f"cannot read weights from {path}: it is damaged, or {writer} did not write this file"
        ) from None
    except Exception as error:  # torch raises anything for a foreign file
        raise NsoptError(
            f"cannot read weights from {path}: {writer} did not write this file "
            f"({type(error).__name__})"
        ) from None


def _find_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = next(
        (content[name] for name in _NESTED if isinstance(content.get(name), dict)), content
    )
    state = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise NsoptError("it contains no named tensors")
    if all(name.startswith(_PREFIX) for name in state):
        state = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    return state


def describe_differences(
    arch: Architecture, widths: tuple[int, ...], state: Mapping[str, Tensor]
) -> str:
    """Name the first tensors whose shapes differ from those of a network, which is not built.

    Returns:
        An empty string if the state fits a network of these widths.
    """
    expected, found = arch.shapes(widths), shapes_of(state)
    names = [*expected, *(name for name in found if name not in expected)]
    differing = [name for name in names if expected.get(name) != found.get(name)]
    parts = [
        f"{name} is {_format_shape(found.get(name))} there and "
        f"{_format_shape(expected.get(name))} here"
        for name in differing[:_MOST]
    ]
    more = len(differing) - _MOST
    return "; ".join([*parts, *([f"{more} more differ"] if more > 0 else [])])


def _format_shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"
