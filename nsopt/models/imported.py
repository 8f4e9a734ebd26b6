"""Import networks by name: `torchvision:NAME`, `timm:NAME`, or `package.module:factory`."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError, unknown_name
from nsopt.models.architecture import Architecture
from nsopt.models.trace import trace
from nsopt.torchvision_import import import_torchvision
from nsopt.tracing.labels import TraceError

_MUCH_BYTES = 2**28
_SEED = 0  # of the template, whose weights have the spread that new networks get


def import_architecture(
    name: str, num_classes: int, image_size: int, in_channels: int
) -> Architecture:
    """Import and trace a network for images of this shape; raises NsoptError if that fails.

    A factory gets `num_classes` if it has a parameter of this name.
    """
    return _trace(name, _make_module(name, num_classes, nullcontext()), image_size, in_channels)


def import_for_inputs(name: str, example: Any) -> Architecture:
    """Import a user's network, `package.module:factory`, and trace it on inputs of a task.

    Raises NsoptError if it cannot be traced.
    """
    try:
        return trace(_make_module(name, 0, nullcontext()), example, name)
    except TraceError as error:
        raise NsoptError(f"{name} cannot be traced on the inputs of the task: {error}") from None


def import_large_shapes(
    name: str, num_classes: int, image_size: int, in_channels: int
) -> Architecture | None:
    """Import and trace a large network on the meta device, which needs no memory.

    None if it has at most a quarter of a gigabyte, or needs values to be traced.
    """
    try:
        module = _make_module(name, num_classes, torch.device("meta"))
        tensors: Iterable[Tensor] = module.state_dict().values()
        if sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= _MUCH_BYTES:
            return None
        return _trace(name, module, image_size, in_channels)
    except (NotImplementedError, NsoptError, RuntimeError):  # the network needs values
        return None


def _make_module(name: str, num_classes: int, device: AbstractContextManager[object]) -> nn.Module:
    factory = network_factory(name)
    with torch.random.fork_rng(devices=[]), device:
        torch.default_generator.manual_seed(_SEED)
        return factory(num_classes)


def _trace(name: str, module: nn.Module, image_size: int, in_channels: int) -> Architecture:
    example = torch.empty(2, in_channels, image_size, image_size)  # its values do not matter
    try:
        return trace(module, example, name)
    except TraceError as error:
        shape = f"{in_channels}x{image_size}x{image_size}"
        cure = "; images of files are read as RGB" if "channels" in str(error) else ""
        raise NsoptError(f"{name} cannot be traced on images of {shape}: {error}{cure}") from None


def network_factory(name: str) -> Callable[[int], nn.Module]:
    """Return a function that makes the network for a number of classes.

    Raises:
        NsoptError: if the network does not exist or cannot be imported.
    """
    package, _, word = name.partition(":")
    if package == "torchvision":
        return _find_in_torchvision(word)
    if package == "timm":
        return _find_in_timm(word)
    function = import_function(name)
    takes_classes = _takes_classes(function)

    def make(num_classes: int) -> nn.Module:
        classes = {"num_classes": num_classes} if takes_classes else {}
        cure = "name a function that returns one without arguments, or for num_classes"
        made = _call(partial(function, **classes), name, cure)
        if not isinstance(made, nn.Module):
            raise NsoptError(f"{name} makes a {type(made).__name__}, not a torch.nn.Module")
        return made

    return make


def import_function(name: str) -> Callable[..., Any]:
    """Import a user's function, `package.module:function`. Raises NsoptError if there is none.

    The name must come from the user of this command, never from a storage: importing runs code.
    """
    package, _, word = name.partition(":")
    if not (package and word) or "/" in package:
        raise NsoptError(f"{name!r} is not a function: write package.module:function")
    try:
        function: Callable[..., Any] = getattr(import_module(package), word)
    except (Exception, SystemExit) as error:  # the module may raise anything
        raise NsoptError(f"cannot import the function {name!r}: {_describe(error)}") from error
    if not callable(function):
        kind = type(function).__name__
        raise NsoptError(f"{name} is not a function: it is of type {kind}; name a function")
    return function


def _describe(error: BaseException) -> str:
    """Return type, text and line of an error on one line."""
    if isinstance(error, SyntaxError):
        line = f" ({Path(error.filename or '').name}, line {error.lineno})"
        return f"{type(error).__name__}: {error.msg}{line}"
    frame = extract_tb(error.__traceback__)[-1]
    file = Path(frame.filename)
    is_own = file.suffix == ".py" and "importlib" not in frame.filename and file != Path(__file__)
    line = f" ({file.name}, line {frame.lineno})" if is_own else ""
    kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}{line}"


def _takes_classes(function: Callable[..., Any]) -> bool:
    try:
        return "num_classes" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions written in C have no signature
        return False


def _find_in_torchvision(word: str) -> Callable[[int], nn.Module]:
    models = import_torchvision("models")
    if word not in models.list_models():
        raise unknown_name("network of torchvision", word, models.list_models())
    known = inspect.signature(models.get_model_builder(word)).parameters
    options: dict[str, Any] = {"weights_backbone": None} if "weights_backbone" in known else {}
    options |= {"init_weights": True} if word in ("googlenet", "inception_v3") else {}
    make = partial(models.get_model, word, weights=None, **options)
    return lambda classes: _call(partial(make, num_classes=classes), f"torchvision:{word}")


def _find_in_timm(word: str) -> Callable[[int], nn.Module]:
    import_torchvision("ops")  # timm imports it
    try:
        timm: Any = import_module("timm")
    except ImportError:
        raise NsoptError("timm is not installed: pip install timm") from None
    if word not in timm.list_models():
        raise unknown_name("network of timm", word, timm.list_models())
    make = partial(timm.create_model, word)
    return lambda classes: _call(partial(make, num_classes=classes), f"timm:{word}")


def _call(make: Callable[[], Any], name: str, cure: str = "name another") -> Any:
    """Return the result of a function, or raise an NsoptError of one line with its error."""
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise NsoptError(f"{name} makes no network ({_describe(error)}): {cure}") from error
