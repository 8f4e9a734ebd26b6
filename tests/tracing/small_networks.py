"""The blocks of torchvision's and timm's networks, fewer and narrower."""

from functools import partial

from torch import nn

from nsopt.torchvision_import import import_torchvision


def resnet(num_classes: int) -> nn.Module:
    """One block of each stage, with and without a projection."""
    module = import_torchvision("models").resnet
    return module.ResNet(module.BasicBlock, [1, 1, 1, 1], num_classes)


def shufflenet(num_classes: int) -> nn.Module:
    models = import_torchvision("models")
    return models.ShuffleNetV2([1, 2, 1], [8, 16, 24, 32, 48], num_classes)


def mobilenet_v3(num_classes: int) -> nn.Module:
    """Squeeze-and-excitation, hard swish, strides, a residual."""
    models = import_torchvision("models")
    block = partial(models.mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1)
    blocks = [
        block(8, 3, 8, 8, True, "RE", stride=2),
        block(8, 3, 24, 16, False, "RE", stride=2),
        block(16, 5, 32, 16, True, "HS", stride=1),
    ]
    return models.MobileNetV3(blocks, 32, num_classes=num_classes)


def regnet_y(num_classes: int) -> nn.Module:
    """Grouped convolutions with squeeze-and-excitation."""
    models = import_torchvision("models")
    stages = models.regnet.BlockParams([1, 2], [16, 32], [8, 8], [1, 1], [2, 2], se_ratio=0.25)
    return models.RegNet(stages, num_classes, stem_width=8)


def googlenet(num_classes: int) -> nn.Module:
    """Parallel branches that are concatenated."""
    inception = import_torchvision("models.googlenet").Inception
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2),
        inception(8, 8, 8, 12, 4, 8, 6),
        nn.MaxPool2d(2),
        inception(34, 12, 8, 16, 4, 8, 8),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(44, num_classes)),
    )


def convnextv2(num_classes: int) -> nn.Module:
    """Global response normalisation, LayerNorm, scaled branches."""
    import_torchvision("models")
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(3, num_classes, depths=(1, 2, 1, 1), dims=(12, 16, 16, 24), use_grn=True)


def resnest(num_classes: int) -> nn.Module:
    """Split attention."""
    import_torchvision("models")
    from timm.models.resnest import ResNestBottleneck
    from timm.models.resnet import ResNet

    return ResNet(
        ResNestBottleneck,
        [1, 1, 1, 1],
        num_classes,
        channels=(8, 16, 16, 24),
        stem_width=8,
        stem_type="deep",
        avg_down=True,
        base_width=64,
        block_args={"radix": 2, "avd": True, "avd_first": False},
    )


def vision_transformer(num_classes: int) -> nn.Module:
    import_torchvision("models")
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
    return VisionTransformer(32, 8, num_classes=num_classes, **sizes)
