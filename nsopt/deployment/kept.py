"""Trained networks in files: weights of any origin, and networks with all that their use needs."""

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from pydantic import InstanceOf, TypeAdapter
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint
from torch.utils._pytree import tree_map_only

from nsopt.compute.checkpoint import hidden_buffers, load_full_state
from nsopt.data.images import Splits
from nsopt.errors import NsoptError, shorten
from nsopt.files import write_whole
from nsopt.isolation import public
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.models.networks import check_finite
from nsopt.models.registry import stored_architectures
from nsopt.storage.trials import LARGEST_WIDTH, Point
from nsopt.tracing.originals import shapes_of
from nsopt.training.outcome import Outcome

_NESTED = ("state_dict", "model", "state")  # where files keep the weights, as nsopt does last
_PARALLEL, _COMPILED = "module.", "_orig_mod."  # what wrappers write into names of tensors
_MOST = 3  # differing tensors that a message names


def load_trained(path: Path, arch: Architecture) -> nn.Module:
    """Load the network of base widths from a file of weights, in evaluation mode.

    No code in the file is executed.

    Args:
        path: a `state_dict` that `torch.save` wrote, alone or under the name `state_dict` or
            `model`; a network that nsopt stored; or a file of safetensors. The prefixes of names
            that `torch.nn.DataParallel` and `torch.compile` write do not matter.

    Raises:
        NsoptError: if the file has no weights, or those of another network; the message names the
            first tensors that differ.
    """
    writer = "safetensors" if path.suffix == ".safetensors" else "torch.save"
    with explain_reading(path, writer):
        state = _find_state(read_weights(path))
    expected = arch.shapes(arch.base_widths).keys()
    if state.keys().isdisjoint(expected):
        state = {name.removeprefix(_PARALLEL): tensor for name, tensor in state.items()}
    differences = describe_differences(arch, arch.base_widths, state)
    if differences:
        if state.keys().isdisjoint(expected):
            differences += f"; the file's names are {shorten(list(state))}"
        raise NsoptError(
            f"{path} has the weights of another network than {arch.name} with {arch.num_classes} "
            f"outputs: {differences}"
        )
    return _build(arch, state, str(path))


def copy_traced(arch: Architecture) -> nn.Module:
    """Return the network that was traced, with its weights, in evaluation mode.

    Raises NsoptError if some are NaN or infinite.
    """
    check_finite(arch.template, arch.name)
    return _build(arch, arch.template.state_dict(), arch.name)


def _build(arch: Architecture, state: Mapping[str, Tensor], origin: str) -> nn.Module:
    model = build_to_fill(arch, arch.base_widths)
    for name, tensor in model.state_dict().items():
        given = state[name]
        if not isinstance(tensor, Tensor):  # a module may add anything
            continue
        if given.is_meta or (tensor.is_floating_point() and not given.is_floating_point()):
            kind = "no values" if given.is_meta else f"numbers of type {given.dtype}"
            raise NsoptError(
                f"{name} of {origin} has {kind}: give weights as the network computes with them"
            )
    model.load_state_dict(state)
    check_finite(model, origin)
    return model.eval()


@contextmanager
def explain_reading(path: Path | str, writer: str) -> Iterator[None]:
    """Turn any error while a file of weights is read into an NsoptError of one line."""
    try:
        yield
        return
    except NsoptError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.strerror}"
    except UnpicklingError:
        reason = f"{writer} did not write this file"
        with suppress(Exception):  # of a foreign file
            kinds = ", ".join(sorted(get_unsafe_globals_in_checkpoint(path))[:_MOST])
            reason = (
                f"it holds more than weights ({kinds}), such as a whole module; write it again "
                "with torch.save(model.state_dict(), path)"
            )
    except BadZipFile:
        reason = f"it is damaged, or {writer} did not write this file"
    except Exception as error:  # torch raises anything for a foreign file
        reason = f"{writer} did not write this file ({type(error).__name__})"
    raise NsoptError(f"cannot read weights from {path}: {reason}") from None


