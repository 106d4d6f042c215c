"""The project's models in PyTorch, written as a PyTorch user would, with the same parameter names.

They give the reference outputs and gradients of tests/fixtures/make_models.py and are the opponent that
benches/peers times. Images are NCHW (in channels-last memory where that is natural), tokens [B, T, N, C].
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn


# Whether blocks join the batch before attention. PyTorch's fused kernels take [B, heads, N, d] only; with blocks in a dimension of
# their own, as timm's NesT has them, it multiplies and keeps all probabilities. Which is faster depends on the shapes.
FOLD_BLOCKS = False


def attend(q, k, v):
    if q.shape[1] > 1 and not FOLD_BLOCKS:
        return F.scaled_dot_product_attention(q, k, v)
    folded = [x.flatten(0, 1) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*folded).unflatten(0, q.shape[:2])


class MultiHead(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        b, t, n, c = x.shape
        qkv = self.qkv(x).reshape(b, t, n, 3, self.heads, c // self.heads).permute(3, 0, 1, 4, 2, 5)
        x = attend(*qkv.unbind(0))
        return self.proj(x.transpose(2, 3).reshape(b, t, n, c))


class MultiQuery(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * (dim // heads))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        b, t, n, c = x.shape
        q = self.q(x).reshape(b, t, n, self.heads, c // self.heads).transpose(2, 3)
        k, v = self.kv(x).unsqueeze(2).expand(-1, -1, self.heads, -1, -1).chunk(2, dim=-1)
        return self.proj(attend(q, k, v).transpose(2, 3).reshape(b, t, n, c))


class Mlp(nn.Module):
    def __init__(self, dim, gelu):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.gelu = gelu

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate=self.gelu))


class TransformerLayer(nn.Module):
    def __init__(self, dim, heads, attention="multi_head", gelu="tanh"):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = {"multi_head": MultiHead, "multi_query": MultiQuery}[attention](dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, gelu)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def blockify(x, size):
    """NCHW -> [B, T, N, C]"""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h // size, size, w // size, size, c).transpose(2, 3)
    return x.reshape(b, -1, size * size, c)


def deblockify(x, size):
    """[B, T, N, C] -> NCHW"""
    b, t, _, c = x.shape
    side = math.isqrt(t)
    x = x.reshape(b, side, side, size, size, c).transpose(2, 3)
    return x.reshape(b, side * size, side * size, c).permute(0, 3, 1, 2)


class BlockDeaggregation(nn.Module):
    def __init__(self, kind, block_size, inputs, outputs):
        super().__init__()
        self.kind, self.block_size = kind, block_size
        shuffles = kind != "nearest_conv"
        self.expand = nn.Linear(inputs, 4 * outputs) if shuffles and inputs != 4 * outputs else nn.Identity()
        if kind != "pixel_shuffle":
            self.conv = nn.Conv2d(outputs if shuffles else inputs, outputs, 3, padding=1)
        self.norm = nn.LayerNorm(outputs, eps=1e-6)

    def forward(self, x):
        x = deblockify(self.expand(x), self.block_size)
        x = F.interpolate(x, scale_factor=2) if self.kind == "nearest_conv" else F.pixel_shuffle(x, 2)
        if self.kind != "pixel_shuffle":
            x = self.conv(x)
        return self.norm(blockify(x, self.block_size))


class GeneratorLevel(nn.Module):
    def __init__(self, cfg, index):
        super().__init__()
        dims, size = cfg["dims"], cfg["block_size"]
        dim = dims[index]
        self.pos_embed = nn.Parameter(torch.zeros(4**index, size * size, dim))
        heads = max(1, dim // cfg["head_dim"])
        layers = [TransformerLayer(dim, heads, cfg["attention"]) for _ in range(cfg["depths"][index])]
        self.layers = nn.Sequential(*layers)
        self.up = None
        if index + 1 < len(dims):
            self.up = BlockDeaggregation(cfg["deaggregation"], size, dim, dims[index + 1])
        self.draws = self.up is not None and cfg["rgb"] == "every_level"
        if self.draws:
            self.norm, self.to_rgb, self.size = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 3), size

    def forward(self, x, picture):
        x = self.layers(x + self.pos_embed)
        if self.draws:
            rgb = deblockify(self.to_rgb(self.norm(x)), self.size)
            rgb = rgb.float() if rgb.dtype == torch.bfloat16 else rgb
            rgb = rgb if picture is None else picture + rgb
            picture = F.avg_pool2d(F.interpolate(rgb, scale_factor=2), 3, 1, 1, count_include_pad=False)
        return (x if self.up is None else self.up(x)), picture


class TransposedNest(nn.Module):
    """z [B, z_dim] -> images [B, 3, H, W]"""

    def __init__(self, cfg):
        super().__init__()
        self.size, dims = cfg["block_size"], cfg["dims"]
        self.input = nn.Linear(cfg["z_dim"], self.size**2 * dims[0])
        self.levels = nn.ModuleList([GeneratorLevel(cfg, i) for i in range(len(dims))])
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.to_rgb = nn.Linear(dims[-1], 3)

    def forward(self, z):
        x, picture = self.input(z).reshape(len(z), 1, self.size**2, -1), None
        for level in self.levels:
            x, picture = level(x, picture)
        rgb = deblockify(self.to_rgb(self.norm(x)), self.size)
        return rgb if picture is None else picture + rgb


class SpectralNorm(nn.Module):
    """A convolution or linear layer under torch.nn.utils.spectral_norm's names and arithmetic, one iteration a forward pass.

    PyTorch's own writes u and v in place. torch.compile then keeps no copy of them, and a backward pass after two forward
    passes (real and fake images) fails; here each pass makes new ones.
    """

    def __init__(self, layer, apply):
        super().__init__()
        self.weight_orig, self.bias, self.apply_weight = layer.weight, layer.bias, apply
        rows, columns = layer.weight.flatten(1).shape
        self.register_buffer("weight_u", F.normalize(torch.randn(rows), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(columns), dim=0))

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            matrix = self.weight_orig.flatten(1)
            if self.training:
                with torch.no_grad():
                    v = F.normalize(matrix.t().mv(self.weight_u), dim=0, eps=1e-12)
                    self.weight_u, self.weight_v = F.normalize(matrix.mv(v), dim=0, eps=1e-12), v
            weight = self.weight_orig / self.weight_u.dot(matrix.mv(self.weight_v))
        return self.apply_weight(x, weight, self.bias)


def conv(inputs, outputs, kernel, sn, bias=True):
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    return SpectralNorm(layer, functools.partial(F.conv2d, padding=kernel // 2)) if sn else layer


def linear(inputs, outputs, sn, bias=True):
    layer = nn.Linear(inputs, outputs, bias=bias)
    return SpectralNorm(layer, F.linear) if sn else layer


class DiscriminatorBlock(nn.Module):
    def __init__(self, inputs, outputs, sn):
        super().__init__()
        self.conv1 = conv(inputs, inputs, 3, sn)
        self.conv2 = conv(inputs, outputs, 3, sn)
        self.shortcut = conv(inputs, outputs, 1, sn, bias=False)

    def forward(self, x):
        shortcut = self.shortcut(F.avg_pool2d(x, 2))
        x = F.avg_pool2d(F.leaky_relu(self.conv1(x), 0.2), 2)
        return F.leaky_relu(self.conv2(x), 0.2) + shortcut


class Discriminator(nn.Module):
    """images [B, 3, H, W] -> logits [B]"""

    def __init__(self, cfg):
        super().__init__()
        channels, sn, self.stddev = cfg["channels"], cfg["spectral_norm"], cfg["minibatch_stddev"]
        self.from_rgb = conv(3, channels[0], 3, sn)
        blocks = [DiscriminatorBlock(i, o, sn) for i, o in zip(channels, channels[1:])]
        self.blocks = nn.Sequential(*blocks)
        self.conv = conv(channels[-1] + self.stddev, channels[-1], 3, sn)
        self.head = linear(16 * channels[-1], 1, sn)

    def forward(self, x):
        x = self.blocks(F.leaky_relu(self.from_rgb(x), 0.2))
        if self.stddev:
            b, _, h, w = x.shape
            group = next(g for g in (4, 3, 2, 1) if b % g == 0)
            std = (x.reshape(group, b // group, -1).var(0, unbiased=False) + 1e-8).sqrt().mean(1)
            x = torch.cat([x, std.repeat(group).reshape(b, 1, 1, 1).expand(b, 1, h, w)], 1)
        x = F.leaky_relu(self.conv(x), 0.2)
        return self.head(x.permute(0, 2, 3, 1).flatten(1)).squeeze(1)


def same_pool(x):
    """3x3 max pool of stride 2 with TensorFlow's padding: nothing before, one after."""
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)


