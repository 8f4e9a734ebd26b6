"""A file from which an interrupted run continues."""

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nsopt.compute.device import memory_for
from nsopt.errors import NsoptError
from nsopt.files import remove_unfinished, write_whole
from nsopt.inputs import checksum_of
from nsopt.settings import differences

State = dict[str, Any]
SECONDS_BETWEEN = 30.0  # minimum time between two writes of `save_when_due`
_CHECKSUM = b"nsopt checkpoint, sha256 "  # begins the first line; torch's content follows


class Checkpoint:
    """A file with the state of one run: tensors, numbers, text, and dicts and lists of these.

    It is written atomically, with a checksum, and belongs to the run that `identity` describes.
    Loading it for another run raises NsoptError.

    Args:
        path: the file; None to store nothing.
        identity: everything on which the state depends, JSON-safe.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._identity = dict(identity)
        self._saved_at = time.monotonic()

    def load(self, device: torch.device) -> State | None:
        """Return the last saved state, on `device`; None if nothing was saved.

        Raises:
            NsoptError: if another run saved it, or if the file is damaged.
        """
        if self._path is None:
            return None
        try:
            line, _, written = self._path.read_bytes().partition(b"\n")
            if line != _CHECKSUM + _digest(written):
                raise ValueError("checksum")
            stored = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
            identity, state = stored["identity"], stored["state"]
        except FileNotFoundError:
            return None
        except Exception:  # torch raises anything for a damaged file
            raise NsoptError(
                f"checkpoint {self._path} cannot be read: delete it to start over"
            ) from None
        changes = differences(self._identity, identity)
        if changes:
            raise NsoptError(
                f"checkpoint {self._path} was written by other settings ({'; '.join(changes)}): "
                "give the same settings, or delete it to start over"
            )

        def move(tensor: torch.Tensor) -> torch.Tensor:
            """Move a tensor, except states of random generators (uint8), which stay on the CPU."""
            return tensor if tensor.dtype == torch.uint8 else tensor.to(device)

        with memory_for(device, f"checkpoint {self._path}"):
            moved: State = tree_map_only(torch.Tensor, move, state)
        return moved

    def save_when_due(self, state: Callable[[], State]) -> None:
        """Save the result of `state`, but at most every 30 seconds."""
        if self._path is not None and time.monotonic() - self._saved_at >= SECONDS_BETWEEN:
            self.save(state())

    def save(self, state: State) -> None:
        if self._path is None:
            return
        content = io.BytesIO()
        torch.save({"identity": self._identity, "state": state}, content)
        written = content.getvalue()
        write_whole(self._path, _CHECKSUM + _digest(written) + b"\n" + written)
        self._saved_at = time.monotonic()

    @contextmanager
    def remove_on(self, error: type[Exception]) -> Iterator[None]:
        """Delete the file if the block raises `error`."""
        try:
            yield
        except error:
            self.remove()
            raise

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            remove_unfinished(self._path)


def weights_checksum(model: nn.Module) -> int:
    return checksum_of(value for value in model.state_dict().values() if isinstance(value, Tensor))


def check_storable(model: nn.Module) -> None:
    """Raise NsoptError if a network's state holds what no file of weights may hold."""
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            file = io.BytesIO()
            try:
                torch.save(value, file)
                file.seek(0)
                torch.load(file, weights_only=True)
            except Exception:  # of pickle, or of the object itself
                raise NsoptError(
                    f"{name} of the model is a {type(value).__name__}, which no file of weights "
                    "may hold: let get_extra_state give tensors, numbers, texts or a dict of them"
                ) from None


def full_state(model: nn.Module) -> State:
    """Return a network's state, with the buffers that `state_dict` leaves out."""
    return model.state_dict() | hidden_buffers(model)


def hidden_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that `state_dict` leaves out, by name."""
    known, named = model.state_dict().keys(), model.named_buffers(remove_duplicate=False)
    return {name: buffer for name, buffer in named if name not in known}


def load_full_state(model: nn.Module, state: State) -> None:
    """Load what `full_state` returned, with the buffers that runs removed, reshaped or made."""
    match_buffers(model, state)
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    for name, buffer in hidden_buffers(model).items():
        buffer.data = state[name].to(buffer.device, copy=True)


def match_buffers(model: nn.Module, state: State) -> None:
    """Replace the buffers of a model that `full_state` of another has in another form."""
    tensors = *model.parameters(), *model.buffers()
    device = tensors[0].device if tensors else None
    for name in sorted(state.keys() - full_state(model).keys()):
        path, _, leaf = name.rpartition(".")
        if leaf not in (module := model.get_submodule(path))._buffers:
            module.register_buffer(leaf, None, persistent=False)
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            stored = state.get(f"{path}.{name}" if path else name)
            if stored is None:
                module._buffers[name] = None
            elif buffer is None or (buffer.shape, buffer.dtype) != (stored.shape, stored.dtype):
                module._buffers[name] = stored.to(device, copy=True)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
