"""Attention whose code gives all sizes keeps neither its heads nor its channels."""

import pytest
import torch
from torch import nn

from tests.tracing import hand_written
from tests.tracing.checks import check_network_of, trace_unchanged

GROUPS: dict[type[nn.Module], list[int]] = {
    hand_written.SplitsOfKeywords: [32, 8, 8, 8, 8],  # channels of a head, by block
    hand_written.OneHeadSize: [32, 8, 8],
    hand_written.SizeOfAllHeads: [32, 8, 8],
    hand_written.Rotary: [32, 2, 2],  # heads of keys
}


@pytest.mark.parametrize("kind", GROUPS, ids=lambda kind: kind.__name__)
def test_a_transformer_can_be_traced_resized_searched_and_pruned(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = hand_written.Transformer(kind), torch.randn(2, 3, 12, 12)
    arch = trace_unchanged(model, x)
    check_network_of(arch, model, x, GROUPS[kind], searches=True)
