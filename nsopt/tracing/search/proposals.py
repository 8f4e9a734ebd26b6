"""Propose lifts that may let more widths of a network change (lifts.py)."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from nsopt.tracing.groups import Dimension, Family
from nsopt.tracing.labels import Atoms, Trace
from nsopt.tracing.originals import original_weight
from nsopt.tracing.run import tensors_of
from nsopt.tracing.search.lifts import Alike, Less, Lifts, Number, Place, Tie
from nsopt.tracing.search.ties import find_tie
from nsopt.tracing.stored import (
    Inside,
    Keys,
    is_configuration,
    is_size,
    read_size,
    read_sizes,
    walk_containers,
)

_SIZES = re.compile(
    "(features|channels|planes|filters|hidden|hidden_size|embed|chs|chans|dims?|d_model|width|^c)$"
)
Size = tuple[str, int, Inside, Keys]  # an attribute, a size in it, and where


def find_norms(
    template: nn.Module, trace: Trace, dimensions: Iterable[Dimension]
) -> Iterator[Number]:
    """Yield the sizes that norms without parameters store, if they belong to one dimension."""
    for path, label in trace.plain_norms.items():
        store = vars(template.get_submodule(path))
        for d in dimensions:
            if np.isin(label, d.atoms).all():
                for name in ("num_features", "num_channels", "normalized_shape", "num_groups"):
                    size, inside = read_size(store.get(name))
                    follows = name != "num_groups" or path in trace.group_sizes
                    if size and follows and len(d.atoms) % size == 0:
                        yield Number(path, name, d.tensor, d.axis, len(d.atoms) // size, inside)
                break


def find_alike(template: nn.Module, excluded: Container[tuple[str, str]]) -> list[Alike]:
    """Return attributes of modules that equal an attribute of a layer of theirs.

    Both have the same name, or are equal in all modules of the type, which have several sizes, or
    the attribute has the name of a size. Of several layers, inputs follow the first and others the
    last: `num_features` is the input of the classifier.

    Args:
        excluded: paths and names of attributes that are none of these.
    """
    kinds: dict[type[nn.Module], dict[str, dict[tuple[str, str], int]]] = {}
    stored: dict[str, dict[str, int]] = {}
    for path, module in template.named_modules():
        if not _is_layer(module) and (sizes := _read_sizes(module)):
            layers = [m for m in module.named_modules(prefix=path) if _is_layer(m[1])]
            inner = {p.removeprefix(path): _read_sizes(layer) for p, layer in layers}
            within = {(p, name): n for p, held in inner.items() for name, n in held.items()}
            kinds.setdefault(type(module), {})[path] = within
            stored[path] = sizes
    found = []
    for members in kinds.values():
        for path, name in [(p, name) for p in members for name in stored[p]]:
            held = {other: stored[other].get(name) for other in members}
            equal = [key for key, size in members[path].items() if size == held[path]]
            named = [key for key in equal if key[1] == name]
            shared = [k for k in equal if all(members[p].get(k) == held[p] for p in members)]
            several = shared if len(set(held.values())) > 1 else []
            keys = [key for key in named if key in several] or named or several
            keys = keys or (equal if _SIZES.search(name) else [])
            if keys and (path, name) not in excluded:
                layer, source = keys[0 if name.startswith("in") else -1]
                found.append((path, name, f"{path}{layer}".lstrip("."), source))
    return found


def list_sizes(template: nn.Module, in_objects: bool = True) -> dict[str, list[Size]]:
    """Return the sizes above 1 that modules store, by path, but not of layers with one weight.

    Args:
        in_objects: whether to look into objects of configuration, and into containers in each
            other, too.
    """
    holders = _find_holders(template)
    by_path = {
        path: list(_list_sizes(module, path in holders, in_objects))
        for path, module in template.named_modules()
    }
    return {path: sizes for path, sizes in by_path.items() if sizes}


def propose_numbers(
    template: nn.Module,
    family: Family,
    groups: Iterable[int],
    known: Lifts,
    read: Container[tuple[str, str]],
    passing: Mapping[str, Sequence[Atoms]],
    in_objects: bool,
) -> list[list[Lifts]]:
    """Return numbers that may store sizes of these groups, the most likely first.

    All modules of a type use an attribute in the same way, so a proposal covers all of them. The
    first list has all attributes of a type that equal a size, together and each alone; the next
    ones have attributes that are a multiple of a width, and at last all together. A size of what
    only passes through a module with tensors of its own comes alone, or beside its other sizes. If
    an attribute may store the size of several tensors, it follows the tensor of the same name in
    every module, or else one that the module holds, or else the last. Then each of these tensors
    comes alone, in the modules where its size can change. The last list ties them, and the one
    before it those that are rows of neighbouring weights, such as queries and values. An attribute
    that equals a width of these groups is no multiple of other widths.

    Args:
        family: the groups of the traced network.
        groups: indices of the groups that should shrink.
        known: lifts that the network already has.
        read: paths and names of the attributes that code reads.
        passing: arrays of atoms on which the operations of modules work, by path.
        in_objects: see `list_sizes`.
    """
    modules = dict(template.named_modules())
    holders = _find_holders(template)
    candidates = _find_all_numbers(template, holders, family, read, passing, in_objects)
    followed: dict[type[nn.Module], dict[Place, tuple[int, str]]] = {}  # by type: times and side
    likely: set[tuple[type[nn.Module], Place]] = set()  # sizes of more than what only passes
    for group in groups:
        for number, times in candidates[group]:
            kind = type(modules[number.path])
            first = followed.setdefault(kind, {})
            first.setdefault(number.place, (times, _name_within(number)))
            if number.path not in holders or number.path in _list_holders(number.tensor):
                likely.add((kind, number.place))
    proposals: dict[int, list[Lifts]] = {}  # by how many times the width
    tied, sided = list[Lifts](), list[Lifts]()
    for kind, first in followed.items():
        equal = {place for place, (times, _) in first.items() if times == 1}
        alike = [
            number
            for numbers in candidates
            for number, times in numbers
            if type(modules[number.path]) is kind and number not in known.numbers
            if times == 1 or number.place not in equal
        ]
        alike.sort(key=lambda n: n.place not in first or _name_within(n) != first[n.place][1])
        own = sorted(alike, key=lambda n: n.path not in _list_holders(n.tensor))
        singles = [{place} for place in sorted(first, key=str)]
        sure = {place for place in equal if (kind, place) in likely}
        together = [sure] if len(sure) > 1 else []
        with_one = [sure | {place} for place in sorted(equal - sure, key=str) if sure]
        everything = [set(first)] if len(first) > max(1, len(sure)) else []
        for places in (*together, *singles, *with_one, *everything):
            times = max(first[place][0] for place in places)
            members = [number for number in alike if number.place in places]
            firsts = {number.site: number for number in reversed(members)}
            owned = {number.site: number for number in reversed(own) if number.place in places}
            lasts = {number.site: number for number in members}
            each = (tuple(few.values()) for few in (firsts, owned, lasts))
            chosen = dict.fromkeys(Lifts(numbers=numbers) for numbers in each)
            proposals.setdefault(times, []).extend(chosen)
            tied.append(_tie_others(family, members, firsts, known.numbers))
            for side in sorted(set(map(_name_within, members))):
                on_side = {n.site: n for n in members if _name_within(n) == side}
                sided.append(Lifts(numbers=tuple(on_side.values())))
                here = [number for number in members if number.site in on_side]
                tied.append(_tie_others(family, here, on_side, known.numbers))
    near = [replace(lifts, ties=tuple(filter(_is_near, lifts.ties))) for lifts in tied]
    by_times = [proposals[n] for n in sorted(proposals)]
    return [*by_times, sided, *([lifts for lifts in some if lifts.ties] for some in (near, tied))]


def _find_all_numbers(
    template: nn.Module,
    holders: Container[str],
    family: Family,
    read: Container[tuple[str, str]],
    passing: Mapping[str, Sequence[Atoms]],
    in_objects: bool,
) -> list[list[tuple[Number, int]]]:
    """Return the numbers that fit each group, as `_find_numbers` yields them.

    An attribute that equals a size is no multiple of another.
    """
    sizes = {
        path: [size for size in stored if (path, size[0]) in read]
        for path, stored in list_sizes(template, in_objects).items()
    }
    groups = range(len(family.groups))
    elsewhere = {path: () if path in holders else groups for path in sizes}
    passed: dict[str, Container[int]] = {
        path: family.groups_of(passing[path]) if path in passing else elsewhere[path]
        for path in sizes
    }
    fits = [
        list(_find_numbers(sizes, family, group, [p for p in passed if group in passed[p]]))
        for group in groups
    ]
    equal = {
        n.site
        for fit in fits
        for n, times in fit
        if times == 1 and (n.less or family.single[family.dimension_indices[n.tensor, n.axis]])
    }
    return [[(n, times) for n, times in fit if times == 1 or n.site not in equal] for fit in fits]


def _tie_others(
    family: Family,
    numbers: Sequence[Number],
    firsts: Mapping[tuple[str, Place], Number],
    known: Sequence[Number],
) -> Lifts:
    """Return the first number of every place, and ties to the other numbers of these places."""
    before = {number.site: number for number in known}
    owners = {**firsts, **before}
    tried = [_tie_numbers(family, owners[number.site], number) for number in numbers]
    new = tuple(number for site, number in firsts.items() if site not in before)
    return Lifts(numbers=new, ties=tuple(tie for tie in tried if tie))


def _is_near(tie: Tie) -> bool:
    """Return whether a tie joins rows of two weights whose modules are parts of the same one."""
    places = {".".join(tensor.split(".")[:-2]) for tensor, _ in tie}
    return len(places) == 1 and all(axis == 0 for _, axis in tie)


def _tie_numbers(family: Family, one: Number, other: Number) -> Tie | None:
    """Return a tie of the groups of two numbers that are not yet the same, if there is one."""
    groups = [
        family.groups_at([(n.tensor, n.axis)]) - family.groups_at([side[:2] for side in n.less])
        for n in (one, other)
    ]
    if groups[0] == groups[1] or set(map(len, groups)) != {1}:
        return None
    (first,), (second,) = groups
    return find_tie(family, first, second)


def _find_numbers(
    sizes: dict[str, list[Size]], family: Family, group: int, passed: Iterable[str]
) -> Iterator[tuple[Number, int]]:
    """Yield attributes equal to a group's width or to the size of a dimension, or to a multiple.

    Each comes with how many times the width it is, or 1 if it is equal.

    It searches modules that hold tensors of the group, the modules around them, and those at the
    paths `passed`, through which the group passes; but no layers of PyTorch: resize.py sets their
    own sizes.
    """
    width, times = family.groups[group].width, family.groups[group].per_dimension
    single, dimensions = family.single, family.dimensions
    alone: list[tuple[int, Less]] = [(d, ()) for d in times if single[d]]
    sized = [(d, less, times[d] * width) for d, less in alone or [*_find_mixed(family, group)][:1]]
    shared = [(d, (), len(dimensions[d].atoms)) for d in times if not single[d]]
    around = (path for d, *_ in sized for path in _list_holders(dimensions[d].tensor))
    for path in dict.fromkeys((*around, *passed)) if sized else ():
        for name, size, inside, keys in sizes.get(path, ()):
            exact = [side for side in (*sized, *shared) if side[2] == size and not side[1]]
            whole = [side for side in sized if size % width == 0 == side[2] % size]
            if exact or whole or size == width:
                d, less, rest = (exact or whole or sized)[0]
                side = dimensions[d].tensor, dimensions[d].axis
                number = Number(path, name, *side, rest // size, inside, less, keys=keys)
                yield number, 1 if exact else size // width


def _read_sizes(module: nn.Module) -> dict[str, int]:
    """Return the integers above 1 that a module stores itself, by name."""
    return {name: n for name, n in vars(module).items() if is_size(n) and n > 1}


def _list_sizes(module: nn.Module, holds_tensors: bool, in_objects: bool) -> Iterator[Size]:
    """Yield the sizes above 1 in a module; of a layer of PyTorch those that its subclass adds."""
    is_free = isinstance(module, nn.Unflatten) or not _is_layer(module)
    names = set(vars(module))
    if not is_free and not (holds_tensors and original_weight(module) is None):
        if type(module).__module__.startswith("torch."):
            return
        layers = [c for c in type(module).__mro__ if c.__module__.startswith("torch.")]
        names -= {name for layer in layers for name in getattr(layer, "__constants__", ())}
        names = {name for name in names if not name.startswith("_")}
    for name, value in vars(module).items():
        if name in names and (in_objects or not is_configuration(value)):
            for keys, held in [((), value), *(walk_containers(value) if in_objects else ())]:
                yield from ((name, n, inside, keys) for n, inside in read_sizes(held) if n > 1)


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module is a layer of PyTorch, or a subclass of one."""
    classes = type(module).__mro__
    return any(c.__module__.startswith("torch.") and c is not nn.Module for c in classes)