def _find_state(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors of a file, without what torch.compile adds to their names."""
    nested = (content[name] for name in _NESTED if isinstance(content.get(name), dict))
    found = {
        str(name).replace(_COMPILED, ""): value
        for name, value in next(nested, content).items()
        if isinstance(value, Tensor)
    }
    if not found:
        raise NsoptError(
            f"it has no named tensors, alone or as 'state_dict' or 'model': its keys are "
            f"{shorten(list(content))}; write it again with torch.save(model.state_dict(), path)"
        )
    return found


def describe_differences(
    arch: Architecture, widths: tuple[int, ...], state: Mapping[str, Tensor]
) -> str:
    """Name the first tensors whose shapes differ from those of a network, which is not built.

    Returns:
        An empty string if the state fits a network of these widths.
    """
    expected, shapes = arch.shapes(widths), shapes_of(state)
    names = [*expected, *(name for name in shapes if name not in expected)]
    differing = [name for name in names if expected.get(name) != shapes.get(name)]
    parts = [
        f"{name} is {_format_shape(shapes.get(name))} there and "
        f"{_format_shape(expected.get(name))} here"
        for name in differing[:_MOST]
    ]
    rest = len(differing) - _MOST
    return "; ".join([*parts, *([f"{rest} more differ"] if rest > 0 else [])])


def _format_shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"


def read_weights(path: Path) -> dict[str, Any]:
    """Read a dict that `torch.save` or safetensors wrote, with its tensors on the CPU.

    Raises:
        NsoptError: for a missing file, or content that is not a dict.
        Exception: OSError or one of torch's errors, for any other invalid file.
    """
    require_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if is_zipfile(path):
        with ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch.load does not compare checksums
                raise BadZipFile
    content = torch.load(path, "cpu", weights_only=True)
    if not isinstance(content, dict):
        raise NsoptError("it contains no named tensors")
    return content


def require_file(path: Path) -> None:
    """Raise NsoptError if there is no such file."""
    if not path.is_file():
        raise NsoptError("it is a folder" if path.is_dir() else "the file does not exist")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file  # noqa: PLC0415
    except ImportError:
        raise NsoptError("it needs a package: pip install safetensors") from None
    return dict(load_file(path))


def write_weights(path: Path, content: Mapping[str, Any]) -> None:
    """Write a dict with `torch.save`; after a crash or an error an old file is still there."""
    write_whole(path, serialise(content))


def serialise(content: Mapping[str, Any]) -> bytes:
    """Return the file that `torch.save` writes."""
    file = io.BytesIO()
    torch.save(dict(content), file)
    return file.getvalue()


@dataclass(frozen=True, eq=False)
class KeptNetwork:
    """A trained network with everything needed to use it.

    Attributes:
        arch: name of the architecture, as `nsopt.get_architecture` takes it.
        widths: L integers.
        input_shape: (C, H, W); empty for a task that is not of images, as are the next three.
        mean: per channel, of pixels from 0 to 1, as `torchvision.transforms.Normalize` takes it.
        std: standard deviation, in the same way.
        classes: names, in the order of the outputs.
        method: of the trial that trained the network, as are metric, budget, ratio and seed.
        score: of the validation, at the epoch that was kept.
        test_score: of the test, likewise; None for a task without a test.
        model: the network; what `load_network` returns is in evaluation mode on the CPU.
    """

    arch: str
    widths: tuple[int, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    method: str
    metric: str
    budget: int | float
    ratio: float | None
    seed: int
    score: float
    test_score: float | None
    model: InstanceOf[nn.Module] = field(repr=False)

    @classmethod
    def of(
        cls,
        arch: str,
        point: Point,
        outcome: Outcome,
        splits: Splits | None = None,
        classes: tuple[str, ...] = (),
    ) -> Self:
        """Make it from the outcome of training `point`, with the name of a network.

        Args:
            splits: the images; None for other tasks.
            classes: names of their classes.
        """
        mean, std = ((), ()) if splits is None else splits.normalisation
        return cls(
            arch=arch,
            widths=outcome.widths,
            input_shape=() if splits is None else splits.train.shape,
            mean=mean,
            std=std,
            classes=classes,
            **point.attributes,
            score=outcome.score,
            test_score=outcome.test_score,
            model=outcome.model,
        )

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy (%) of a classifier of images."""
        return self.score

    @property
    def test_accuracy(self) -> float:
        """Test accuracy (%) of a classifier of images. Raises NsoptError without a test."""
        if self.test_score is None:
            raise NsoptError("the task of this network has no test: use .score")
        return self.test_score

    @property
    def facts(self) -> dict[str, Any]:
        """Everything except the weights, JSON-safe."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def content(self) -> dict[str, Any]:
        """Content of its file: facts, state, and the buffers that the state leaves out."""
        parts = {"state": dict(self.model.state_dict()), "buffers": hidden_buffers(self.model)}
        # cloned: read_weights refuses shared tensors
        cloned: dict[str, Any] = tree_map_only(Tensor, lambda tensor: tensor.cpu().clone(), parts)
        return self.facts | cloned

    def save(self, path: Path) -> None:
        """Write a file that `load_network` reads."""
        torch.save(self.content, path)


_KEPT = TypeAdapter(KeptNetwork)


@public
def load_network(path: Path | str, arch: str | Architecture | None = None) -> KeptNetwork:
    """Load a network that a study stored, or that `nsopt.export` wrote with `format="state_dict"`.

    No code in the file is executed.

    Args:
        path: of the file.
        arch: the architecture; needed for a network that you traced, `nsopt.trace(model, inputs)`.
            For `package.module:factory`, whose code builds the network, its name is enough.

    Returns:
        The network with its classes, normalisation, widths and accuracies.

    Raises:
        NsoptError: if the file contains no such network, or one of another architecture.

    Examples:
        >>> network = nsopt.load_network("small.pt")
        >>> network.model, network.widths, network.test_accuracy
    """
    with explain_reading(path, "nsopt"):
        content = read_weights(Path(path))
        state, rest = content.pop("state"), content.pop("buffers")
        kept = _KEPT.validate_python(content | {"model": nn.Identity()})
        for family in _list_families(kept, arch):  # before it is built
            if max(kept.widths) > LARGEST_WIDTH:
                raise NsoptError(f"a width of {max(kept.widths)} is above {LARGEST_WIDTH}")
            if differences := describe_differences(family, kept.widths, state):
                raise NsoptError(f"its tensors are not those of the stored widths: {differences}")
        model = build_to_fill(family, kept.widths)
        load_full_state(model, state | {name: rest[name] for name in hidden_buffers(model)})
        return replace(kept, model=model.eval())


def _list_families(kept: KeptNetwork, arch: str | Architecture | None) -> Iterable[Architecture]:
    """Return architectures whose shapes a network must have; the last one builds it."""
    if isinstance(arch, nn.Module):
        raise NsoptError("arch is a network: give arch=nsopt.trace(model, inputs)")
    if arch is not None and not isinstance(arch, str):
        return [arch]
    if not kept.input_shape:
        raise NsoptError(
            f"{kept.arch} takes no images: give arch=nsopt.trace(model, inputs) to load it"
        )
    channels, image_size, _ = kept.input_shape
    return stored_architectures(kept.arch, arch, len(kept.classes), image_size, channels)


@public
def load_weights(path: Path | str, arch: str | Architecture | None = None) -> nn.Module:
    """Load only the module of `load_network`, in evaluation mode.

    It takes normalised images; `load_network` has their mean and standard deviation.

    Args:
        path: of the file.
        arch: see `load_network`.

    Raises:
        NsoptError: see `load_network`.

    Examples:
        >>> model = nsopt.load_weights("small.pt")
    """
    return load_network(path, arch).model
