"""Checks that every traced network must pass."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

import nsopt
from nsopt import Architecture, trace
from nsopt.errors import NoWidthsError
from nsopt.models.imported import network_factory
from nsopt.models.onnx import export_to_onnx
from nsopt.tracing.labels import Atoms
from nsopt.tracing.originals import copy_model, tensors_of
from tests.forked import Forked

Inputs = Tensor | tuple[Tensor, ...]
SEARCH = nsopt.SearchSettings(
    pretrain_epochs=1,
    prune_every=1,
    filters_per_step=0.35,
    iterations=2,
    small_width=0,
    lr=1e-3,
    prune_lr=1e-3,
    device="cpu",
    precision="fp32",
)


def flatten_outputs(result: Any) -> Tensor:
    """Return all outputs in one vector."""
    return torch.cat([leaf.flatten() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])


def compute_outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the outputs of `model` in one vector."""
    return flatten_outputs(model(*inputs) if isinstance(inputs, tuple) else model(inputs))


def convert(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Any:
    """Return inputs after a change of the floating-point ones; the others are indices."""
    return tree_map_only(Tensor, lambda t: change(t) if t.is_floating_point() else t, inputs)


def randomise(model: nn.Module) -> None:
    """Make every channel different, so that confusing two shows.

    Buffers outside the state stay: they are constants that every new network computes itself.
    """
    generator, state = torch.Generator().manual_seed(0), model.state_dict().keys()
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            if name not in state or not tensor.is_floating_point() or tensor.numel() < 2:
                continue
            alike = bool((tensor == tensor.flatten()[0]).all())
            if tensor.numel() != max(tensor.shape) and not alike:
                continue
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise)
            else:
                tensor.add_(noise - 0.5)


def describe_state(value: Any, seen: dict[int, int] | None = None) -> Any:
    """Return all that a module holds, to the byte, with the identities of its objects."""
    seen = {} if seen is None else seen
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        grad = value.grad if value.is_leaf else None
        return id(value), type(value), data.numpy().tobytes(), value.requires_grad, grad
    if id(value) in seen or isinstance(value, type | Enum):
        return id(value)
    seen[id(value)] = len(seen)
    parts: list[Any] = [id(value), type(value)]
    if isinstance(value, dict):
        parts += [(key, describe_state(each, seen)) for key, each in dict.items(value)]
    elif isinstance(value, list | tuple | deque):
        parts += [describe_state(each, seen) for each in value]
    elif isinstance(value, set | int | float | str):
        parts.append(repr(value))
    if isinstance(value, nn.Module) or not type(value).__module__.startswith(("torch", "builtins")):
        parts.append(describe_state(getattr(value, "__dict__", None), seen))
    return parts


def trace_unchanged(model: nn.Module, x: Any, **options: Any) -> Architecture:
    """Trace a module, which must stay as it is, to the byte."""
    before = describe_state(model)
    arch = trace(model, x, **options)
    assert describe_state(model) == before
    return arch


def choose_units(arch: Architecture, seed: int, inexact: bool) -> list[Atoms]:
    """Choose some units of every group; all units of groups where removing differs from zeroing."""
    generator = np.random.default_rng(seed)
    kept = []
    for group in arch.network.family.groups:
        count = len(group.units)
        left = max(1, int(count * generator.uniform(0.3, 0.9)))
        all_stay = group.rigid or not (group.exact or inexact)
        some = np.sort(generator.choice(count, left, replace=False))
        kept.append(np.arange(count) if all_stay else some)
    return kept


def count_units(arch: Architecture, kept: Sequence[Atoms]) -> list[int]:
    groups = arch.network.family.groups
    return [g.width if g.rigid else len(k) for g, k in zip(groups, kept, strict=True)]


def with_zeros(arch: Architecture, model: nn.Module, kept: Sequence[Atoms]) -> nn.Module:
    """Return a copy of `model` in which all values of the removed units are zero."""
    masked, family = copy_model(model), arch.network.family
    alive, tensors = family.find_alive(list(kept)), tensors_of(masked)
    with torch.no_grad():
        for dimension in family.dimensions:
            dead = ~alive[family.units.of_atom[dimension.atoms]]
            if dead.any() and not dimension.tensor.endswith("running_var"):
                tensors[dimension.tensor].movedim(dimension.axis, 0)[torch.from_numpy(dead)] = 0
    return masked


