"""Small networks written as their layers and the code of `forward`."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from torch import nn

from nsopt.deployment.kept import KeptNetwork

_parts: dict[type[nn.Module], dict[str, Any]] = {}


def layers(**parts: Any) -> Callable[[Any], Any]:
    """Decorate `forward`: it becomes a class of networks, of which each has its copy of `parts`.

    More parts may follow in a decorator below. Arguments of the class replace the first ones.
    Each network draws its weights anew, so that they depend on the seed of the test.
    """

    def make(code: Any) -> Any:
        name, forward = code.__name__, getattr(code, "forward", code)
        forward.__name__, forward.__qualname__ = "forward", f"{name}.forward"  # as in errors
        all_parts = parts | _parts.get(code, {})

        def __init__(self: nn.Module, *first: Any, **named: Any) -> None:  # noqa: N807
            nn.Module.__init__(self)
            given = dict(zip(all_parts, first, strict=False)) | named
            for name, part in all_parts.items():
                setattr(self, name, given[name] if name in given else _draw_again(part))

        members = {"__init__": __init__, "forward": forward, "__module__": code.__module__}
        made = type(name, (nn.Module,), members)
        _parts[made] = all_parts
        return made

    return make


def _draw_again(part: Any) -> Any:
    copy = deepcopy(part)
    modules: Any = copy.modules() if isinstance(copy, nn.Module) else ()
    for module in modules:
        if hasattr(module, "reset_parameters") and not hasattr(module, "parametrizations"):
            module.reset_parameters()
    return copy


def keep(model: nn.Module, widths: Sequence[int] = (16,)) -> KeptNetwork:
    """Return a network to export, of which only these two matter."""
    facts = "net", tuple(widths), (), (), (), (), "scored", "params", 1.0, None, 0, 1.0, None
    return KeptNetwork(*facts, model)
