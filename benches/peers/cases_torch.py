"""The cases of benches/peers in PyTorch: what is timed, and what is compared. The models are in models.py."""

import copy

import torch
import torch.nn.functional as F

import models

GENERATOR = dict(resolution=64, z_dim=256, block_size=8, dims=[512, 256, 128, 64], depths=[4, 3, 2, 2], head_dim=32,
                 attention="multi_head", deaggregation="pixel_shuffle_conv")
DISCRIMINATOR = dict(resolution=64, channels=[64, 128, 256, 512, 512], spectral_norm=True, minibatch_stddev=False)

# Adam as in training, and as in the comparison: with the usual epsilon the first step is lr * sign(gradient), which
# turns the rounding of a gradient near 0 into a whole step; with 1 it is nearly proportional.
TRAINING = dict(lr=2e-4, eps=1e-8)
COMPARISON = dict(lr=1e-2, eps=1.0)
EMA_BETA = 0.99


def part(tensors, prefix):
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def prefixed(prefix, tensors):
    return {prefix + name: t for name, t in tensors.items()}


def to_planes(images, options):
    """[B, H, W, 3] -> NCHW, in the memory layout of the configuration."""
    images = images.permute(0, 3, 1, 2)
    return images if options.channels_last else images.contiguous()


def to_ours(images):
    return images.permute(0, 2, 3, 1)


def load(module, tensors, prefix, options):
    models.load_named(module, part(tensors, prefix))
    return module.to(memory_format=torch.channels_last) if options.channels_last else module


def compiled(module, options):
    """What is called instead of the module; its parameters stay the module's."""
    return torch.compile(module) if options.compile else module


class Pass:
    """A model forward, and backward from a given gradient of its output."""

    def __init__(self, module, x, weights, prefix, options):
        self.module, self.x, self.weights, self.prefix = module, x, weights, prefix
        self.call = compiled(module, options)

    def run(self):
        self.module.zero_grad(set_to_none=True)
        y = self.call(self.x)
        (y * self.weights).sum().backward()
        return y

    def dump(self):
        y = self.run().detach()
        y = to_ours(y) if y.dim() == 4 else y
        return {"y": y} | prefixed(self.prefix, models.named_gradients(self.module))


def generator(tensors, options):
    module = load(models.TransposedNest(GENERATOR), tensors, "g.", options)
    return Pass(module, tensors["z"], to_planes(tensors["weights"], options), "g.", options)


def discriminator(tensors, options):
    module = load(models.Discriminator(DISCRIMINATOR), tensors, "d.", options)
    return Pass(module, to_planes(tensors["images"], options), tensors["weights"], "d.", options)


class Adversarial:
    """A step of D on real and fake images, a step of G through the frozen D, two Adams, the moving average of G."""

    def __init__(self, tensors, options):
        self.g = load(models.TransposedNest(GENERATOR), tensors, "g.", options)
        self.d = load(models.Discriminator(DISCRIMINATOR), tensors, "d.", options)
        self.average = copy.deepcopy(self.g).requires_grad_(False)
        self.call_g, self.call_d = compiled(self.g, options), compiled(self.d, options)
        self.real = to_planes(tensors["real"], options)
        self.z = [tensors["z0"], tensors["z1"]]
        self.fused = options.fused
        self.set_adam(TRAINING)

    def set_adam(self, settings):
        fused = dict(fused=True) if self.fused else {}
        self.adam = [torch.optim.Adam(m.parameters(), betas=(0.0, 0.99), **settings, **fused) for m in (self.d, self.g)]

    def run(self):
        adam_d, adam_g = self.adam
        with torch.no_grad():
            fake = self.call_g(self.z[0])
        adam_d.zero_grad(set_to_none=True)
        loss_d = F.relu(1 - self.call_d(self.real)).mean() + F.relu(1 + self.call_d(fake)).mean()
        loss_d.backward()
        adam_d.step()

        self.d.requires_grad_(False)
        adam_g.zero_grad(set_to_none=True)
        loss_g = -self.call_d(self.call_g(self.z[1])).mean()
        loss_g.backward()
        self.d.requires_grad_(True)
        adam_g.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.g.parameters()), 1 - EMA_BETA)
        return loss_d, loss_g

    def dump(self):
        self.set_adam(COMPARISON)
        loss_d, loss_g = self.run()
        out = {"loss.d": loss_d, "loss.g": loss_g}
        for name, module in (("g", self.g), ("d", self.d)):
            out |= prefixed(f"grad.{name}.", models.named_gradients(module))
            out |= prefixed(f"after.{name}.", models.named_tensors(module))
        return out | prefixed("average.", models.named_tensors(self.average))


CASES = {"generator": generator, "discriminator": discriminator, "adversarial": Adversarial}