def check_pruning(arch: Architecture, model: nn.Module, x: Inputs) -> None:
    """A pruned network computes what the masked one does, in float64, and can be trained."""
    kept = choose_units(arch, seed=0, inexact=False)
    smaller = arch.prune(model, [indices.tolist() for indices in kept])
    masked = with_zeros(arch, model, kept)
    with torch.no_grad():
        whole, expected, found = (
            compute_outputs(copy_model(network).double().eval(), convert(x, Tensor.double))
            for network in (model, masked, smaller)
        )
    assert float((whole - expected).abs().max()) > 1e-6 or keeps_all(arch, kept)
    assert float((found - expected).abs().max()) <= 1e-12 * max(1, float(expected.abs().max()))
    check_costs(arch, smaller, count_units(arch, kept), x)
    compute_outputs(smaller.train(), x).sum().backward()


def check_network_of(
    arch: Architecture, model: nn.Module, x: Inputs, widths: list[int], searches: bool
) -> None:
    """All checks but exports, for a network of these widths."""
    assert list(arch.base_widths) == widths
    check_costs(arch, model, arch.base_widths, x)
    check_building(arch, x)
    if searches:
        check_search(arch, x)
    randomise(model)
    check_pruning(arch, model, x)


def keeps_all(arch: Architecture, kept: Sequence[Atoms]) -> bool:
    return count_units(arch, kept) == list(arch.base_widths)


@contextmanager
def _unfused() -> Iterator[None]:
    """Without fused kernels of attention and of LSTM, whose products the counter does not know."""
    quiet, eager = warnings.catch_warnings(action="ignore"), sdpa_kernel(SDPBackend.MATH)
    with quiet, eager, torch.backends.mkldnn.flags(enabled=False):
        yield


def check_costs(arch: Architecture, model: nn.Module, widths: Sequence[int], x: Inputs) -> None:
    """Predicted parameters and multiply-accumulates equal those counted."""
    assert arch.cost("params")(widths) == sum(p.numel() for p in model.parameters())
    model.eval()
    bilinear = {torch.ops.aten._trilinear: lambda x, w, *_, **__: 2 * x[0] * math.prod(w)}
    with FlopCounterMode(display=False, custom_mapping=bilinear) as counter, _unfused():
        compute_outputs(model, tree_map_only(Tensor, lambda t: t[:1], x))
    assert arch.cost("macs")(widths) == counter.get_total_flops() // 2