def _name_within(number: Number) -> str:
    """Return a number's tensor, relative to the module that stores the number, and its axis."""
    return f"{number.tensor.removeprefix(f'{number.path}.')} {number.axis}"


def _find_mixed(family: Family, group: int) -> Iterator[tuple[int, Less]]:
    """Yield dimensions of a group, and dimensions whose sizes are what other groups have there."""
    for dimension in family.groups[group].per_dimension:
        less = []
        for partner in set(np.flatnonzero(family.factors[dimension]).tolist()) - {group}:
            count = int(family.factors[dimension, partner])
            for d, times in family.groups[partner].per_dimension.items():
                if family.single[d] and count % times == 0:
                    alone = family.dimensions[d]
                    less.append((alone.tensor, alone.axis, count // times))
                    break
            else:
                break
        else:
            if not family.constants[dimension]:
                yield dimension, tuple(less)


def _find_holders(template: nn.Module) -> set[str]:
    """Return the paths of modules that hold tensors, also in modules inside of them."""
    return {path for name in tensors_of(template) for path in _list_holders(name)}


def _list_holders(tensor: str) -> list[str]:
    """Return the paths of the module that holds a tensor and of all modules around it."""
    names = tensor.split(".")
    return [".".join(names[:i]) for i in range(len(names))]
