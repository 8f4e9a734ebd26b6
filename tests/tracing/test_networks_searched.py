"""Searches of large networks of torchvision and timm end in a law: run by `-m networks`."""

import pytest

from tests.tracing.checks import (
    check_search,
    selected_first,
    skip_without_timm,
    trace_network,
)
from tests.tracing.test_networks_exported import NETWORKS, TIMM


@pytest.mark.parametrize("word", selected_first((), NETWORKS))
def test_a_search_ends_in_a_law(word: str) -> None:
    if word in TIMM:
        skip_without_timm()
    size, *_ = NETWORKS[word]
    arch, _, x = trace_network(word, size)
    check_search(arch, x)
