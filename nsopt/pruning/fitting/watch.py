"""Watch the products of a network while it runs: what they read, what they make, what follows."""

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nsopt.inputs import find_outputs, tensors_in
from nsopt.pruning.fitting.least_squares import Origins, Recipe, storage_of
from nsopt.pruning.fitting.products import (
    MatrixProduct,
    Product,
    RecurrentWatch,
    StateProduct,
    read_product,
)
from nsopt.tracing.originals import tensors_of

_ADDS = "add", "add_", "sub", "sub_"
Places = Callable[[str, int, Product, Tensor], Tensor]
Bounds = tuple[float, float]


class _DoneError(BaseException):
    """Ends a forward pass: everything wanted ran. Code that catches `Exception` lets it by."""


@dataclass(eq=False)
class ProductCall:
    """One call of a product.

    Attributes:
        whole: the parameter of which the weight is a view; for a computed one the whole result.
        key: the weight's name, with a number if several parts of it are used.
        nth: how many calls of this product came before, in this run.
        inputs: rows of its inputs, (G, N, P); empty if neither wanted nor states.
        outputs: rows of what its outputs become, (N, O): behind a BatchNorm, and behind an addition
            to a tensor that existed before the product ran.
        places: which rows; see `MatrixProduct`.
        extent: the number of examples and of places, of which the rows are some.
        recipe: how the weight is computed; None for a parameter.
        is_active: whether its inputs depend on those of the network.
        scale: factors of the outputs before that addition, (O,); None for one.
        constant: name of the tensor that adds a constant to the outputs: a bias, or the mean that a
            BatchNorm subtracts.
        bounds: between which the only operation that reads them clips them, such as ReLU.
    """

    key: str
    nth: int
    product: Product
    whole: Tensor
    inputs: Tensor
    outputs: Tensor
    places: Tensor
    extent: tuple[int, int]
    recipe: Recipe | None = None
    is_active: bool = True
    scale: Tensor | None = None
    constant: str | None = None
    bounds: Bounds | None = None

    def read_other(self, inputs: Tensor) -> None:
        """Replace the inputs of a product of matrices, (1, N, P)."""
        self.outputs = self.outputs + (inputs - self.inputs)[0] @ self.product.weight.detach()
        self.inputs = inputs


@dataclass(eq=False)
class _Chain:
    """The outputs of a product on their way to an addition or an activation."""

    call: ProductCall
    tensor: Tensor
    shape: torch.Size
    started: int
    is_sum: bool = False


