"""Whatever happens inside a trace, the user's module is as before, byte for byte."""

import copy
import gc
import logging
import random
import time
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from functools import cached_property, lru_cache
from threading import Lock
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nsopt
from nsopt.errors import NsoptError
from nsopt.models import trace as module
from nsopt.torchvision_import import import_torchvision
from nsopt.tracing.labels import TraceError
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.run import LabelledRun, silence_fakes
from nsopt.tracing.states import spare_collector, watch_attributes
from tests.networks import layers
from tests.tracing import awkward, parts
from tests.tracing.checks import describe_state
from tests.tracing.test_fields import NETWORKS
from tests.tracing.test_parts import GROUPS as PARTS

IMAGES = torch.randn(2, 3, 32, 32)
SMALL: dict[Any, Any] = {
    **dict.fromkeys((*PARTS, parts.OneValue, awkward.Norms, awkward.Deciding), IMAGES),
    **{kind: inputs for kind, (inputs, _) in NETWORKS.items()},
}


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_error_in_the_middle_of_forward_leaves_a_module_as_it_was(kind: Any) -> None:
    model, inputs = kind(), SMALL[kind]
    leaves = [module for module in model.modules() if not list(module.children())]
    model.config = {"kept": [1, {"deep": [2]}]}

    def fail(*_: Any) -> None:
        model.config["kept"][1]["deep"].append(torch.zeros(3))
        leaves[0].training = "broken"
        raise KeyError("in the middle")

    for leaf in leaves[len(leaves) // 2 :]:
        leaf.register_forward_hook(fail)
    before = describe_state(model)
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    with pytest.raises(TraceError):
        TracedNetwork.of(model, LabelledRun(arguments))
    assert describe_state(model) == before


class Frozen(dict[str, Any]):
    """A configuration that cannot change."""

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError("this configuration cannot change")

    __setitem__ = clear = pop = setdefault = __delitem__ = update


class Logged(dict[str, Any]):
    """Writes down all changes."""

    def __init__(self) -> None:
        super().__init__(scale=2.0)
        self.log: list[str] = []

    def __setitem__(self, key: str, value: Any) -> None:
        self.log.append(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.log.append(f"no {key}")
        super().__delitem__(key)


class LoggedList(list[Any]):
    log = 0

    def append(self, value: Any) -> None:
        self.log += 1
        super().append(value)


class Object:
    """A cache with a lock, of which no copy can be made."""

    def __init__(self) -> None:
        self.items, self.lock = [1], Lock()


class Slots:
    __slots__ = ("value",)


class Node:
    """A part of a configuration, whose copies hold a copy of the whole, as in OmegaConf."""

    def __init__(self, parent: Any, depth: int) -> None:
        self.parent, self.parts = parent, {}
        self.parts = {k: Node(self, depth - 1) for k in "abcde"[: 5 * min(depth, 1)]}

    def __copy__(self) -> "Node":
        return copy.deepcopy(self)


STORES: dict[str, Any] = {
    "frozen": Frozen(scale=2.0),
    "logged": Logged(),
    "ordered": OrderedDict(b=1, a=2),
    "default": defaultdict(list, scale=[2.0]),
    "counter": Counter("abca"),
    "user": UserDict(scale=2.0),
    "list": LoggedList([1, [2]]),
    "deque": deque([1, 2], maxlen=2),
    "nested": {"a": [{"b": {1, 2}}], "c": (1, [2])},
    "object": Object(),
    "namespace": SimpleNamespace(items=[1]),
    "proxy": MappingProxyType({"a": 1}),
    "slots": Slots(),
    "array": np.arange(3.0),
    "hidden": [nn.BatchNorm2d(4)],
    "whole": Node(None, 2),
    "generator": (n for n in range(3)),
    "attached": {"maps": [nn.Linear(2, 2)(torch.zeros(1, 2))]},
}


@layers(store=None, a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(16, 4, 3))
def Storing(self: Any, x: Tensor) -> Any:
    """Changes everything that it stores."""
    y = torch.relu(self.a(x))
    store: Any = self.store
    self.a.weight.requires_grad_(False)
    self.steps = random.random() + np.random.rand()
    if isinstance(store, dict | UserDict) and not isinstance(store, Frozen):
        store["map"], store["scale"] = y, [store.pop("scale", None)]
    elif isinstance(store, list) and isinstance(store[0], nn.Module):
        store[0].seen = y
        store[0].eval()
    elif isinstance(store, list | deque):
        store.append(y)
    elif isinstance(store, Object | SimpleNamespace):
        store.items.append(y)
        store.seen = y
    return self.b(y)


@pytest.mark.parametrize("name", STORES)
def test_a_trace_leaves_whatever_a_module_stores(name: str) -> None:
    model = Storing(STORES[name])
    random.seed(1)
    np.random.seed(1)
    before = describe_state(model)
    drawn = random.getstate(), str(np.random.get_state())
    assert nsopt.trace(model, IMAGES).base_widths == (16,)
    assert describe_state(model) == before
    assert (random.getstate(), str(np.random.get_state())) == drawn


def test_a_network_that_stores_a_lock_or_a_refusing_dictionary_can_be_built_and_pruned() -> None:
    for store in (Frozen(scale=2.0), Object(), STORES["generator"]):
        model = Storing(store)
        arch = nsopt.trace(model, IMAGES)
        assert arch.prune(model, [range(3)])(IMAGES).shape == (2, 4, 28, 28)
        assert arch.build([5])(IMAGES).shape == (2, 4, 28, 28)
    assert model.store is not None


class Hooked(nn.Module):
    """A hook that keeps a map, and a `forward` of the instance; both refer to the module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.kept = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3), dict[str, Tensor]()
        self.a.register_forward_hook(lambda module, given, made: self.kept.update(a=made))
        look = self.look
        self.forward = lambda x: self.b(look(x))

    def look(self, x: Tensor) -> Tensor:
        self.a(x)
        return self.kept["a"].relu()


def test_hooks_of_a_smaller_network_belong_to_it() -> None:
    model = Hooked()
    model(IMAGES)
    before = describe_state(model)
    arch = nsopt.trace(model, IMAGES)
    smaller = arch.prune(model, [range(3)])
    assert describe_state(model) == before
    smaller(IMAGES)
    assert describe_state(model) == before
    kept: Any = smaller.kept
    assert kept["a"].shape[1] == 3


_tables: dict[int, Tensor] = {}


@lru_cache
def make_table(steps: int) -> Tensor:
    return torch.linspace(1, 2, steps)


def look_up(steps: int) -> Tensor:
    return _tables.setdefault(steps, torch.linspace(1, 2, steps))


def look_up_pair(steps: int) -> Tensor:
    pair = _tables.setdefault(-steps, torch.ones(2, steps)).unbind()
    return pair[0] * pair[1]


@layers(get=None, a=nn.Linear(8, 16), b=nn.Linear(16, 5))
def Remembering(self: Any, x: Tensor) -> Any:
    """Multiplies by a table that code keeps elsewhere."""
    y: Tensor = self.b(self.a(x).relu())
    return torch.cat([y * self.get(5), y], 1)


@pytest.mark.parametrize("get", [make_table, look_up, look_up_pair])
def test_a_network_whose_code_keeps_a_tensor_of_the_trace_is_refused(get: Any) -> None:
    with pytest.raises(NsoptError, match=r"^the network uses a tensor that code keeps outside its"):
        nsopt.trace(Remembering(get), torch.randn(2, 8))


def test_what_hooks_fill_is_as_before() -> None:
    model, outside = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 5)), dict[str, Any](kept=1)
    collected = SimpleNamespace(outputs=[], note=None, last=None)

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        collected.outputs.append(output)
        collected.last = output

    model[0].register_forward_hook(lambda module, inputs, output: outside.update(x=output))
    model[1].register_forward_hook(note)
    arch = nsopt.trace(model, torch.randn(2, 8))
    assert list(arch.base_widths) == [16]
    assert (outside, collected) == ({"kept": 1}, SimpleNamespace(outputs=[], note=None, last=None))


class Tapped(nn.Module):
    """Reads what a hook stores in a dictionary that the module holds, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(16, 12)
        self.taken = taken = dict[str, Tensor]()
        self.a.register_forward_hook(lambda module, inputs, output: taken.update(x=output))

    def forward(self, x: Tensor) -> Any:
        return self.b(self.a(x).relu()) + self.c(self.taken["x"])


def test_what_a_hook_stores_is_read_in_the_same_run() -> None:
    model = Tapped()
    for _ in range(2):
        arch = nsopt.trace(model, torch.randn(2, 8))
        assert arch.cost("macs")(arch.base_widths) == 8 * 16 + 2 * 16 * 12
        assert list(arch.base_widths) == [16]
        model(torch.randn(3, 8))


class Sized(nn.Module):
    steps = 3

    @cached_property
    def size(self) -> int:
        return 2 * self.dim

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


def test_attributes_that_code_reads_are_noted_and_classes_stay() -> None:
    model, other, before = nn.Sequential(Sized(8)), Sized(5), dict(vars(Sized))
    inner: Any = model[0]
    with watch_attributes(model, {"0": ["dim", "steps", "size"]}) as read:
        assert (other.dim, other.steps, other.size, read) == (5, 3, 10, {("0", "size")})
        assert (inner.dim, read) == (8, {("0", "dim"), ("0", "size")})
        inner.dim = 6
        with pytest.raises(AttributeError, match="width"):
            _ = inner.width
    assert (inner.dim, dict(vars(Sized))) == (6, before)


def test_the_garbage_collector_is_as_before_after_traces_that_overlap() -> None:
    before = gc.get_threshold()
    first, second = spare_collector(), spare_collector()
    first.__enter__()
    second.__enter__()
    assert gc.get_threshold()[2] > 10**9
    first.__exit__(None, None, None)
    assert gc.get_threshold()[2] > 10**9
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before


def test_threads_that_trace_at_once_leave_the_logger_as_it_was() -> None:
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    first, second = silence_fakes(), silence_fakes()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    silent = logger.filter(logging.makeLogRecord({}))
    second.__exit__(None, None, None)
    assert not silent
    assert logger.filter(logging.makeLogRecord({}))


@layers(first=nn.Linear(6, 8), second=nn.Identity())
def Making(self: Any, x: Tensor) -> Any:
    """Makes a layer when it first runs."""
    y = self.first(x)
    if isinstance(self.second, nn.Identity):
        self.second = nn.Sequential(nn.Linear(y.shape[1], 3))
    return self.second(y)


def test_a_layer_that_the_first_run_makes_is_one_line() -> None:
    model, x = Making(), torch.rand(2, 6)
    with pytest.raises(NsoptError, match=r"^forward makes the module second\.0: make it in __init"):
        nsopt.trace(model, x)
    model(x)
    assert nsopt.trace(model, x).base_widths == (8,)


def make_graphs() -> Any:
    """Return a network of a graph for each mode, as torchvision extracts features."""
    extraction = import_torchvision("models.feature_extraction")
    layers = nn.Conv2d(3, 12, 3), nn.Dropout(), nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)
    return extraction.create_feature_extractor(nn.Sequential(*layers), {"4": "out"})


@pytest.mark.parametrize("training", [False, True])
def test_a_network_of_a_graph_for_each_mode_keeps_its_mode(training: bool) -> None:
    model, x = make_graphs().train(training), torch.rand(2, 3, 12, 12)
    torch.manual_seed(0)
    wanted, code = model(x)["out"].detach(), model.code
    arch = nsopt.trace(model, x)
    assert arch.base_widths == (12, 8)
    pruned = arch.prune(model, [range(12), range(8)])
    for network in (model, pruned.train(training)):
        torch.manual_seed(0)
        torch.testing.assert_close(network(x)["out"], wanted)
        assert network.code == code


def test_what_takes_long_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_LONG", 0.01)
    with module.tell_when_long("nsopt does this"):
        time.sleep(0.2)
    assert "nsopt does this: 0 s so far, now in test_states.py, line " in capsys.readouterr().err
