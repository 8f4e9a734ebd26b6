"""Small networks of other fields than images, and of images as beginners write them."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Viewed(nn.Module):
    """LeNet: `view` needs channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.hidden, self.out = nn.Linear(16 * 25, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.a(x).relu(), 2)
        x = functional.max_pool2d(self.b(x).relu(), 2)
        logits: Tensor = self.out(self.hidden(x.view(x.size(0), -1)).relu())
        return logits


class Volumes(nn.Module):
    """A 3-D U-Net, whose tensors have no channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv3d(1, 8, 3, 1, 1), nn.BatchNorm3d(8), nn.Conv3d(8, 16, 3)
        self.up, self.out = nn.ConvTranspose3d(16, 8, 3), nn.Conv3d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.norm(self.a(x)).relu()
        mask: Tensor = self.out(torch.cat([a, self.up(self.b(a).relu())], 1))
        return mask


class Text(nn.Module):
    """A text CNN: kernels of several lengths read an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.each = nn.ModuleList([nn.Conv1d(16, 8, length) for length in (3, 5)])
        self.out = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).transpose(1, 2)
        logits: Tensor = self.out(torch.cat([each(x).relu().amax(2) for each in self.each], 1))
        return logits


class GraphLayer(nn.Module):
    """The rows of its weight are the inputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ (x @ self.weight) + self.bias


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = GraphLayer(6, 16), GraphLayer(16, 12), GraphLayer(12, 4)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        x = self.a(x, adjacency).relu()
        logits: Tensor = self.out(self.b(x, adjacency).relu(), adjacency)
        return logits


class Messages(nn.Module):
    """Sums what arrives at each node along edges, as networks of PyG do."""

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 4)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]]))

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges
        x = self.a(x).relu()
        sent = x.index_select(1, source)
        x = torch.zeros_like(x).scatter_add(1, target.view(1, -1, 1).expand_as(sent), sent)
        x = self.b(x).relu()
        x = x.index_add(1, target, x.index_select(1, source))
        x = x.index_copy(1, source[:2], 2 * x[:, :2])
        first = source[:1].view(1, 1, 1).expand(len(x), 1, x.shape[2])
        logits: Tensor = self.out(x + x.gather(1, first))
        return logits


class Matrices(nn.Module):
    """Widths made by einsum, all parameters in one module; a weight of a mixture of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6, 16) / 6), nn.Parameter(torch.randn(16, 8) / 4)
        self.experts = nn.Parameter(torch.randn(3, 8, 12) / 4)
        self.gate, self.out = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bnd,df->bnf", x, self.a).relu()
        x = torch.einsum("bnf,fg->bng", x, self.b).relu()
        share = torch.einsum("bng,ge->bne", x, self.gate).softmax(-1)
        each = torch.einsum("bng,egh->ebnh", x, self.experts).relu()
        mixed = (each * share.permute(2, 0, 1).unsqueeze(-1)).sum(0)
        return torch.einsum("bnh,hk->bnk", mixed, self.out)


class Unfolded(nn.Module):
    """A convolution as a product with unfolded images."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.weight = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(12, 8, 3, 3) / 8)
        self.out = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = functional.unfold(self.a(x).relu(), 3)
        logits: Tensor = self.out((self.weight.flatten(1) @ patches).relu().mean(2))
        return logits


class Warped(nn.Module):
    """A map that is read at places which it tells itself, as in optical flow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.places = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.b, self.out = nn.Conv2d(8, 12, 3), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        grid = self.places(x).tanh().permute(0, 2, 3, 1)
        x = functional.grid_sample(x, grid, align_corners=False)
        logits: Tensor = self.out(self.b(x).relu().mean((2, 3)))
        return logits