class BlockAggregation(nn.Module):
    def __init__(self, kind, padding, inputs, outputs):
        super().__init__()
        self.kind, self.padding = kind, padding
        kernel, stride = {"conv_pool": (3, 1), "conv": (3, 2), "pool": (1, 1), "none": (1, 1)}[kind]
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(outputs, eps=1e-6)

    def forward(self, x):
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.kind in ("conv_pool", "pool"):
            return same_pool(x) if self.padding == "same" else F.max_pool2d(x, 3, 2, 1)
        return F.avg_pool2d(x, 2) if self.kind == "none" else x


class ClassifierLevel(nn.Module):
    def __init__(self, cfg, index):
        super().__init__()
        dims, levels = cfg["dims"], len(cfg["dims"])
        self.size = cfg["resolution"] // cfg["patch_size"] >> (levels - 1)
        dim, blocks = dims[index], 4 ** (levels - 1 - index)
        if index > 0:
            self.pool = BlockAggregation(cfg["aggregation"], cfg["padding"], dims[index - 1], dim)
        else:
            self.pool = nn.Identity()
        self.pos_embed = nn.Parameter(torch.zeros(blocks, self.size**2, dim))
        gelu = "tanh" if cfg["gelu"] == "tanh" else "none"
        shape = (dim, cfg["heads"][index], cfg["attention"], gelu)
        self.transformer_encoder = nn.Sequential(*[TransformerLayer(*shape) for _ in range(cfg["depths"][index])])

    def forward(self, x):
        x = blockify(self.pool(x), self.size) + self.pos_embed
        return deblockify(self.transformer_encoder(x), self.size)


