"""The cases of benches/peers in PyTorch: what is timed, and what is compared. The models are in models.py."""

import copy

import torch
import torch.nn.functional as F

from torch.nn.utils.fusion import fuse_conv_bn_eval

import fid_formula
import models

# Adam as in training, and as in the comparison: with the usual epsilon the first step is lr * sign(gradient), which
# turns the rounding of a gradient near 0 into a whole step; with 1 it is nearly proportional.
TRAINING = dict(lr=2e-4, eps=1e-8)
COMPARISON = dict(lr=1e-2, eps=1.0)
EMA_BETA = 0.99

CLASSIFIER_TRAINING = dict(lr=1e-4, eps=1e-8)


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
    module = load(models.TransposedNest(options.config["g"]), tensors, "g.", options)
    return Pass(module, tensors["z"], to_planes(tensors["weights"], options), "g.", options)


def discriminator(tensors, options):
    module = load(models.Discriminator(options.config["d"]), tensors, "d.", options)
    return Pass(module, to_planes(tensors["images"], options), tensors["weights"], "d.", options)


class Adversarial:
    """A step of D on real and fake images, a step of G through the frozen D, two Adams, the moving average of G."""

    def __init__(self, tensors, options):
        self.g = load(models.TransposedNest(options.config["g"]), tensors, "g.", options)
        self.d = load(models.Discriminator(options.config["d"]), tensors, "d.", options)
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


class Classifier:
    """A training step of a classifier: forward, cross entropy, backward, AdamW. Drop-path is off."""

    def __init__(self, module, tensors, options):
        self.module = load(module, tensors, "m.", options)
        self.call = compiled(self.module, options)
        self.images, self.targets = to_planes(tensors["images"], options), tensors["targets"]
        self.fused = options.fused
        self.set_adam(CLASSIFIER_TRAINING)

    def set_adam(self, settings):
        named = dict(self.module.named_parameters())
        exempt = [p for name, p in named.items() if name.endswith("pos_embed")]
        decayed = [p for name, p in named.items() if not name.endswith("pos_embed")]
        groups = [dict(params=decayed, weight_decay=0.05), dict(params=exempt, weight_decay=0.0)]
        fused = dict(fused=True) if self.fused else {}
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.999), **settings, **fused)

    def run(self):
        self.adam.zero_grad(set_to_none=True)
        logits = self.call(self.images)
        loss = F.cross_entropy(logits, self.targets)
        loss.backward()
        self.adam.step()
        return logits, loss

    def dump(self):
        self.set_adam(COMPARISON)
        logits, loss = self.run()
        out = {"logits": logits, "loss": loss} | prefixed("grad.", models.named_gradients(self.module))
        return out | prefixed("after.", models.named_tensors(self.module))


def nest_t(tensors, options):
    return Classifier(models.Nest(options.config["m"]), tensors, options)


def vit_t(tensors, options):
    return Classifier(models.Vit(options.config["m"]), tensors, options)


class Inception:
    """pytorch-fid's features of images of the network's size; with --fused batch norms are folded into convolutions."""

    def __init__(self, tensors, options):
        import pytorch_fid.inception as reference

        with torch.device("cpu"):
            reference.fid_inception_v3 = fid_formula.network
            module = reference.InceptionV3([3], resize_input=False, normalize_input=False).eval()
        if options.fused:
            for part in module.modules():
                if hasattr(part, "conv") and hasattr(part, "bn"):
                    part.conv, part.bn = fuse_conv_bn_eval(part.conv, part.bn), torch.nn.Identity()
        images = tensors["images"] / 127.5 - 1
        module = module.to(images.device, images.dtype)
        self.call = compiled(module.to(memory_format=torch.channels_last) if options.channels_last else module, options)
        self.images = to_planes(images, options)

    @torch.inference_mode()
    def run(self):
        return self.call(self.images)[0]

    def dump(self):
        return {"features": self.run().flatten(1)}


CASES = {"generator": generator, "discriminator": discriminator, "adversarial": Adversarial, "nest_t": nest_t,
         "vit_t": vit_t, "inception": Inception}
