"""Networks of other fields are scaled as they compute, and searched."""

from typing import Any

import pytest
import torch
from torch import nn

from nsopt.models.tracing.architecture import TracedArchitecture
from nsopt.models.tracing.trace_module import trace
from tests.models.tracing import fields
from tests.models.tracing.checks import (
    Inputs,
    check_building,
    check_costs,
    check_pruning,
    check_search,
    randomise,
)

NETWORKS: dict[type[nn.Module], tuple[Any, list[int]]] = {  # inputs, widths in forward order
    fields.Viewed: (torch.randn(2, 3, 32, 32), [6, 16, 24]),
}


def traced(kind: type[nn.Module]) -> tuple[TracedArchitecture, nn.Module, Inputs]:
    torch.manual_seed(0)
    model, (x, _) = kind(), NETWORKS[kind]
    return trace(model, x), model, x


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)
def test_a_network_is_scaled_as_it_computes(kind: type[nn.Module]) -> None:
    arch, model, x = traced(kind)
    assert list(arch.base_widths) == NETWORKS[kind][1]
    check_costs(arch, model, arch.base_widths, x)
    check_building(arch, x)
    check_search(arch, x)
    randomise(model)
    check_pruning(arch, model, x)
