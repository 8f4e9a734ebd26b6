"""Trace nsopt's own networks."""

from collections.abc import Sequence

import torch

from nsopt.models.architecture import Architecture
from nsopt.models.design import Design
from nsopt.models.shortcuts import leaders
from nsopt.tracing.buffers import name_trained
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.run import LabelledRun
from nsopt.tracing.search.lifts import Lifts


def trace_design(
    name: str, design: Design, widths: Sequence[int], input_shape: tuple[int, ...]
) -> Architecture:
    """Return the architecture of a design. Every width can change, and no code is probed for that.

    Args:
        widths: of each group, at least 2: a trace does not follow single channels.
        input_shape: of one example.
    """
    with torch.random.fork_rng(devices=[]):
        template = design.build(widths, whole=True)
    network = TracedNetwork.of(template, LabelledRun((torch.zeros(2, *input_shape),), (False,)))
    weights = (f"{path}.weight" for path in design.followers)
    ties = tuple(((weight, 1), (weight, 0)) for weight in weights)
    network = network.with_lifts(Lifts(followers=ties))
    assert network.family.widths == tuple(widths)
    names = leaders(design.group_of, design.names)
    trained = name_trained(template)
    return Architecture(name, network, names, {}, {}, trained, design=design)
