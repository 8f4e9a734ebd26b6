"""Small networks of other fields than images, and of images as beginners write them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.networks import layers


@layers(a=nn.Conv2d(3, 6, 5), b=nn.Conv2d(6, 16, 5), hidden=nn.Linear(16 * 25, 24))
@layers(out=nn.Linear(24, 10))
def Viewed(self: Any, x: Tensor) -> Any:
    """LeNet: `view` needs channels first."""
    x = functional.max_pool2d(self.a(x).relu(), 2)
    x = functional.max_pool2d(self.b(x).relu(), 2)
    return self.out(self.hidden(x.view(x.size(0), -1)).relu())


@layers(a=nn.Conv3d(1, 8, 3, 1, 1), norm=nn.BatchNorm3d(8), b=nn.Conv3d(8, 16, 3))
@layers(up=nn.ConvTranspose3d(16, 8, 3), out=nn.Conv3d(16, 2, 1))
def Volumes(self: Any, x: Tensor) -> Any:
    """A 3-D U-Net, whose tensors have no channels last."""
    a = self.norm(self.a(x)).relu()
    return self.out(torch.cat([a, self.up(self.b(a).relu())], 1))


@layers(embedding=nn.Embedding(50, 16))
@layers(each=nn.ModuleList([nn.Conv1d(16, 8, length) for length in (3, 5)]), out=nn.Linear(16, 4))
def Text(self: Any, tokens: Tensor) -> Any:
    """A text CNN: kernels of several lengths read an embedding."""
    x = self.embedding(tokens).transpose(1, 2)
    return self.out(torch.cat([each(x).relu().amax(2) for each in self.each], 1))


class GraphLayer(nn.Module):
    """The rows of its weight are the inputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ (x @ self.weight) + self.bias


@layers(a=GraphLayer(6, 16), b=GraphLayer(16, 12), out=GraphLayer(12, 4))
def Graph(self: Any, x: Tensor, adjacency: Tensor) -> Any:
    x = self.a(x, adjacency).relu()
    return self.out(self.b(x, adjacency).relu(), adjacency)


@layers(a=nn.Linear(6, 16), b=nn.Linear(16, 12), out=nn.Linear(12, 4))
@layers(edges=nn.Buffer(torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])))
def Messages(self: Any, x: Tensor) -> Any:
    """Sums what arrives at each node along edges, as networks of PyG do."""
    source, target = self.edges
    x = self.a(x).relu()
    sent = x.index_select(1, source)
    x = torch.zeros_like(x).scatter_add(1, target.view(1, -1, 1).expand_as(sent), sent)
    x = self.b(x).relu()
    x = x.index_add(1, target, x.index_select(1, source))
    x = x.index_copy(1, source[:2], 2 * x[:, :2])
    first = source[:1].view(1, 1, 1).expand(len(x), 1, x.shape[2])
    return self.out(x + x.gather(1, first))


@layers(a=nn.Parameter(torch.randn(6, 16) / 6), b=nn.Parameter(torch.randn(16, 8) / 4))
@layers(experts=nn.Parameter(torch.randn(3, 8, 12) / 4), gate=nn.Parameter(torch.randn(8, 3)))
@layers(out=nn.Parameter(torch.randn(12, 4)))
def Matrices(self: Any, x: Tensor) -> Any:
    """Widths made by einsum, all parameters in one module; a weight of a mixture of experts."""
    x = torch.einsum("bnd,df->bnf", x, self.a).relu()
    x = torch.einsum("bnf,fg->bng", x, self.b).relu()
    share = torch.einsum("bng,ge->bne", x, self.gate).softmax(-1)
    each = torch.einsum("bng,egh->ebnh", x, self.experts).relu()
    mixed = (each * share.permute(2, 0, 1).unsqueeze(-1)).sum(0)
    return torch.einsum("bnh,hk->bnk", mixed, self.out)


@layers(a=nn.Conv2d(3, 8, 3), weight=nn.Parameter(torch.randn(12, 8, 3, 3) / 8))
@layers(out=nn.Linear(12, 10))
def Unfolded(self: Any, x: Tensor) -> Any:
    """A convolution as a product with unfolded images."""
    patches = functional.unfold(self.a(x).relu(), 3)
    return self.out((self.weight.flatten(1) @ patches).relu().mean(2))


@layers(a=nn.Conv2d(3, 8, 3), places=nn.Conv2d(8, 2, 1), b=nn.Conv2d(8, 12, 3))
@layers(out=nn.Linear(12, 10))
def Warped(self: Any, x: Tensor) -> Any:
    """A map that is read at places which it tells itself, as in optical flow."""
    x = self.a(x).relu()
    grid = self.places(x).tanh().permute(0, 2, 3, 1)
    x = functional.grid_sample(x, grid, align_corners=False)
    return self.out(self.b(x).relu().mean((2, 3)))


