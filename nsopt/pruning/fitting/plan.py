"""Which products of a network can be fitted, in which order, and from how many rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.models.tracing.run import tensors_of
from nsopt.pruning.fitting.inputs import Inputs
from nsopt.pruning.fitting.kept import Indices, find_kept_outputs
from nsopt.pruning.fitting.least_squares import MOST_NUMBERS
from nsopt.pruning.fitting.products import Product
from nsopt.pruning.fitting.watch import Seen, Watch
from nsopt.scaling.cost import IntArray


@dataclass(frozen=True, eq=False)
class Planned:
    """A product to fit.

    Attributes:
        key: its name, see `Seen`.
        index: its place in forward order.
        calls: number of calls in a forward pass.
        inputs: weights of an output in the small network.
        rows: rows of each call, of all examples of a batch.
        kept: which outputs of the whole network the small one has, (O,).
        constant: name of the tensor that adds a constant to the outputs, if only to these.
        completes: whether it completes a sum: its outputs are added to a tensor that existed
            before. The fit then also makes up for the error of that tensor.
        shares_input: whether it reads the same tensor as the product before it.
    """

    key: str
    index: int
    calls: int
    inputs: int
    rows: int
    kept: Tensor
    constant: str | None
    completes: bool
    shares_input: bool

    def choose(self, nth: int, batch: int, seed: int, product: Product, result: Tensor) -> Tensor:
        """Return random places of a call's result, the same for the same arguments."""
        examples, count = product.count_places(result)
        each = -(-self.rows // examples)
        if count <= each:
            return torch.arange(count, device=result.device).expand(examples, count)
        key = hash((seed, self.index, batch, nth)) % 2**63  # of integers: the same in each process
        generator = torch.Generator().manual_seed(key)
        return torch.randint(count, (examples, each), generator=generator).to(result.device)


@dataclass(frozen=True, eq=False)
class Plan:
    """The products to fit, in forward order, and the weights that stay as inherited, with reasons.

    Attributes:
        products: by key.
        left: by the name of a weight, why it stays.
    """

    products: dict[str, Planned]
    left: dict[str, str]

    def steps(self) -> list[list[Planned]]:
        """Return the products in forward order; those that read the same tensor together."""
        steps: list[list[Planned]] = []
        for product in self.products.values():
            follows = steps and steps[-1][-1].index == product.index - 1
            if follows and product.shares_input:
                steps[-1].append(product)
            else:
                steps.append([product])
        return steps


def make_plan(
    large: nn.Module, small: nn.Module, indices: Indices, inputs: Inputs, rows: int
) -> Plan:
    """Return what to fit.

    Args:
        large: the trained network.
        small: the network cut from it.
        indices: which indices of each tensor of `large` are left in `small`.
        inputs: the inputs; the first batch runs.
        rows: how many rows of each product to take.
    """
    seen, looked_up = _watch(large, inputs)
    seen_small, _ = _watch(small, inputs)
    tensors, small_tensors = tensors_of(large), tensors_of(small)
    recurrent = {
        f"{path}.{name}" if path else name
        for path, module in large.named_modules()
        if isinstance(module, nn.RNNBase | nn.RNNCellBase)
        for name, _ in module.named_parameters(recurse=False)
    }
    other = [key for key in seen_small if key not in seen]
    if other:
        raise NsoptError(
            f"the smaller network has layers that the trained one lacks, such as {other[0]}: "
            "choose an architecture whose widths are tied"
        )
    constants = Counter(c for calls in seen.values() for c in {call.constant for call in calls})
    left: dict[str, str] = {}
    products: dict[str, Planned] = {}
    for index, (key, calls) in enumerate(seen.items()):
        name, first = key.partition("[")[0], calls[0]
        there = seen_small.get(key)
        if name in recurrent:
            left[name] = "a recurrent layer"
        elif name in looked_up:
            left[name] = "also an embedding"
        elif there is None or len({(type(c.product), c.product.inputs) for c in calls}) > 1:
            left[name] = "used in several ways"
        else:
            kept = find_kept_outputs(
                first.product,
                there[0].product,
                tensors[name],
                small_tensors[name],
                indices.get(name) or _keep_all(tensors[name]),
            )
            if kept is None:
                left[name] = "used in several ways"
                continue
            named = {call.constant for call in calls}
            constant = named.pop() if len(named) == 1 else None
            products[key] = Planned(
                key=key,
                index=index,
                calls=len(calls),
                inputs=there[0].product.inputs,
                rows=_count_rows(there, rows, len(inputs)),
                kept=kept,
                constant=constant if constants[constant] == 1 else None,
                completes=all(c.beside_is_older for c in calls),
                shares_input=first.shares_input,
            )
    for name, tensor in tensors.items():
        cut = isinstance(tensor, nn.Parameter) and tensor.shape != small_tensors[name].shape
        fitted = any(key.partition("[")[0] == name for key in products)
        is_vector = tensor.numel() == max(tensor.shape, default=1)
        if cut and not (fitted or is_vector or name in looked_up):
            reason = "a recurrent layer" if name in recurrent else "no product of activations"
            left.setdefault(name, reason)
    return Plan(products, left)


def _keep_all(tensor: Tensor) -> list[IntArray]:
    return [torch.arange(size).numpy() for size in tensor.shape]


def _watch(model: nn.Module, inputs: Inputs) -> tuple[dict[str, list[Seen]], set[str]]:
    """Return the calls of each product on the first batch, and the weights of embeddings."""

    def first_place(key: str, nth: int, product: Product, result: Tensor) -> Tensor:
        examples, _ = product.count_places(result)
        return torch.zeros(examples, 1, dtype=torch.int64, device=result.device)

    watch = Watch(model, first_place)
    found: dict[str, list[Seen]] = {}
    for seen in watch.run(inputs.call(model, 0)):
        found.setdefault(seen.key, []).append(seen)
    return found, watch.looked_up


def _count_rows(calls: Sequence[Seen], rows: int, batches: int) -> int:
    """Return how many rows of a call to take from each batch."""
    inputs = calls[0].product.inputs + 1
    most = min(rows, max(MOST_NUMBERS // inputs, 1))
    return -(-most // (batches * len(calls)))
