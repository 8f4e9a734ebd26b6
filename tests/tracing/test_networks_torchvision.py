"""Larger networks of torchvision can be traced, resized and pruned: run by `-m networks`."""

from pathlib import Path

import pytest

from tests.tracing.checks import OtherProcess, check_network

pytestmark = pytest.mark.networks
NETWORKS = {  # side of images, number of widths, of refused groups
    "torchvision:resnet18": (64, 12, 0),
    "torchvision:mobilenet_v2": (64, 25, 0),
    "torchvision:mobilenet_v3_small": (64, 27, 0),
    "torchvision:shufflenet_v2_x1_0": (64, 21, 0),
    "torchvision:regnet_y_400mf": (64, 38, 0),
    "torchvision:googlenet": (64, 61, 0),
    "torchvision:densenet121": (64, 120, 0),
    "torchvision:vit_b_16": (224, 13, 0),
    "torchvision:resnet50": (64, 37, 0),
    "torchvision:inception_v3": (299, 96, 0),
    "torchvision:swin_t": (64, 16, 0),
    "torchvision:vgg11_bn": (64, 10, 0),
    "torchvision:efficientnet_b0": (64, 40, 0),
    "torchvision:convnext_tiny": (64, 22, 0),
    "torchvision:resnext50_32x4d": (64, 21, 0),
    "torchvision:mnasnet1_0": (64, 25, 0),
    "torchvision:shufflenet_v2_x0_5": (64, 21, 0),
    "torchvision:mnasnet0_5": (64, 25, 0),
    "torchvision:regnet_x_400mf": (64, 37, 0),
    "torchvision:alexnet": (64, 7, 0),
    "torchvision:squeezenet1_0": (64, 25, 0),
    "torchvision:resnet34": (64, 20, 0),
}


@pytest.mark.parametrize("word", NETWORKS)
def test_a_network_of_torchvision_can_be_traced_resized_and_pruned(
    word: str, other_process: OtherProcess, tmp_path: Path
) -> None:
    check_network(word, *NETWORKS[word], other_process, tmp_path)