@layers(a=nn.Conv2d(3, 8, 3), filters=nn.Parameter(torch.randn(8, 7, 4, 2) / 8))
@layers(mixed=nn.Parameter(torch.randn(8, 12, 2) / 8), out=nn.Linear(12, 10))
def Spectral(self: Any, x: Tensor) -> Any:
    """GFNet and FNO: frequencies of a map are weighted, and mixed as complex numbers."""
    x = self.a(x).relu()
    y = torch.fft.rfft2(x) * torch.view_as_complex(self.filters)
    y = torch.einsum("bihw,io->bohw", y, torch.view_as_complex(self.mixed))
    x = torch.fft.irfft2(y, s=x.shape[2:]).relu().mean((2, 3))
    return self.out(x + torch.view_as_real(y).square().mean((2, 3, 4)))


@layers(steps=nn.Parameter(torch.rand(8) - 4), mixed=nn.Parameter(torch.randn(8, 8, 2)))
@layers(decay=nn.Parameter(torch.zeros(8, 8)), turn=nn.Parameter(torch.rand(8, 8)))
@layers(a=nn.Linear(2, 8), out=nn.Linear(8, 10))
def Diagonal(self: Any, x: Tensor) -> Any:
    """S4D: a state space with complex states, whose kernel is applied by Fourier transforms."""
    x, mixed = self.a(x).transpose(1, 2), torch.view_as_complex(self.mixed)
    length, rates = x.shape[-1], -self.decay.exp() + 1j * self.turn
    turned = rates * self.steps.exp()[:, None]
    powers = (turned[..., None] * torch.arange(length)).exp()
    kernel = torch.einsum("hn,hnl->hl", mixed * (turned.exp() - 1) / rates.conj(), powers).real
    product = torch.fft.rfft(x, 2 * length) * torch.fft.rfft(kernel, 2 * length)
    return self.out(torch.fft.irfft(product)[..., :length].relu().mean(-1))


@layers(keys=nn.Linear(5, 8), values=nn.Linear(5, 12), out=nn.Linear(12, 10))
def FastWeights(self: Any, x: Tensor) -> Any:
    """DeltaNet: a matrix of values by keys, zero at first, is corrected in each step."""
    keys, values = self.keys(x).relu(), self.values(x).relu()
    state = x.new_zeros(x.shape[0], keys.shape[-1], values.shape[-1])
    for key, value in zip(keys.unbind(1), values.unbind(1), strict=True):
        old = torch.einsum("bk,bkv->bv", key, state)
        state = state + key[:, :, None] * (value - old)[:, None]
    return self.out(torch.einsum("bk,bkv->bv", key, state))


@layers(cells=nn.ModuleList([nn.GRUCell(5, 12), nn.GRUCell(12, 12)]), out=nn.Linear(12, 10))
def Stacked(self: Any, x: Tensor) -> Any:
    """Two recurrent cells whose first states are cut from one tensor of zeros."""
    states = list(x.new_zeros(2, x.shape[0], self.out.in_features))
    first, second = self.cells
    for step in x.unbind(1):
        states[0] = first(step, states[0])
        states[1] = second(states[0], states[1])
    return self.out(states[1])


@layers(a=nn.Conv2d(3, 8, 3), routes=nn.Linear(8, 2))
@layers(kernels=nn.Parameter(torch.randn(2, 12, 8, 3, 3) / 8), b=nn.Conv2d(12, 8, 3))
@layers(out=nn.Linear(8, 10))
def Dynamic(self: Any, x: Tensor) -> Any:
    """Kernels mixed for each example: one grouped convolution, examples side by side."""
    x = self.a(x).relu()
    count, channels, *places = x.shape
    routes = self.routes(x.mean((2, 3))).softmax(-1)
    kernels = torch.einsum("bn,noikl->boikl", routes, self.kernels).flatten(0, 1)
    x = functional.conv2d(x.reshape(1, count * channels, *places), kernels, groups=count)
    return self.out(self.b(x.view(count, -1, *x.shape[2:]).relu()).mean((2, 3)))


