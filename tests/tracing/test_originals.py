"""A smaller network computes with no tensor of the network that was copied, or is refused."""

# ruff: noqa: PLW0108  (lambdas are what is tested)

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import nsopt
from nsopt.errors import NsoptError
from nsopt.tracing.originals import copy_model
from tests.networks import layers

Way = Callable[[Any], None]  # lets a layer hold itself, or its forward
X = torch.randn(4, 6)
_global: Any = None


def bound_method(part: Any) -> None:
    part.forward = part.forward


def method_of_a_closure(part: Any) -> None:
    old = part.forward
    part.forward = types.MethodType(lambda self, x: old(x), part)


def closure_over_the_module(part: Any) -> None:
    part.forward = lambda x: nn.functional.linear(x, part.weight, part.bias)


def partial_as_in_launchers(part: Any) -> None:
    def forward(module: Any, x: Tensor) -> Any:
        return module.old_forward(x)

    part.old_forward = part.forward
    made = functools.partial(forward, part)
    part.forward = functools.update_wrapper(made, part.old_forward)


def partial_of_a_closure(part: Any) -> None:
    old = part.forward
    part.forward = functools.partial(lambda scale, x: scale * old(x), 1.0)


def partial_with_a_keyword(part: Any) -> None:
    part.forward = functools.partial(lambda x, old: old(x), old=part.forward)


def default_argument(part: Any) -> None:
    part.forward = lambda x, old=part.forward: old(x)


def pre_hook(part: Any) -> None:
    weight = part.weight
    part.register_forward_pre_hook(lambda module, given: (given[0] + 0 * weight.sum(),))


def hook_that_replaces_the_output(part: Any) -> None:
    def hook(module: Any, given: Any, made: Tensor) -> Tensor:
        return nn.functional.linear(given[0], part.weight, part.bias)

    part.register_forward_hook(hook)


def closure_over_a_list(part: Any) -> None:
    parts = [part.forward]
    part.forward = lambda x: parts[0](x)


def weak_reference(part: Any) -> None:
    link, forward = weakref.ref(part), type(part).forward
    part.forward = lambda x: forward(link(), x)


def cached_function(part: Any) -> None:
    @functools.lru_cache
    def find() -> Any:
        return part.weight

    part.forward = lambda x: nn.functional.linear(x, find(), part.bias)


def callable_object(part: Any) -> None:
    class Call:
        def __init__(self) -> None:
            self.part, self.forward = part, type(part).forward

        def __call__(self, x: Tensor) -> Any:
            return self.forward(self.part, x)

    part.forward = Call()


def callable_object_of_a_closure(part: Any) -> None:
    class Call:
        old: Any

        def __call__(self, x: Tensor) -> Any:
            return self.old(x)

    old, part.forward = part.forward, Call()
    part.forward.old = lambda x: old(x)


def class_around_a_module(part: Any) -> None:
    old = part.forward

    class Wrapped(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return old(x)

    part.__class__ = Wrapped


def functions_in_a_list(part: Any) -> None:
    old = part.forward
    part.steps = [lambda x: x, lambda x: old(x)]
    part.forward = lambda x: part.steps[1](part.steps[0](x))


def global_variable(part: Any) -> None:
    global _global  # noqa: PLW0603
    _global = part.forward
    part.forward = lambda x: _global(x)


def detached_alias(part: Any) -> None:
    values = {"weight": part.weight.detach().T}
    part.forward = lambda x: x @ values["weight"] + part.bias


def view_of_all_weights(part: Any) -> None:
    flat = torch.cat([part.weight.detach().flatten(), part.bias.detach()])
    count = part.weight.numel()
    part.weight.data, part.bias.data = flat[:count].view_as(part.weight), flat[count:]
    part.forward = lambda x: nn.functional.linear(x, flat[:count].view(-1, x.shape[1]), part.bias)


RIGHT: list[Way] = [
    *(bound_method, method_of_a_closure, closure_over_the_module),
    *(partial_as_in_launchers, partial_of_a_closure, partial_with_a_keyword, default_argument),
    *(pre_hook, hook_that_replaces_the_output, callable_object, global_variable),
]
REFUSED: list[Way] = [
    *(closure_over_a_list, weak_reference, cached_function, callable_object_of_a_closure),
    *(class_around_a_module, functions_in_a_list, detached_alias),
    *(view_of_all_weights,),
]


def make() -> nn.Sequential:
    layers = nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("way", RIGHT)
def test_a_copy_computes_as_before_after_the_weights_of_the_network_are_zero(way: Way) -> None:
    way((model := make())[2])
    wanted = model(X).detach()
    arch = nsopt.trace(model, X)
    whole, smaller = (arch.prune(model, kept) for kept in ([range(12), range(10)], [[0, 5], [4]]))
    with torch.no_grad():
        first, second, third = cast("list[nn.Linear]", [model[i] for i in (0, 2, 4)])
        hidden = (X @ first.weight[[0, 5]].T + first.bias[[0, 5]]).relu()
        hidden = (hidden @ second.weight[[4]][:, [0, 5]].T + second.bias[[4]]).relu()
        of_some = hidden @ third.weight[:, [4]].T + third.bias
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(whole(X), wanted)
    torch.testing.assert_close(smaller(X), of_some)


@pytest.mark.parametrize("way", REFUSED)
def test_a_copy_that_would_compute_with_weights_of_the_network_is_refused(way: Way) -> None:
    way((model := make())[2])
    message = "would compute with 2.(weight|bias) of the network"
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(model, X)
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(copy_model(model), X)
    with pytest.raises(NsoptError, match=message):
        nsopt.trace(make(), X).prune(model, [range(6), range(5)])


@layers(hidden=[nn.Linear(6, 6)], a=nn.Linear(6, 8), b=nn.Linear(8, 3))
def Hiding(self: Any, x: Tensor) -> Any:
    return self.b(self.a(self.hidden[0](x)).relu())


def test_a_network_that_hides_a_frozen_one_in_a_list_is_traced() -> None:
    assert nsopt.trace(Hiding(), X).base_widths == (8,)
