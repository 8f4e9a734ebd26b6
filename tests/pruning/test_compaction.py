"""Networks that shrink while they train against networks whose channels are only masked."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from nsopt import Architecture, SearchSettings, Silent, architectures, get_architecture
from nsopt.compute.device import Compute, place, use_seed
from nsopt.data.images import ImageData, ImageSet, Splits
from nsopt.pruning.engine import iterative_prune
from nsopt.pruning.shrinking import ShrinkingModel
from nsopt.pruning.streams import Streams
from nsopt.scaling.record import gives_a_law
from nsopt.tasks.classification import Classification
from nsopt.training.kernels import fast_kernels
from tests import masked_search
from tests.rescaled import with_base_widths

CPU = Compute(torch.device("cpu"), bf16=False)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_small(name: str) -> Architecture:
    arch = get_architecture(name, image_size=32 if name == "vgg11" else 16)
    return with_base_widths(arch, tuple(max(6, w // 16) for w in arch.base_widths))


def make_noise(size: int) -> Splits:
    """Ten classes that differ in brightness. Call it when the default type is set."""
    labels = torch.arange(60) % 10
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(128, (60, 3, size, size), generator=generator)
    images = ImageSet((noise + 12 * labels[:, None, None, None]).to(torch.uint8), labels)
    return ImageData("noise", tuple("0123456789"), images, images).split(0.2)


def make_settings(arch: Architecture) -> SearchSettings:
    return SearchSettings(
        pretrain_epochs=1,
        prune_every=1 if arch.name.startswith("mobilenet") else 2,  # which has many layers
        filters_per_step=sum(arch.base_widths) // 8,
        batch_size=13,
        lr=0.05,
        keep_fraction=0.1,
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", architectures())
def test_shrinking_and_masked_networks_give_the_same_record(name: str) -> None:
    arch = make_small(name)
    splits = make_noise(arch.input_shape[-1])
    settings = make_settings(arch)
    how = Classification(splits), settings, CPU, Silent()
    shrinking = iterative_prune(arch, arch.base_widths, *how)
    with use_seed(settings.seed, CPU.device):
        search = masked_search.gated(arch, arch.base_widths, follow=True)
    with fast_kernels(search.model):  # rounding decides between equally unimportant channels
        masked = list(masked_search.run(search, splits, settings))
    assert len(masked) >= 5  # it ends before a layer is empty, whether there is a law or not
    assert shrinking.widths[: len(masked)].tolist() == masked
    assert gives_a_law(masked) == (len(shrinking.widths) == len(masked))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", architectures())
def test_a_compacted_network_trains_like_a_masked_one(name: str) -> None:
    """Outputs after a few steps more agree, and momentum has the weights' shapes."""
    arch = make_small(name)
    splits = make_noise(arch.input_shape[-1])
    rest = [np.arange(width) % 3 for width in arch.base_widths]
    kept = [np.flatnonzero(own != group % 3) for group, own in enumerate(rest)]
    images = splits.train.images[:20] / 128
    models = []
    for cut in (False, True):
        with use_seed(0, CPU.device):
            search = masked_search.gated(arch, arch.base_widths, follow=True)
        model = place(search.model, CPU.device, arch.layout)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5, weight_decay=1e-3)
        for step in range(5):
            if step == 3 and cut:
                for hooks in (m._forward_hooks for m in model.modules()):
                    hooks.clear()
                ShrinkingModel(arch, model).shrink(kept, optimizer)
            elif step == 3:
                for mask, channels in zip(search.masks, kept, strict=True):
                    mask.fill_(0)[channels] = 1
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), splits.train.labels[:20]).backward()
            optimizer.step()
        models.append(model)
    masked, compacted = (model(images) for model in models)
    torch.testing.assert_close(compacted, masked, rtol=1e-5, atol=1e-7)
    momentum = [state["momentum_buffer"].shape for state in optimizer.state.values()]
    assert momentum == [p.shape for p in models[1].parameters()]


@pytest.mark.parametrize("name", ["vgg11", "mobilenetv2-tied", "mobilenetv2-convcut"])
def test_a_compacted_network_has_the_shapes_of_one_built_at_its_widths(name: str) -> None:
    arch = make_small(name)
    model = arch.build(arch.base_widths)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    kept = [np.arange(0, width, 2) for width in arch.base_widths]
    ShrinkingModel(arch, model).shrink(kept, optimizer)
    built = arch.build([len(channels) for channels in kept])
    for module, expected in zip(model.modules(), built.modules(), strict=True):
        assert module.extra_repr() == expected.extra_repr()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in built.state_dict().items()}


def test_a_residual_stream_keeps_channels_that_later_blocks_read() -> None:
    arch = get_architecture("resnet18")
    model = arch.build(arch.base_widths)
    kept = [np.arange(width) for width in arch.base_widths]
    kept[0], kept[2], kept[4] = np.array([1]), np.array([2, 3]), np.array([5])
    written = Streams(arch.design, model).find_written(kept)
    assert written[0].tolist() == [1, 2, 3, 5]  # blocks 1 and 2 carry it on to block 3
    assert written[2].tolist() == [2, 3, 5]
    assert written[4].tolist() == [5]  # block 3 has a stride, and so a projection
    convcut = get_architecture("resnet18-convcut")
    streams = Streams(convcut.design, convcut.build(arch.base_widths))
    assert streams.find_written(kept)[0].tolist() == [1]
