"""Networks of torchvision and timm are traced, resized, pruned, searched and exported.

The larger ones, and all searches and most exports, run by `-m networks`.
"""

from pathlib import Path

import pytest

from tests.tracing.checks import (
    OtherProcess,
    check_exports,
    check_network,
    check_search,
    randomise,
    selected_first,
    skip_without_timm,
    trace_network,
)

_SMALL = "tests.tracing.small_networks"
TORCHVISION = {  # side of images, number of widths, of refused groups
    "torchvision:squeezenet1_1": (64, 25, 0),
    f"{_SMALL}:googlenet": (64, 13, 0),
    f"{_SMALL}:mobilenet_v3": (64, 9, 0),
    f"{_SMALL}:regnet_y": (64, 12, 0),
    f"{_SMALL}:resnet": (64, 8, 0),
    f"{_SMALL}:shufflenet": (64, 9, 0),
}
SMALL_TIMM = {
    "timm:test_byobnet": (64, 14, 0),
    "timm:test_efficientnet": (64, 13, 0),
    "timm:test_mambaout": (64, 18, 0),
    f"{_SMALL}:convnextv2": (64, 9, 0),
    f"{_SMALL}:resnest": (64, 19, 0),
    f"{_SMALL}:vision_transformer": (32, 5, 0),
}
LARGE_TORCHVISION = {
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
LARGE_TIMM = {
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
SMALL, TIMM = TORCHVISION | SMALL_TIMM, SMALL_TIMM | LARGE_TIMM
NETWORKS = SMALL | LARGE_TORCHVISION | LARGE_TIMM
NOT_EXPORTED = ("timm:tf_efficientnet_cc_b0_4e",)  # torch.onnx does not convert its routed kernels
EXPORTED = [f"{_SMALL}:{name}" for name in ("resnet", "vision_transformer")]
LATER = [word for word in NETWORKS if word not in (*EXPORTED, *NOT_EXPORTED)]


@pytest.fixture(autouse=True)
def _skip_without_timm(word: str) -> None:
    if word in TIMM:
        skip_without_timm()


@pytest.mark.parametrize("word", selected_first(SMALL, LARGE_TORCHVISION | LARGE_TIMM))
def test_networks_pass_all_checks(word: str, other_process: OtherProcess, tmp_path: Path) -> None:
    check_network(word, *NETWORKS[word], other_process, tmp_path)


@pytest.mark.parametrize("word", selected_first((), NETWORKS))
def test_a_search_ends_in_a_law(word: str) -> None:
    arch, _, x = trace_network(word, NETWORKS[word][0])
    check_search(arch, x)


@pytest.mark.parametrize("word", selected_first(EXPORTED, LATER))
def test_a_pruned_network_computes_the_same_after_its_export(word: str, tmp_path: Path) -> None:
    arch, model, x = trace_network(word, NETWORKS[word][0])
    randomise(model)
    check_exports(arch, model, x, tmp_path)
