"""Larger networks of timm can be traced, resized and pruned: run by `-m networks`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.tracing.checks import OtherProcess, check_network

pytestmark = [
    pytest.mark.networks,
    pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed"),
]
NETWORKS = {  # side of images, number of widths, of refused groups
    "timm:convnextv2_atto": (64, 16, 0),
    "timm:resnest14d": (64, 19, 0),
    "timm:vit_tiny_patch16_224": (224, 25, 0),
    "timm:test_convnext": (64, 13, 0),
    "timm:test_resnet": (64, 11, 0),
    "timm:test_vit": (160, 13, 0),
    "timm:cspresnet50": (64, 42, 0),
    "timm:hrnet_w18_small": (64, 45, 0),
    "timm:edgenext_xx_small": (64, 16, 0),
    "timm:mobilenetv4_conv_small": (64, 21, 0),
    "timm:efficientnet_lite0": (64, 24, 0),
    "timm:repvgg_a0": (64, 5, 0),
    "timm:rexnet_100": (64, 45, 0),
    "timm:dla34": (64, 25, 0),
    "timm:skresnet18": (64, 20, 0),
    "timm:tinynet_e": (64, 28, 0),
    "timm:lambda_resnet26t": (64, 20, 3),
    "timm:resnetblur18": (64, 12, 0),
    "timm:tf_efficientnet_cc_b0_4e": (64, 37, 0),
    "timm:lcnet_050": (64, 17, 0),
    "timm:repghostnet_050": (64, 31, 0),
    "timm:gernet_s": (64, 28, 0),
    "timm:fasternet_t0": (64, 35, 0),
    "timm:starnet_s1": (64, 20, 0),
    "timm:hardcorenas_a": (64, 27, 0),
    "timm:fbnetc_100": (64, 29, 0),
    "timm:mobilenetv3_small_050": (64, 26, 0),
    "timm:semnasnet_050": (64, 32, 0),
    "timm:mobilenetv2_035": (64, 25, 0),
    "timm:resnet10t": (64, 10, 0),
    "timm:seresnet18": (64, 20, 0),
    "timm:regnetx_002": (64, 20, 0),
    "timm:ese_vovnet19b_dw": (64, 23, 0),
    "timm:hgnetv2_b0": (64, 30, 0),
    "timm:mobileone_s0": (64, 4, 0),
    "timm:convnext_atto": (64, 16, 0),
    "timm:efficientvit_b0": (64, 21, 0),
    "timm:pvt_v2_b0": (64, 12, 0),
    "timm:poolformer_s12": (64, 16, 0),
}


@pytest.mark.parametrize("word", NETWORKS)
def test_a_network_of_timm_can_be_traced_resized_and_pruned(
    word: str, other_process: OtherProcess, tmp_path: Path
) -> None:
    check_network(word, *NETWORKS[word], other_process, tmp_path)
