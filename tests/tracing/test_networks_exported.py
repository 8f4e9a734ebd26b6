"""Pruned networks of torchvision and timm are exported: most of them run by `-m networks`."""

from pathlib import Path

import pytest

from tests.tracing import test_networks, test_networks_timm, test_networks_torchvision
from tests.tracing.checks import (
    check_exports,
    randomise,
    selected_first,
    skip_without_timm,
    trace_network,
)

NETWORKS = test_networks.NETWORKS | test_networks_torchvision.NETWORKS | test_networks_timm.NETWORKS
TIMM = test_networks.TIMM | test_networks_timm.NETWORKS
IN_SUITE = (
    "tests.tracing.small_networks:resnet",
    "tests.tracing.small_networks:mobilenet_v3",
    "tests.tracing.small_networks:vision_transformer",
)
NOT_EXPORTED = ("timm:tf_efficientnet_cc_b0_4e",)  # torch.onnx does not convert its routed kernels
OTHERS = [word for word in NETWORKS if word not in (*IN_SUITE, *NOT_EXPORTED)]


@pytest.mark.parametrize("word", selected_first(IN_SUITE, OTHERS))
def test_a_pruned_network_computes_the_same_after_its_export(word: str, tmp_path: Path) -> None:
    if word in TIMM:
        skip_without_timm()
    size, *_ = NETWORKS[word]
    arch, model, x = trace_network(word, size)
    randomise(model)
    check_exports(arch, model, x, tmp_path)