class Spectral(nn.Module):
    """GFNet and FNO: frequencies of a map are weighted, and mixed as complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.filters = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(8, 7, 4, 2) / 8)
        self.mixed, self.out = nn.Parameter(torch.randn(8, 12, 2) / 8), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        y = torch.fft.rfft2(x) * torch.view_as_complex(self.filters)
        y = torch.einsum("bihw,io->bohw", y, torch.view_as_complex(self.mixed))
        x = torch.fft.irfft2(y, s=x.shape[2:]).relu().mean((2, 3))
        logits: Tensor = self.out(x + torch.view_as_real(y).square().mean((2, 3, 4)))
        return logits


class Diagonal(nn.Module):
    """S4D: a state space with complex states, whose kernel is applied by Fourier transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.mixed = nn.Parameter(torch.rand(8) - 4), nn.Parameter(torch.randn(8, 8, 2))
        self.decay, self.turn = nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.rand(8, 8))
        self.a, self.out = nn.Linear(2, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x, mixed = self.a(x).transpose(1, 2), torch.view_as_complex(self.mixed)
        length, rates = x.shape[-1], -self.decay.exp() + 1j * self.turn
        turned = rates * self.steps.exp()[:, None]
        powers = (turned[..., None] * torch.arange(length)).exp()
        kernel = torch.einsum("hn,hnl->hl", mixed * (turned.exp() - 1) / rates.conj(), powers).real
        product = torch.fft.rfft(x, 2 * length) * torch.fft.rfft(kernel, 2 * length)
        logits: Tensor = self.out(torch.fft.irfft(product)[..., :length].relu().mean(-1))
        return logits


class FastWeights(nn.Module):
    """DeltaNet: a matrix of values by keys, zero at first, is corrected in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values, self.out = nn.Linear(5, 8), nn.Linear(5, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        keys, values = self.keys(x).relu(), self.values(x).relu()
        state = x.new_zeros(x.shape[0], keys.shape[-1], values.shape[-1])
        for key, value in zip(keys.unbind(1), values.unbind(1), strict=True):
            old = torch.einsum("bk,bkv->bv", key, state)
            state = state + key[:, :, None] * (value - old)[:, None]
        logits: Tensor = self.out(torch.einsum("bk,bkv->bv", key, state))
        return logits


class Stacked(nn.Module):
    """Two recurrent cells whose first states are cut from one tensor of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(5, 12), nn.GRUCell(12, 12)])
        self.out = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        states = list(x.new_zeros(2, x.shape[0], self.out.in_features))
        first, second = self.cells
        for step in x.unbind(1):
            states[0] = first(step, states[0])
            states[1] = second(states[0], states[1])
        logits: Tensor = self.out(states[1])
        return logits


class Dynamic(nn.Module):
    """Kernels mixed for each example: one grouped convolution, examples side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.routes = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
        self.kernels = nn.Parameter(torch.randn(2, 12, 8, 3, 3) / 8)
        self.b, self.out = nn.Conv2d(12, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        count, channels, *places = x.shape
        routes = self.routes(x.mean((2, 3))).softmax(-1)
        kernels = torch.einsum("bn,noikl->boikl", routes, self.kernels).flatten(0, 1)
        x = functional.conv2d(x.reshape(1, count * channels, *places), kernels, groups=count)
        logits: Tensor = self.out(self.b(x.view(count, -1, *x.shape[2:]).relu()).mean((2, 3)))
        return logits


class OwnNorm(nn.Module):
    """A norm written by hand, with running statistics of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain, self.shift = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )
        self.register_buffer("mean", torch.linspace(-1, 1, channels))
        self.register_buffer("variance", torch.linspace(1, 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.get_buffer("mean"), self.get_buffer("variance")
        if self.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
            with torch.no_grad():
                self.get_buffer("mean").lerp_(mean, 0.1)
                self.get_buffer("variance").lerp_(variance, 0.1)
        x = (x - mean[:, None, None]) * (variance[:, None, None] + 1e-5).rsqrt()
        return x * self.gain[:, None, None] + self.shift[:, None, None]


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 12, 3), OwnNorm(12), nn.Conv2d(12, 8, 3)
        self.out = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.b(self.norm(self.a(x)).relu()).mean((2, 3)))
        return logits


class Blurred(nn.Module):
    """A buffer holds a filter for every channel, which blurs before a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3), nn.Linear(8, 10)
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filter", torch.outer(row, row).repeat(12, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = functional.conv2d(x, self.get_buffer("filter"), stride=2, groups=x.shape[1])
        logits: Tensor = self.out(self.b(x).mean((2, 3)))
        return logits


class Frozen(nn.Module):
    """Has a backbone that is not trained, so that nothing scores its units."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3))
        self.backbone.requires_grad_(False)
        self.hidden, self.out = nn.Linear(8, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.hidden(self.backbone(x).mean((2, 3))).relu())
        return logits