class ProductWatch(TorchDispatchMode):
    """Records the products of one forward pass.

    Args:
        places: returns which places to record, for a key, its number of calls so far, the product
            and its result; see `MatrixProduct`.
        wanted: how often each product is called that is recorded; the pass ends after the last one.
            None to record all.
        takes_inputs: whether to record rows of inputs.
        consume: takes every call at once, which is then neither kept nor followed.

    Attributes:
        calls: the recorded calls.
        looked_up: names of weights that an embedding reads, or that are added.
        origins: what is computed without the inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Places,
        wanted: Mapping[str, int] | None = None,
        takes_inputs: bool = False,
        consume: Callable[[ProductCall], None] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[ProductCall] = []
        self.looked_up: set[str] = set()
        self.origins = Origins()
        self._places, self._wanted = places, wanted
        self._left = sum(wanted.values()) if wanted is not None else math.inf
        self._takes_inputs, self._consume = takes_inputs, consume
        self._names: dict[int, list[tuple[str, Tensor]]] = {}
        self._tensors = tensors_of(model)
        for name, tensor in self._tensors.items():
            self._names.setdefault(storage_of(tensor), []).append((name, tensor))
        self._parts: dict[str, list[object]] = {}
        self._calls: dict[str, int] = {}
        self.idle: set[str] = set()  # products of no examples
        self._steps, self._is_done = 0, False
        self._recurrent = RecurrentWatch(self._record_recurrent, self._note)
        self._made: dict[int, int] = {}  # when a storage was last written
        self._chains: list[_Chain] = []
        self._clipped: dict[tuple[int, int], ProductCall] = {}  # by storage and when it was written

    def run(self, forward: Callable[[], Any], inputs: Any) -> list[ProductCall]:
        """Run the network inside `forward`, on `inputs`; return the calls of its products."""
        self.origins.start(tensors_in(inputs))
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it hides the products of attention
        try:
            with torch.no_grad(), self, self._recurrent:
                outputs = forward()
            self._note_reads({storage_of(tensor) for tensor in find_outputs(outputs)[0]})
        except (_DoneError, Exception):  # TorchScript makes a RuntimeError of an early end
            if not self._is_done:
                raise
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        return self.calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, self._steps = func.overloadpacket.__name__, self._steps + 1
        result = func(*args, **(kwargs or {}))
        if kwargs and name in ("add", "add_"):
            name = f"scaled_{name}"  # by alpha
        self._note(name, func, args, kwargs, result)
        product = None if kwargs else read_product(name, args, result)
        if product is not None:
            call = self._record(*product, result)
            if call is not None:
                call.is_active = self.origins.is_active(product[0])
                self._chains.append(_Chain(call, result, result.shape, self._steps))
        self._end_if_done()
        return result

    def _end_if_done(self) -> None:
        if not self._left and not self._chains:
            self._is_done = True
            raise _DoneError

    def _record_recurrent(self, x: Tensor, product: Product, result: Tensor) -> None:
        self._record(x, product, result)
        self._end_if_done()

    def _note(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Note what an operation reads and makes."""
        self._follow(name, args, result)
        self._note_times(name, args, result)
        is_active = self.origins.note(func, args, kwargs, result)
        if name == "embedding" or (is_active and name.removeprefix("scaled_") in _ADDS):
            self.looked_up |= {self._name(tensor) or "" for tensor in tensors_in(list(args))}

    def _record(self, x: Tensor, product: Product, result: Tensor) -> ProductCall | None:
        if not product.weight.is_floating_point():
            return None
        name, recipe = self._name(product.weight), None
        if name is None:
            recipe = self.origins.find(product.weight, self._tensors)
            if recipe is None:
                return None
            name = recipe.name
        whole = self._tensors[name] if recipe is None else recipe.whole
        weight, parts = product.weight, self._parts.setdefault(name, [])
        view = weight.storage_offset(), weight.shape, weight.stride(), recipe and recipe.calls
        if view not in parts:
            parts.append(view)
        part = parts.index(view)
        key = f"{name}[{part}]" if part else name
        nth = self._calls[key] = self._calls.get(key, -1) + 1
        if self._wanted is not None and nth >= self._wanted.get(key, 0):
            return None
        self._left -= 1
        if not result.numel():
            self.idle.add(key)
            return None
        places = self._places(key, nth, product, result)
        is_wanted = self._takes_inputs or isinstance(product, StateProduct)
        inputs = product.rows(x, places) if is_wanted else x.new_empty(0)
        outputs, extent = product.select(result, places), product.count_places(result)
        call = ProductCall(key, nth, product, whole, inputs, outputs, places, extent, recipe)
        call.constant = self._name(product.bias) if product.bias is not None else None
        if self._consume is not None:
            self._consume(call)
            return None
        self.calls.append(call)
        return call

    def _follow(self, name: str, args: Any, result: Any) -> None:
        """Follow outputs through an operation, or stop following them."""
        if not self._chains and not self._clipped:
            return
        read = {storage_of(tensor) for tensor in tensors_in(list(args))}
        self._note_reads(read)
        followed = self._chains
        self._chains = [
            chain
            for chain in followed
            if storage_of(chain.tensor) not in read or self._advance(chain, name, args, result)
        ]

    def _note_reads(self, read: Set[int]) -> None:
        """Forget the bounds of what a ReLU clips if something else reads it, too."""
        for storage in read:
            also = self._clipped.pop((storage, self._made.get(storage, 0)), None)
            if also is not None:
                also.bounds = None

    def _advance(self, chain: _Chain, name: str, args: Any, result: Any) -> bool:
        """Follow outputs through an operation that reads them; return whether to go on."""
        call, storage = chain.call, storage_of(chain.tensor)
        if "batch_norm" in name and self._note_scale(chain, args):
            chain.tensor = tensors_in(result)[0]
        elif name in ("add", "add_") and (
            self._note_bias(chain, args) or self._is_sum(chain, args)
        ):
            chain.tensor = result
        elif not name.endswith("_") and all(storage_of(t) == storage for t in tensors_in(result)):
            return True  # a view
        else:
            call.bounds = _read_bounds(name, args)
            if call.bounds is not None and not name.endswith("_"):
                self._clipped[storage, self._made.get(storage, 0)] = call
            return False
        call.outputs = call.product.select(chain.tensor, call.places)
        return True

    def _note_scale(self, chain: _Chain, args: Any) -> bool:
        """Note a BatchNorm in evaluation mode behind a product; return whether it is one."""
        x, weight, _, mean, variance = args[:5]
        numbers = [n for n in args[5:] if isinstance(n, float)]
        usable = isinstance(mean, Tensor) and x.shape == chain.shape and not chain.is_sum
        if not usable or chain.call.scale is not None or True in args[5:6]:
            return False
        scale = (variance + numbers[-1]).rsqrt()
        chain.call.scale = scale if weight is None else scale * weight
        if chain.call.constant is None:
            chain.call.constant = self._name(mean)
        return True

    def _note_bias(self, chain: _Chain, args: Any) -> bool:
        """Note a parameter that is added to the outputs as a bias; return whether it is one."""
        view, term = args if storage_of(args[0]) == storage_of(chain.tensor) else args[::-1]
        name = self._name(term) if isinstance(term, Tensor) else None
        is_matrix = isinstance(chain.call.product, MatrixProduct)
        if name is None or not is_matrix or term.shape != chain.shape[-1:]:
            return False
        whole = dict(self._names[storage_of(term)])[name]
        if term.numel() != whole.numel() or not _has_rows(chain, view):
            return False
        if chain.call.constant is None:
            chain.call.constant = name
        return True

    def _is_sum(self, chain: _Chain, args: Any) -> bool:
        """Return whether outputs are added to a tensor that existed before the product ran."""
        if len(args) != 2 or chain.is_sum or not isinstance(args[1], Tensor):
            return False
        view, term = args if storage_of(args[0]) == storage_of(chain.tensor) else args[::-1]
        is_older = self._made.get(storage_of(term), 0) < chain.started
        is_value = self._name(term) is None and view.shape == term.shape
        chain.is_sum = is_older and is_value and _has_rows(chain, view)
        return chain.is_sum

    def _note_times(self, name: str, args: Any, result: Any) -> None:
        """Note when the storages of results were written last."""
        read = {storage_of(tensor) for tensor in tensors_in(list(args))}
        for tensor in tensors_in(result):
            if name.endswith("_") or storage_of(tensor) not in read:
                self._made[storage_of(tensor)] = self._steps

    def _name(self, tensor: Tensor) -> str | None:
        """Return the name of the parameter or buffer of which a tensor is a view."""
        for name, whole in self._names.get(storage_of(tensor), ()):
            first = whole.storage_offset()
            if first <= tensor.storage_offset() < first + whole.numel():
                return name
        return None


def _has_rows(chain: _Chain, view: Tensor) -> bool:
    """Return whether a view of a product's result has the same rows."""
    if view.numel() != chain.shape.numel():
        return False
    is_rows = view.is_contiguous() and view.shape[-1] == chain.shape[-1]
    return view.shape == chain.shape or (len(chain.shape) == 2 and is_rows)


def _read_bounds(name: str, args: Any) -> Bounds | None:
    """Return between which numbers an operation clips; None if it does something else."""
    if name in ("relu", "relu_"):
        return 0.0, math.inf
    return tuple(map(float, args[1:3])) if name in ("hardtanh", "hardtanh_") else None  # type: ignore[return-value]