class OwnNorm(nn.Module):
    """A norm written by hand, with running statistics of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.mean = nn.Buffer(torch.linspace(-1, 1, channels))
        self.variance = nn.Buffer(torch.linspace(1, 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.get_buffer("mean"), self.get_buffer("variance")
        if self.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
            with torch.no_grad():
                self.mean.lerp_(mean, 0.1)
                self.variance.lerp_(variance, 0.1)
        x = (x - mean[:, None, None]) * (variance[:, None, None] + 1e-5).rsqrt()
        return x * self.gain[:, None, None] + self.shift[:, None, None]


@layers(a=nn.Conv2d(3, 12, 3), norm=OwnNorm(12), b=nn.Conv2d(12, 8, 3), out=nn.Linear(8, 10))
def Normed(self: Any, x: Tensor) -> Any:
    return self.out(self.b(self.norm(self.a(x)).relu()).mean((2, 3)))


ROW = torch.tensor([1.0, 2.0, 1.0]) / 4


@layers(a=nn.Conv2d(3, 12, 3), b=nn.Conv2d(12, 8, 3), out=nn.Linear(8, 10))
@layers(filter=nn.Buffer(torch.outer(ROW, ROW).repeat(12, 1, 1, 1)))
def Blurred(self: Any, x: Tensor) -> Any:
    """A buffer holds a filter for every channel, which blurs before a stride."""
    x = self.a(x).relu()
    x = functional.conv2d(x, self.filter, stride=2, groups=x.shape[1])
    return self.out(self.b(x).mean((2, 3)))


BACKBONE = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3))


@layers(backbone=BACKBONE.requires_grad_(False), hidden=nn.Linear(8, 24), out=nn.Linear(24, 10))
def Frozen(self: Any, x: Tensor) -> Any:
    """Has a backbone that is not trained, so that nothing scores its units."""
    return self.out(self.hidden(self.backbone(x).mean((2, 3))).relu())


@layers(a=nn.Conv2d(3, 12, 3, bias=False), norm=nn.BatchNorm2d(12), b=nn.Conv2d(6, 6, 3, 1, 1))
@layers(c=nn.Conv2d(12, 16, 3), out=nn.Linear(16, 10))
def Mixed(self: Any, x: Tensor) -> Any:
    """A channel shuffle joins all channels of a stage: no single one can be removed."""
    x = self.norm(self.a(x)).relu()
    for _ in range(2):
        stays, goes = x.chunk(2, 1)
        x = torch.cat([stays, self.b(goes)], 1)
        x = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return self.out(self.c(x).mean((2, 3)))


@layers(a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(16, 16, 3), c=nn.Conv2d(16, 12, 3))
@layers(out=nn.Linear(12, 10))
def Squeezed(self: Any, x: Tensor) -> Any:
    """`squeeze` would remove a single channel, and the code asks for three elsewhere."""
    x = self.b(self.a(x).relu()).relu()
    if x.shape[1] < 3:
        raise ValueError("three channels at least")
    return self.out(self.c(x).mean((2, 3), keepdim=True).squeeze())


BIAS = torch.randn(1, 12, 5, 5)


@layers(bias=nn.Parameter(BIAS), q=nn.Linear(6, 48), k=nn.Linear(6, 48), v=nn.Linear(6, 48))
@layers(out=nn.Linear(48, 4))
def Biased(self: Any, x: Tensor) -> Any:
    """Attention with any number of heads; each head adds a bias to its scores."""
    q, k, v = (each(x).unflatten(2, (-1, 4)).transpose(1, 2) for each in (self.q, self.k, self.v))
    x = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
    return self.out(x.transpose(1, 2).flatten(2).mean(1))


def FixedBias() -> nn.Module:
    return Biased(nn.Parameter(BIAS, requires_grad=False))


@layers(a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(16, 24, 3), c=nn.Conv2d(24, 16, 3))
@layers(batch=nn.BatchNorm2d(16, affine=False, track_running_stats=False))
@layers(instance=nn.InstanceNorm2d(24), group=nn.GroupNorm(4, 16, affine=False))
@layers(d=nn.Linear(16, 12), layer=nn.LayerNorm(12, elementwise_affine=False))
@layers(out=nn.Linear(12, 10))
def PlainNorms(self: Any, x: Tensor) -> Any:
    """Norms without parameters, which store how many channels they normalise."""
    x = self.instance(self.b(self.batch(self.a(x)).relu())).relu()
    x = self.group(self.c(x)).relu().mean((2, 3))
    return self.out(self.layer(self.d(x)).relu())


class LayerNormOfConvNeXt(nn.Module):
    """A norm that is no layer of PyTorch, and stores its size in a tuple."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = map(nn.Parameter, (torch.ones(channels), torch.zeros(channels)))
        self.normalized_shape = (channels,)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias)


@layers(a=nn.Conv2d(3, 16, 2, 2), b=nn.Conv2d(16, 16, 3, 1, 1, groups=16))
@layers(norm=LayerNormOfConvNeXt(16), out=nn.Linear(16, 10))
@layers(mlp=nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)))
def LikeConvNeXt(self: Any, x: Tensor) -> Any:
    x = self.a(x)
    y = self.mlp(self.norm(self.b(x).permute(0, 2, 3, 1)))
    return self.out((x.permute(0, 2, 3, 1) + y).mean((1, 2)))


@layers(a=nn.Conv2d(3, 12, 3), b=nn.Conv2d(12, 8, 3), c=nn.Conv2d(32, 16, 3))
@layers(shuffle=nn.ChannelShuffle(3), pixels=nn.PixelUnshuffle(2), out=nn.Linear(16, 10))
def Rearranged(self: Any, x: Tensor) -> Any:
    """Shuffles channels, and reads the pixels of a channel as channels."""
    x = self.pixels(self.b(self.shuffle(self.a(x)).relu()).relu())
    return self.out(self.c(x).relu().mean((2, 3)))
