"""Weights and images from formulas, the ones of nestgen-fid's `random-v1` and of its tests.

A tensor is a function of its name (FNV-1a, then a splitmix64 counter), an image of its kind, seed and index.
"""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def fnv1a64(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return np.uint64(value)


def draws(state, first, count):
    """Draws first + 1 .. first + count of the stream that starts at `state`."""
    with np.errstate(over="ignore"):
        z = state + np.arange(first + 1, first + count + 1, dtype=np.uint64) * GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def tensor(name, shape):
    count = int(np.prod(shape, dtype=np.int64))
    unit = ((draws(fnv1a64(name), 0, count) >> np.uint64(40)).astype(np.float64) - 2**23) / 2**23
    if name.endswith("conv.weight"):
        values = unit * np.sqrt(6 / (count // shape[0]))
    elif name.endswith(("bn.weight", "running_var")):
        values = 1 + 0.25 * unit
    elif name.endswith("bn.bias"):
        values = 0.25 * unit
    elif name.endswith("running_mean"):
        values = 0.1 * unit
    elif name == "fc.weight":
        values = unit * (8 * np.sqrt(6 / 2048))
    else:
        values = 0.5 * unit
    return values.astype(np.float32).reshape(shape)


def network():
    """pytorch-fid's network with the weights of the formula."""
    import pytorch_fid.inception as reference
    import torch

    shell = reference._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    for name, block in {
        "Mixed_5b": reference.FIDInceptionA(192, 32), "Mixed_5c": reference.FIDInceptionA(256, 64),
        "Mixed_5d": reference.FIDInceptionA(288, 64), "Mixed_6b": reference.FIDInceptionC(768, 128),
        "Mixed_6c": reference.FIDInceptionC(768, 160), "Mixed_6d": reference.FIDInceptionC(768, 160),
        "Mixed_6e": reference.FIDInceptionC(768, 192), "Mixed_7b": reference.FIDInceptionE_1(1280),
        "Mixed_7c": reference.FIDInceptionE_2(2048),
    }.items():
        setattr(shell, name, block)
    state = {}
    for name, value in shell.state_dict().items():
        counter = name.endswith("num_batches_tracked")
        state[name] = torch.zeros((), dtype=torch.int64) if counter else torch.from_numpy(tensor(name, tuple(value.shape)))
    shell.load_state_dict(state)
    return shell


def write_weights(path):
    """A state dict of pytorch-fid's network, in PyTorch's format."""
    import torch

    torch.save(network().state_dict(), path)


class Stream:
    def __init__(self, name):
        self.state, self.drawn = fnv1a64(name), 0

    def below(self, limit, count=1):
        values = (draws(self.state, self.drawn, count) >> np.uint64(33)) % np.uint64(limit)
        self.drawn += count
        return values.astype(np.int64)

    def one(self, limit):
        return int(self.below(limit)[0])


def picture(kind, seed, index):
    """[64, 64, 3] u8: a gradient between four corners, a few shapes, noise."""
    stream, real = Stream(f"nestgen-fid-image/{kind}/{seed}/{index}"), kind == "real"
    corner = (stream.below(256, 12) if real else 48 + stream.below(160, 12)).reshape(4, 3)
    y, x = (axis[..., None] for axis in np.mgrid[0:64, 0:64])
    top, bottom = corner[0] * (63 - x) + corner[1] * x, corner[2] * (63 - x) + corner[3] * x
    image = (top * (63 - y) + bottom * y) // 3969
    for _ in range(1 + stream.one(7 if real else 3)):
        disk, cx, cy, radius = stream.one(2) == 0, stream.one(64), stream.one(64), 3 + stream.one(21)
        dx, dy = x[..., 0] - cx, y[..., 0] - cy
        inside = dx**2 + dy**2 < radius**2 if disk else (abs(dx) < radius) & (2 * abs(dy) < radius)
        image[inside] = stream.below(256, 3)
    amplitude = 10 * stream.one(3) if real else 12 * (1 + stream.one(3))
    if amplitude:
        image = image + stream.below(2 * amplitude + 1, image.size).reshape(image.shape) - amplitude
    return image.clip(0, 255).astype(np.uint8)


def write_images(folder, count, seed, kind):
    from PIL import Image

    folder.mkdir()
    for index in range(count):
        Image.fromarray(picture(kind, seed, index)).save(folder / f"{index:05d}.png")