def check_building(arch: Architecture, x: Inputs) -> None:
    """Networks of other widths have the predicted costs, train, and load each other's states."""
    generator = np.random.default_rng(1)
    base = np.array(arch.base_widths)
    most = [
        b if name in arch.capped else b + max(1, b // 4)
        for name, b in zip(arch.layer_names, base, strict=True)
    ]
    for widths in (
        np.maximum(arch.narrowest, base // 4),
        np.minimum(
            most,
            np.maximum(
                arch.narrowest, (base * generator.uniform(0.2, 1.25, len(base))).astype(int)
            ),
        ),
        np.array(most),
    ):
        model = arch.build(widths.tolist())
        check_costs(arch, model, widths.tolist(), x)
        assert all(bool(p.isfinite().all()) for p in model.parameters())
    compute_outputs(model.train(), x).sum().backward()
    again = arch.build(most)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        found, expected = (compute_outputs(each.eval(), x) for each in (again, model))
        torch.testing.assert_close(found, expected)


def check_search(arch: Architecture, x: Inputs) -> None:
    """A search gives a law, also in an iteration from narrow widths; its networks can be trained.

    After few batches a law may be too flat for smaller sizes, and raises NoWidthsError.
    """
    batches = [(convert(x, torch.rand_like), torch.zeros(1))] * 2
    result = nsopt.search(arch, nsopt.Task(batches, distance_from_one), SEARCH)
    assert len(result.iterations) == 2
    cost = arch.cost("params")
    for part in (4, 2, 1):
        budget = cost(np.maximum(arch.narrowest, np.array(arch.base_widths) // part))
        try:
            fit = nsopt.solve_widths(result.law, cost, budget, warn=False)
        except NoWidthsError:
            assert part > 1
            continue
        model = arch.build(fit.widths.tolist())
        assert sum(p.numel() for p in model.parameters()) == fit.cost
        compute_outputs(model.train(), x).sum().backward()


def distance_from_one(outputs_: Any, target: Tensor) -> Tensor:
    return (flatten_outputs(outputs_) - 1 - target).square().mean()


def check_exports(arch: Architecture, model: nn.Module, x: Tensor, folder: Path) -> None:
    """A pruned network is exported, by PyTorch and to ONNX, to the same numbers."""
    kept = choose_units(arch, seed=2, inexact=True)
    smaller = arch.prune(model, [indices.tolist() for indices in kept]).eval()
    file = folder / "network.onnx"
    export_to_onnx(smaller, [x], {}, file)
    with torch.no_grad():
        expected = flatten_outputs(smaller(x))
        exported = torch.export.export(smaller, (x,)).module()
        torch.testing.assert_close(flatten_outputs(exported(x)), expected)
    session = InferenceSession(file)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    furthest = 1e-3 * float(expected.abs().max())
    torch.testing.assert_close(
        flatten_outputs([torch.from_numpy(array) for array in found]),
        expected,
        rtol=0,
        atol=furthest,
    )


def reload_networks(requests: Connection) -> None:
    """Build networks by name, load their states, and answer if they compute the same."""
    torch.set_num_threads(1)
    with suppress(EOFError):
        while True:
            word, size, file = requests.recv()
            kept = torch.load(file, weights_only=True)
            model = nsopt.get_architecture(word, 10, size).build(kept["widths"])
            model.load_state_dict(kept["state"])
            with torch.no_grad():
                torch.testing.assert_close(flatten_outputs(model.eval()(kept["x"])), kept["y"])
            requests.send("equal")


class OtherProcess:
    """A process that builds networks by name and loads their states."""

    def __init__(self) -> None:
        self._requests, its_end = Pipe()
        self._process = Forked(reload_networks, its_end)
        its_end.close()

    def check_reload(self, arch: Architecture, x: Tensor, folder: Path) -> None:
        """There, a network of the same name, widths and state computes the same."""
        widths = np.maximum(arch.narrowest, np.array(arch.base_widths) // 3).tolist()
        model = arch.build(widths).eval()
        with torch.no_grad():
            y = flatten_outputs(model(x))
        file = folder / "state.pt"
        torch.save({"widths": widths, "state": model.state_dict(), "x": x, "y": y}, file)
        self._requests.send((arch.name, x.shape[-1], file))
        try:
            assert self._requests.recv() == "equal"
        except EOFError:
            pytest.fail(self._process.written()[1])

    def end(self) -> None:
        self._requests.close()
        self._process.finish()


def skip_without_timm() -> None:
    """Skip a test if timm is missing. Only nsopt imports it: torchvision must come before it."""
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")


def selected_first(in_suite: Iterable[str], others: Iterable[str]) -> list[Any]:
    """Return names for `parametrize`; the others are run by `-m networks`."""
    return [*in_suite, *(pytest.param(word, marks=pytest.mark.networks) for word in others)]


def trace_network(word: str, size: int) -> tuple[Architecture, nn.Module, Tensor]:
    """Return a traced network by name, its module, and two images."""
    torch.manual_seed(0)
    model, x = network_factory(word)(10), torch.randn(2, 3, size, size)
    return trace_unchanged(model, x, name=word), model, x


def check_network(
    word: str, size: int, widths: int, refused: int, other: OtherProcess, folder: Path
) -> None:
    """All checks but searches and exports, for a network by name."""
    arch, model, x = trace_network(word, size)
    assert (len(arch.base_widths), len(arch.refused)) == (widths, refused)
    check_building(arch, x)
    randomise(model)
    check_pruning(arch, model, x)
    other.check_reload(arch, x, folder)