class Mixed(nn.Module):
    """A channel shuffle joins all channels of a stage: no single one can be removed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12)
        self.b, self.c, self.out = nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(12, 16, 3), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x)).relu()
        for _ in range(2):
            stays, goes = x.chunk(2, 1)
            x = torch.cat([stays, self.b(goes)], 1)
            x = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        logits: Tensor = self.out(self.c(x).mean((2, 3)))
        return logits


class Squeezed(nn.Module):
    """`squeeze` would remove a single channel, and the code asks for three elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 12, 3)
        self.out = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).relu()
        if x.shape[1] < 3:
            raise ValueError("three channels at least")
        logits: Tensor = self.out(self.c(x).mean((2, 3), keepdim=True).squeeze())
        return logits


class Attending(nn.Module):
    """Attention by einsum: its code computes the size of a head from the width of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out, self.heads = nn.Linear(6, 16), nn.Linear(16, 4), 2
        self.q, self.k, self.v, self.joined = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        count, steps, size = x.shape
        heads = (count, steps, self.heads, size // self.heads)
        q, k, v = (each(x).view(heads) for each in (self.q, self.k, self.v))
        weights = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
        x = x + self.joined(torch.einsum("bhij,bjhd->bihd", weights, v).reshape(x.shape))
        logits: Tensor = self.out(x.mean(1))
        return logits


class Biased(nn.Module):
    """Attention with any number of heads; each head adds a bias to its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 12 * 4) for _ in range(3))
        self.bias, self.out = nn.Parameter(torch.randn(1, 12, 5, 5)), nn.Linear(12 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            each(x).unflatten(2, (-1, 4)).transpose(1, 2) for each in (self.q, self.k, self.v)
        )
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        logits: Tensor = self.out(x.transpose(1, 2).flatten(2).mean(1))
        return logits


class FixedBias(Biased):
    def __init__(self) -> None:
        super().__init__()
        self.bias.requires_grad_(False)


class Repeated(nn.Module):
    """A recurrent convolution, whose first state is `zeros_like` its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.step, self.out = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(16, 8, 3, 1, 1),
            nn.Linear(8, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        state = torch.zeros_like(x)
        for _ in range(2):
            state = self.step(torch.cat([x, state], 1)).tanh()
        logits: Tensor = self.out(state.mean((2, 3)))
        return logits


class PlainNorms(nn.Module):
    """Norms without parameters, which store how many channels they normalise."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Conv2d(24, 16, 3)
        self.batch = nn.BatchNorm2d(16, affine=False, track_running_stats=False)
        self.instance, self.group = nn.InstanceNorm2d(24), nn.GroupNorm(4, 16, affine=False)
        self.d, self.layer = nn.Linear(16, 12), nn.LayerNorm(12, elementwise_affine=False)
        self.out = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.instance(self.b(self.batch(self.a(x)).relu())).relu()
        x = self.group(self.c(x)).relu().mean((2, 3))
        logits: Tensor = self.out(self.layer(self.d(x)).relu())
        return logits


class LayerNormOfConvNeXt(nn.Module):
    """A norm that is no layer of PyTorch, and stores its size in a tuple."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )
        self.normalized_shape = (channels,)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias)


class LikeConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 2, 2), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.norm, self.out = LayerNormOfConvNeXt(16), nn.Linear(16, 10)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.mlp(self.norm(self.b(x).permute(0, 2, 3, 1)))
        logits: Tensor = self.out((x.permute(0, 2, 3, 1) + y).mean((1, 2)))
        return logits


class Rearranged(nn.Module):
    """Shuffles channels, and reads the pixels of a channel as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3), nn.Conv2d(32, 16, 3)
        self.shuffle, self.pixels = nn.ChannelShuffle(3), nn.PixelUnshuffle(2)
        self.out = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pixels(self.b(self.shuffle(self.a(x)).relu()).relu())
        logits: Tensor = self.out(self.c(x).relu().mean((2, 3)))
        return logits