class PatchEmbed(nn.Module):
    def __init__(self, dim, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x):
        return self.proj(x)


class Nest(nn.Module):
    """images [B, 3, H, W] -> logits [B, classes], without drop-path"""

    def __init__(self, cfg):
        super().__init__()
        dims = cfg["dims"]
        self.patch_embed = PatchEmbed(dims[0], cfg["patch_size"])
        self.levels = nn.Sequential(*[ClassifierLevel(cfg, i) for i in range(len(dims))])
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], cfg["classes"])

    def forward(self, x):
        x = self.levels(self.patch_embed(x))
        return self.head(self.norm(x.permute(0, 2, 3, 1)).mean((1, 2)))


class Vit(nn.Module):
    """images [B, 3, H, W] -> logits [B, classes], without drop-path"""

    def __init__(self, cfg):
        super().__init__()
        dim, patch = cfg["dim"], cfg["patch_size"]
        self.patch_embed = PatchEmbed(dim, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (cfg["resolution"] // patch) ** 2 + 1, dim))
        gelu = "tanh" if cfg["gelu"] == "tanh" else "none"
        layers = [TransformerLayer(dim, cfg["heads"], "multi_head", gelu) for _ in range(cfg["depth"])]
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, cfg["classes"])

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        x = self.norm(self.blocks(x.unsqueeze(1)).squeeze(1))
        return self.head(x[:, 0])


class SelfAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.theta = linear(channels, channels // 8, True, bias=False)
        self.phi = linear(channels, channels // 8, True, bias=False)
        self.g = linear(channels, channels // 2, True, bias=False)
        self.o = linear(channels // 2, channels, True, bias=False)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        b, c, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1)
        pool = lambda t: F.max_pool2d(t.permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)
        theta, phi, g = self.theta(tokens).reshape(b, h * w, -1), pool(self.phi(tokens)), pool(self.g(tokens))
        mixed = self.o(torch.softmax(theta @ phi.transpose(1, 2), -1) @ g)
        return x + self.gain * mixed.reshape(b, h, w, c).permute(0, 3, 1, 2)


class UpBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, True)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3, True)
        self.shortcut = conv(inputs, outputs, 1, True)

    def forward(self, x):
        shortcut = self.shortcut(F.interpolate(x, scale_factor=2))
        x = self.conv1(F.interpolate(F.relu(self.norm1(x)), scale_factor=2))
        return self.conv2(F.relu(self.norm2(x))) + shortcut


def attention_side(cfg):
    return 16 if cfg["resolution"] == 32 else 32


class SaganGenerator(nn.Module):
    """z [B, z_dim] -> images [B, 3, H, W] in -1..1"""

    SHAPES = {32: (4, 4, 4, 4), 64: (16, 8, 4, 2, 1), 128: (16, 16, 8, 4, 2, 1)}

    def __init__(self, cfg):
        super().__init__()
        channels = [c * cfg["width"] for c in self.SHAPES[cfg["resolution"]]]
        self.side = attention_side(cfg)
        self.input = linear(cfg["z_dim"], 16 * channels[0], True)
        self.blocks = nn.ModuleList([UpBlock(i, o) for i, o in zip(channels, channels[1:])])
        if cfg["attention"]:
            self.attention = SelfAttention(channels[self.side.bit_length() - 3])
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = conv(channels[-1], 3, 3, True)

    def forward(self, z):
        x = self.input(z).reshape(len(z), 4, 4, -1).permute(0, 3, 1, 2)
        for block in self.blocks:
            x = block(x)
            if x.shape[2] == self.side and hasattr(self, "attention"):
                x = self.attention(x)
        return torch.tanh(self.to_rgb(F.relu(self.norm(x))))


class DownBlock(nn.Module):
    def __init__(self, inputs, outputs, down, first):
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = conv(inputs, outputs, 3, True)
        self.conv2 = conv(outputs, outputs, 3, True)
        self.shortcut = conv(inputs, outputs, 1, True) if down or inputs != outputs else nn.Identity()

    def forward(self, x):
        shortcut = self.shortcut(x)
        x = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        return F.avg_pool2d(x + shortcut, 2) if self.down else x + shortcut


class SaganDiscriminator(nn.Module):
    """images [B, 3, H, W] -> logits [B]"""

    SHAPES = {
        32: ((2, True), (2, True), (2, False), (2, False)),
        64: ((1, True), (2, True), (4, True), (8, True), (16, False)),
        128: ((1, True), (2, True), (4, True), (8, True), (16, True), (16, False)),
    }

    def __init__(self, cfg):
        super().__init__()
        shape = [(c * cfg["width"], down) for c, down in self.SHAPES[cfg["resolution"]]]
        self.side = attention_side(cfg)
        inputs = [3] + [c for c, _ in shape]
        blocks = [DownBlock(i, o, down, n == 0) for n, (i, (o, down)) in enumerate(zip(inputs, shape))]
        self.blocks = nn.ModuleList(blocks)
        self.place = (cfg["resolution"] // self.side).bit_length() - 2
        if cfg["attention"]:
            self.attention = SelfAttention(shape[self.place][0])
        self.head = linear(shape[-1][0], 1, True)

    def forward(self, x):
        for n, block in enumerate(self.blocks):
            x = block(x)
            if n == self.place and hasattr(self, "attention"):
                x = self.attention(x)
        return self.head(F.relu(x).sum((2, 3))).squeeze(1)


def to_channels_last_columns(v, weight):
    """A spectral-norm vector over [in, kh, kw] -> over [kh, kw, in], as a column."""
    if weight.dim() == 4:
        v = v.reshape(weight.shape[1:]).permute(1, 2, 0)
    return v.reshape(-1, 1)


def named_tensors(module):
    """The parameters and buffers of a module under the project's names: weights in PyTorch's layout,
    spectral-norm vectors as columns."""
    state = {name: t.detach() for name, t in module.state_dict().items() if "num_batches" not in name}
    out = {}
    for name, t in state.items():
        if name.endswith("weight_v"):
            t = to_channels_last_columns(t, state[name[:-1] + "orig"])
        elif name.endswith("weight_u"):
            t = t.reshape(-1, 1)
        out[name.removesuffix("_orig")] = t.contiguous().clone()
    return out


def named_gradients(module):
    """The gradients of a module's parameters under the project's names."""
    return {n.removesuffix("_orig"): p.grad.contiguous().clone() for n, p in module.named_parameters()}


def load_named(module, tensors):
    """Copies tensors under the project's names (see named_tensors) into a module."""
    state = module.state_dict()
    for name, t in state.items():
        if "num_batches" in name:
            continue
        new = tensors[name.removesuffix("_orig")]
        if name.endswith("weight_v"):
            weight = state[name[:-1] + "orig"]
            if weight.dim() == 4:
                _, i, kh, kw = weight.shape
                new = new.reshape(kh, kw, i).permute(2, 0, 1)
            new = new.reshape(-1)
        elif name.endswith("weight_u"):
            new = new.reshape(-1)
        t.copy_(new)
