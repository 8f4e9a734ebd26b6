"""Watch the products of a network while it runs: what they read, what they make, what follows."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nsopt.models.activations import tensors_in
from nsopt.models.tracing.run import tensors_of
from nsopt.pruning.fitting.products import Product, read_product

Places = Callable[[str, int, Product, Tensor], Tensor]


class _DoneError(BaseException):
    """Ends a forward pass: everything wanted was seen. Code that catches `Exception` lets it by."""


@dataclass(eq=False)
class Seen:
    """One call of a product.

    Attributes:
        key: the weight's name, with a number if several parts of it are used.
        nth: how many calls of this product came before, in this run.
        product: the product.
        inputs: rows of its inputs, (G, N, P), if wanted.
        outputs: rows of its outputs, (N, O).
        places: see `Product`.
        shares_input: whether the product before it read the same tensor.
        beside: rows of the tensor that was added to its outputs, (N, O).
        beside_is_older: whether that tensor existed before the product ran.
        scale: factors of the outputs before this addition, (O,); None for one.
        constant: name of the tensor that adds a constant to the outputs: a bias, or the mean that a
            BatchNorm subtracts.
        extent: the number of examples and of places, of which the rows are some.
    """

    key: str
    nth: int
    product: Product
    inputs: Tensor | None
    outputs: Tensor
    places: Tensor
    shares_input: bool
    extent: tuple[int, int]
    beside: Tensor | None = None
    beside_is_older: bool = False
    scale: Tensor | None = None
    constant: str | None = None


@dataclass(eq=False)
class _Chain:
    """The outputs of a product on their way to an addition."""

    seen: Seen
    tensor: Tensor
    shape: torch.Size
    started: int


class Watch(TorchDispatchMode):
    """Records the products of one forward pass.

    Args:
        model: the network.
        places: returns which places to record, for a key, its number of calls so far, the product
            and its result; see `Product`.
        wanted: how often each product is called that is recorded; the pass ends after the last one.
            None to record all.
        followed: the keys whose outputs are followed to an addition.
        takes_inputs: whether to record rows of inputs.
        consume: takes every call at once, which is then not kept in `seen`.

    Attributes:
        seen: the recorded calls.
        looked_up: names of weights that an embedding reads.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Places,
        wanted: Mapping[str, int] | None = None,
        followed: Collection[str] = (),
        takes_inputs: bool = False,
        consume: Callable[[Seen], None] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Seen] = []
        self.looked_up: set[str] = set()
        self._places = places
        self._wanted = wanted
        self._left = sum(wanted.values()) if wanted is not None else math.inf
        self._followed = followed
        self._takes_inputs = takes_inputs
        self._consume = consume
        self._names: dict[int, list[tuple[str, Tensor]]] = {}
        for name, tensor in tensors_of(model).items():
            self._names.setdefault(_storage(tensor), []).append((name, tensor))
        self._parts: dict[str, list[int]] = {}
        self._calls: dict[str, int] = {}
        self._made: dict[int, int] = {}  # when a storage was last written
        self._steps = 0
        self._chains: list[_Chain] = []
        self._last_input: tuple[Tensor, int] | None = None
        self._group_started = 0

    def run(self, call: Callable[[], Any]) -> list[Seen]:
        """Run the network inside `call`; return what was seen."""
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it hides the products of attention
        try:
            with torch.no_grad(), self:
                call()
        except _DoneError:
            pass
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        return self.seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, self._steps = func.overloadpacket.__name__, self._steps + 1
        ended = self._find_additions(name, args) if not kwargs else []
        result = func(*args, **(kwargs or {}))
        self._note_times(name, args, result)
        self._advance(name, args, result, ended)
        if name == "embedding":
            self.looked_up |= {self._name(args[0]) or ""}
        found = None if kwargs else read_product(name, args, result)
        if found is not None:
            self._record(*found, result)
        if not self._left and not self._chains:
            raise _DoneError
        return result

    def _record(self, x: Tensor, product: Product, result: Tensor) -> None:
        name = self._name(product.weight)
        if name is None or not product.weight.is_floating_point():
            return
        offsets, offset = self._parts.setdefault(name, []), int(product.weight.storage_offset())
        if offset not in offsets:
            offsets.append(offset)
        part = offsets.index(offset)
        key = f"{name}[{part}]" if part else name
        nth = self._calls[key] = self._calls.get(key, -1) + 1
        last, self._last_input = self._last_input, (x, x._version)
        shares = last is not None and last[1] == x._version and _is_same(last[0], x)
        if not shares:
            self._group_started = self._steps
        if self._wanted is not None and nth >= self._wanted.get(key, 0):
            return
        self._left -= 1
        places = self._places(key, nth, product, result)
        inputs = product.rows(x, places) if self._takes_inputs else None
        outputs = product.select(result, places)
        extent = product.count_places(result)
        seen = Seen(key, nth, product, inputs, outputs, places, shares, extent)
        seen.constant = self._name(product.bias) if product.bias is not None else None
        if self._consume is not None:
            self._consume(seen)
            return
        self.seen.append(seen)
        if self._wanted is None or key in self._followed:
            self._chains.append(_Chain(seen, result, result.shape, self._group_started))

    def _find_additions(self, name: str, args: Any) -> list[_Chain]:
        """Record the other term of additions to followed outputs; return their chains.

        This comes before the operation, which may write to one of its terms.
        """
        if name not in ("add", "add_") or len(args) != 2 or not isinstance(args[1], Tensor):
            return []
        ended = []
        for chain in self._chains:
            for own, other in (args, args[::-1]):
                if _storage(own) == _storage(chain.tensor) and self._name(other) is None:
                    ended.append(chain)
                    if _storage(own) != _storage(other) and _fits(chain, own, other):
                        seen = chain.seen
                        seen.beside = seen.product.select(other, seen.places)
                        made = self._made.get(_storage(other), 0)
                        seen.beside_is_older = made < chain.started
                    break
        return ended

    def _advance(self, name: str, args: Any, result: Any, ended: list[_Chain]) -> None:
        """Follow outputs through an operation, or stop following them."""
        kept = []
        for chain in self._chains:
            read = [t for t in tensors_in(list(args)) if _storage(t) == _storage(chain.tensor)]
            if chain in ended or not read:
                kept += [chain] * (chain not in ended)
            elif "batch_norm" in name and self._scale(chain, args):
                chain.tensor = tensors_in(result)[0]
                kept.append(chain)
            elif name in ("add", "add_") and self._note_bias(chain, args):
                chain.tensor = result
                kept.append(chain)
            elif not name.endswith("_") and all(
                _storage(t) == _storage(chain.tensor) for t in tensors_in(result)
            ):
                kept.append(chain)  # a view
        self._chains = kept

    def _scale(self, chain: _Chain, args: Any) -> bool:
        """Note a BatchNorm in evaluation mode behind a product; return whether it is one."""
        x, weight, _, mean, variance = args[:5]
        numbers = [each for each in args[5:] if isinstance(each, float)]
        usable = isinstance(mean, Tensor) and x.shape == chain.shape and chain.seen.scale is None
        if not usable or True in args[5:6]:
            return False
        scale = (variance + numbers[-1]).rsqrt()
        chain.seen.scale = scale if weight is None else scale * weight
        if chain.seen.constant is None:
            chain.seen.constant = self._name(mean)
        return True

    def _note_bias(self, chain: _Chain, args: Any) -> bool:
        """Note a parameter that is added to the outputs as a bias; return whether it is one."""
        for other in args:
            name = self._name(other) if isinstance(other, Tensor) else None
            if name is not None and other.ndim == 1 and len(other) == chain.shape[-1]:
                if chain.seen.constant is None:
                    chain.seen.constant = name
                return True
        return False

    def _note_times(self, name: str, args: Any, result: Any) -> None:
        """Note when the storages of results were written last."""
        read = {_storage(tensor) for tensor in tensors_in(list(args))}
        for tensor in tensors_in(result):
            if name.endswith("_") or _storage(tensor) not in read:
                self._made[_storage(tensor)] = self._steps

    def _name(self, tensor: Tensor) -> str | None:
        """Return the name of the parameter or buffer of which a tensor is a view."""
        for name, whole in self._names.get(_storage(tensor), ()):
            first = whole.storage_offset()
            if first <= tensor.storage_offset() < first + whole.numel():
                return name
        return None


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same numbers, as views of the same memory."""
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel()


def _fits(chain: _Chain, own: Tensor, other: Tensor) -> bool:
    """Return whether the rows of a product's result are those of a sum's terms."""
    if own.shape != other.shape or own.numel() != chain.shape.numel():
        return False
    is_rows = own.is_contiguous() and own.shape[-1] == chain.shape[-1]
    return own.shape == chain.shape or (len(chain.shape) == 2 and is_rows)
