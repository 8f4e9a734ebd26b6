"""The modules that networks are built from against those of PyTorch."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import fuse_modules
from torch.nn import functional

from nsopt.models.registry import architectures, get_architecture
from nsopt.training.kernels import DepthwiseConv2d, SafeConv2d, fast_kernels
from tests.forked import Forked, run_code

TOLERANCE = {torch.float64: 1e-11, torch.bfloat16: 3e-2}


def draw_image(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 2
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def compute_outcome(module: nn.Module, x: Tensor, seed: int = 7) -> list[Tensor]:
    """Return output, gradients of the input and of the parameters, and the buffers afterwards.

    The output is changed in place, as activations of other libraries do.
    """
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = functional.leaky_relu_(module(x), 0.5)
    output.backward(draw_image(output.shape, seed, output.dtype))
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert x.grad is not None
    return [output, x.grad, *gradients, *module.buffers()]


def assert_same(module: nn.Module, standard: nn.Module, x: Tensor) -> None:
    standard.load_state_dict(module.state_dict())
    tolerance = TOLERANCE[x.dtype]
    for got, expected in zip(compute_outcome(module, x), compute_outcome(standard, x), strict=True):
        scale = float(expected.detach().abs().max().clamp(min=1))
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * scale)


GEOMETRIES: list[dict] = [
    {"padding": 0, "kernel_size": 2},
    {"padding": 2},
    {"padding": 2, "dilation": 2},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": "same"},
    {"padding": (1, 2)},
    {"padding": 1, "groups": 2},
    {"padding": 1, "stride": (1, 2)},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "stride": 2, "padding": 1},
    {"kernel_size": 1, "stride": (1, 2), "padding": "valid"},
]


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
@pytest.mark.parametrize("side", [2, 5])
def test_any_convolution_equals_that_of_pytorch(options: dict, side: int) -> None:
    given = {"kernel_size": 3} | options
    module, standard = (kind(6, 4, **given).double() for kind in (SafeConv2d, nn.Conv2d))
    assert_same(module, standard, draw_image((3, 6, side, side), 0))


@pytest.mark.parametrize(
    "options",
    [
        options | {"stride": stride}
        for options in GEOMETRIES
        for stride in (1, 2, (1, 2))
        if stride == 1 or options.get("padding") != "same"  # which PyTorch refuses
    ],
    ids=str,
)
@pytest.mark.parametrize("side", [2, 5])
def test_any_depthwise_convolution_equals_that_of_pytorch(options: dict, side: int) -> None:
    given = {"kernel_size": 3} | options | {"groups": 6}
    module, standard = (kind(6, 6, **given) for kind in (DepthwiseConv2d, nn.Conv2d))
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(module, standard, draw_image((3, 6, side, side), 0, torch.bfloat16))


STRIDED_POINTS = """
import torch
from nsopt.training.kernels import SafeConv2d

for channels in range(7, 16):
    convolution = SafeConv2d(channels, 24, 1, 2, channels % 2).to(memory_format=torch.channels_last)
    x = torch.randn(77, channels, 32, 32).to(memory_format=torch.channels_last)
    for _ in range(10):
        convolution(x).sum().backward()
"""


def test_a_strided_convolution_of_few_channels_does_not_corrupt_memory() -> None:
    """nn.Conv2d would crash the process, so this runs in a separate one."""
    ended = Forked(run_code, STRIDED_POINTS).finish()
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
def test_a_padded_depthwise_convolution_equals_that_of_pytorch(
    side: int, stride: int, dtype: torch.dtype
) -> None:
    weights = torch.promote_types(dtype, torch.float32)
    module, standard = (
        kind(6, 6, 3, stride=stride, padding=1, groups=6, dtype=weights)
        for kind in (DepthwiseConv2d, nn.Conv2d)
    )
    x = draw_image((4, 6, side, side), 0, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for layout in (torch.channels_last, torch.contiguous_format):
            output = module(x.contiguous(memory_format=layout))
            assert output.dtype == dtype
            assert output.is_contiguous(memory_format=layout)
        assert_same(module, standard, x)


@pytest.mark.parametrize("name", architectures())
def test_the_memory_layout_changes_no_result(name: str) -> None:
    """Channels-last tensors use the fast kernels, others those of PyTorch."""
    arch = get_architecture(name)
    model = arch.build([5 + i % 3 for i in range(len(arch.base_widths))]).double()
    x = draw_image((4, *arch.input_shape), 0)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model.to(memory_format=layout)  # type: ignore[call-overload]
        model.zero_grad()
        with fast_kernels(model):
            loss = model(x.contiguous(memory_format=layout)).square().mean()
            loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-7, atol=1e-9)


def test_fast_kernels_replace_modules_only_inside_their_context() -> None:
    class Own(nn.Conv2d):
        """A subclass of a user, which may have its own forward."""

    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), Own(8, 8, 3))
    )
    plain = [type(module) for module in model]
    with fast_kernels(model):
        assert [type(m) for m in model] == [SafeConv2d, nn.BatchNorm2d, DepthwiseConv2d, Own]
    assert [type(module) for module in model] == plain
    with pytest.raises(RuntimeError), fast_kernels(model):
        model(torch.zeros(1))
    assert [type(module) for module in model] == plain


@pytest.mark.parametrize("name", architectures())
def test_other_tools_work_on_built_networks(name: str) -> None:
    model = get_architecture(name).build([4] * len(get_architecture(name).base_widths)).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit itself
        torch.testing.assert_close(torch.jit.script(model)(x), model(x))
    pairs = [
        [path, norm]
        for path, module in model.named_modules()
        for norm in (path.replace("conv", "bn"), f"{path}_bn")
        if isinstance(module, nn.Conv2d) and norm in dict(model.named_modules()) and norm != path
    ]
    if "resnet" not in name:  # which normalises before it convolves
        assert pairs
        fused = fuse_modules(model, pairs)
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)
