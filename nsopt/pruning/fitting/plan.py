"""What a fit runs on, which products it fits, in which order, and from how many rows."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nsopt.compute.device import explain_out_of_memory
from nsopt.errors import NsoptError, short_reason
from nsopt.inputs import call_network, check_numbers, count_examples, tensors_in
from nsopt.models.networks import inputs_for
from nsopt.pruning.fitting.least_squares import most_rows, storage_of
from nsopt.pruning.fitting.products import Product, StateProduct, Units, find_kept
from nsopt.pruning.fitting.watch import Bounds, ProductCall, ProductWatch
from nsopt.tracing.originals import tensors_of

FEWEST, _MOST = 16, 1024  # examples
_PAIR = 2


class Inputs:
    """Batches of inputs, in memory, on the CPU: at most 1,024 examples, rounded up to a batch.

    Args:
        batches: a tensor of examples, or batches: tensors, tuples of arguments, dicts of keyword
            arguments, or pairs of one of these and targets, which are ignored.
        arguments: how many arguments the network takes; it distinguishes two arguments from a pair
            of an input and its target.
        batch_size: of batches, where `batches` is a tensor.

    Raises:
        NsoptError: for fewer than 16 examples, for objects that are not batches, and for numbers
            that are not finite.
    """

    def __init__(self, batches: Any, arguments: int = 1, batch_size: int = 32) -> None:
        if isinstance(batches, Tensor) and batches.ndim:
            batches = batches[:_MOST].split(batch_size)
        if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
            raise NsoptError("the inputs must be a tensor of examples, or a loader of batches")
        self.batches: list[Any] = []
        examples = 0
        for batch in batches:
            if examples >= _MOST:
                break
            read = _read(batch, arguments)
            check_numbers(tensors_in(read), f"batch {len(self.batches)} of the inputs")
            inputs = tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), read)
            _check(inputs, len(self.batches))
            self.batches.append(inputs)
            examples += count_examples(inputs)
        if examples < FEWEST:
            raise NsoptError(f"give at least {FEWEST} inputs, got {examples}")

    def __len__(self) -> int:
        return len(self.batches)

    def call(self, model: nn.Module, number: int) -> Callable[[], Any]:
        """Return a function that runs `model` on a batch, on the device of its weights.

        The function raises NsoptError if the network does not run.
        """
        device = next(model.parameters()).device

        def run() -> Any:
            inputs = tree_map_only(Tensor, lambda t: t.to(device), self.batches[number])
            inputs = inputs_for(model, inputs)
            try:
                with explain_out_of_memory(device, None):
                    return call_network(model, inputs)
            except NsoptError:
                raise
            except Exception as error:
                raise NsoptError(
                    f"the network does not run on these inputs ({short_reason(error)}): give what "
                    "its forward pass takes"
                ) from error

        return run


def count_arguments(model: nn.Module) -> int:
    """Return how many arguments the forward pass of a network needs, at least one."""
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    return max(1, len(needed))


def _read(batch: Any, arguments: int) -> Any:
    if isinstance(batch, Tensor | Mapping):
        return batch
    if isinstance(batch, tuple) and len(batch) == 1 and isinstance(batch[0], list):
        return batch
    if not isinstance(batch, Sequence) or not len(batch):
        raise NsoptError(
            "a batch must be a tensor, a tuple of arguments, a dict of keyword arguments, or a "
            f"pair of one of these and targets, not {type(batch).__name__}"
        )
    if len(batch) == _PAIR != arguments or not isinstance(batch[0], Tensor):
        inputs = batch[0]
        return tuple(inputs) if isinstance(inputs, list) else inputs
    return tuple(batch[:arguments])


def _check(inputs: Any, number: int) -> None:
    for tensor in tensors_in(inputs):
        if tensor.layout != torch.strided:
            raise NsoptError(f"batch {number} of the inputs is sparse: give dense tensors")
        if not tensor.isfinite().all():
            raise NsoptError(
                f"batch {number} of the inputs contains NaN or infinite numbers: remove them"
            )


@dataclass(frozen=True, eq=False)
class Planned:
    """A product to fit.

    Attributes:
        key: its name, see `ProductCall`.
        index: its place in forward order.
        calls: number of calls in a forward pass.
        inputs: weights of an output in the small network.
        rows: rows of each call, of all examples of a batch.
        kept: which outputs of the whole network the small one has, (O,).
        states: which inputs of the whole network the small one has, (P,), if it is fitted to states
            of the whole network; None for other inputs.
        constant: name of the tensor that adds a constant to the outputs, if only to these.
        bounds: see `ProductCall`; None if calls differ.
        free: names of what may change beside a computed weight's carrier; see `Recipe`.
    """

    key: str
    index: int
    calls: int
    inputs: int
    rows: int
    kept: Tensor
    states: Tensor | None
    constant: str | None
    bounds: Bounds | None
    free: tuple[str, ...]

    def choose(self, nth: int, batch: int, seed: int, product: Product, result: Tensor) -> Tensor:
        """Return random places of a call's result, the same for the same arguments."""
        examples, count = product.count_places(result)
        per_example = -(-self.rows // examples)
        if count <= per_example:
            return torch.arange(count, device=result.device).expand(examples, count)
        key = hash((seed, self.index, batch, nth)) % 2**63  # of integers: the same in each process
        generator = torch.Generator().manual_seed(key)
        return torch.randint(count, (examples, per_example), generator=generator).to(result.device)


def make_plan(
    large: nn.Module,
    small: nn.Module,
    units: Units,
    kept: Sequence[Tensor],
    inputs: Inputs,
    rows: int,
) -> tuple[list[Planned], dict[str, str]]:
    """Return the products to fit, in forward order, and by weight why others stay as inherited.

    Args:
        large: the trained network.
        small: the network cut from it.
        units: of `large`.
        kept: per group, the units that `small` keeps.
        inputs: the inputs; the first batch runs.
        rows: how many rows of each product to take.

    Raises:
        NsoptError: if `small` has layers that `large` lacks.
    """
    of_large, watch = _watch(large, inputs)
    of_small, watch_small = _watch(small, inputs)
    extra = [key for key in of_small if key not in of_large and key not in watch.idle]
    if extra:
        raise NsoptError(
            f"the smaller network has layers that the trained one lacks, such as {extra[0]}: "
            "choose an architecture whose widths are tied"
        )
    made_of = {key: _list_parts(calls[0]) for key, calls in of_small.items()}
    different = {(key.partition("[")[0], *parts) for key, parts in made_of.items()}
    uses = Counter(part for _, *parts in different for part in parts)
    tensors, reasons = tensors_of(large), dict.fromkeys(watch.looked_up, "also used otherwise")
    alone = {
        part: tensor
        for part, tensor in tensors_of(small).items()
        if uses[part] == 1 and storage_of(tensor) not in watch_small.origins.read
    }
    constants = Counter(c for calls in of_large.values() for c in {call.constant for call in calls})
    views = Counter(_find_start(key, calls[0].product) for key, calls in of_large.items())
    left: dict[str, str] = {}
    products: list[Planned] = []
    for index, (key, calls) in enumerate(of_large.items()):
        name, first, there = key.partition("[")[0], calls[0], of_small.get(key, [])
        if first.recipe is None and not first.is_active and uses[name] > 1:
            continue  # a part of a computed weight
        weight, axis = first.product.weight, first.product.output_axis
        outputs = find_kept(weight, first.whole, axis, units[name], kept)
        alike = len({(type(call.product), call.product.inputs) for call in calls}) == 1
        alike &= views[_find_start(key, first.product)] == 1  # else also transposed
        alike &= first.recipe is None or name in alone  # else another product would change, too
        if name in reasons:
            left[name] = reasons[name]
        elif not alike or not there or there[0].outputs.shape[1] != len(outputs):
            left[name] = "used in several ways"
        else:
            named, bounds = ({getattr(c, field) for c in calls} for field in ("constant", "bounds"))
            constant = first.constant if len(named) == 1 else None
            most = min(rows, most_rows(there[0].product.inputs + 1))
            planned = Planned(
                key=key,
                index=index,
                calls=calls[-1].nth + 1,
                inputs=there[0].product.inputs,
                rows=-(-most // (len(inputs) * len(there))),
                kept=outputs,
                states=find_kept(weight, first.whole, -2, units[name], kept)
                if isinstance(first.product, StateProduct)
                else None,
                constant=constant if constants[constant] == 1 else None,
                bounds=first.bounds if len(bounds) == 1 else None,
                free=tuple(
                    part
                    for part in made_of[key]
                    if part in alone and part != name and isinstance(alone[part], nn.Parameter)
                ),
            )
            products.append(planned)
    fitted = {product.key.partition("[")[0] for product in products}
    known = watch.looked_up.union(fitted, *(made_of[product.key] for product in products))
    for name in _list_cut(tensors, tensors_of(small)):
        if name not in known:
            is_idle = name in watch.idle
            why = "no examples in the first batch" if is_idle else "no product of activations"
            left.setdefault(name, reasons.get(name, why))
    return products, left


def _list_parts(call: ProductCall) -> list[str]:
    """Return the names of what a weight is made of: parameters, or one."""
    return [call.key.partition("[")[0]] if call.recipe is None else list(call.recipe.leaves)


def _list_cut(large: Mapping[str, Tensor], small: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the names of parameters of several dimensions that the small network has a part of."""
    for name, tensor in large.items():
        is_matrix = tensor.numel() > max(tensor.shape, default=1)
        if isinstance(tensor, nn.Parameter) and is_matrix and small[name].shape != tensor.shape:
            yield name


def _find_start(key: str, product: Product) -> tuple[str, int]:
    """Return the parameter of a product, and where in it its weight starts."""
    return key.partition("[")[0], int(product.weight.storage_offset())


def _watch(model: nn.Module, inputs: Inputs) -> tuple[dict[str, list[ProductCall]], ProductWatch]:
    """Return the calls of each product on the first batch, and what watched them."""

    def first_place(key: str, nth: int, product: Product, result: Tensor) -> Tensor:
        examples, count = product.count_places(result)
        return torch.zeros(examples, min(1, count), dtype=torch.int64, device=result.device)

    watch = ProductWatch(model, first_place)
    calls: dict[str, list[ProductCall]] = {}
    for call in watch.run(inputs.call(model, 0), inputs.batches[0]):
        calls.setdefault(call.key, []).append(call)
    return calls, watch
