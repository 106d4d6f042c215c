"""What `nestgen sample` does, in PyTorch: a snapshot's generator, latents from a file, PNGs into a folder.

    sample_torch.py SNAPSHOT LATENTS OUTDIR [--tuned] [--fold] [--compile]

--compile compiles the generator first. --tuned draws in inference mode and writes the files from as many threads as PyTorch computes with.
"""

import argparse
import json
import pathlib
import struct
import tomllib
from concurrent.futures import ThreadPoolExecutor

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file

import models

BATCH = 32


def generator(snapshot):
    """The network with its weights; convolutions are stored channels last."""
    with open(snapshot, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    module = models.TransposedNest(tomllib.loads(header["__metadata__"]["config"])["model"])
    tensors = {n: t.permute(0, 3, 1, 2) if t.dim() == 4 else t for n, t in load_file(snapshot).items()}
    models.load_named(module, tensors)
    return module.eval()


def to_bytes(images):
    return ((images * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def write(outdir, seed, image):
    Image.fromarray(numpy.ascontiguousarray(image)).save(outdir / f"seed{seed:06}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("snapshot")
    parser.add_argument("latents")
    parser.add_argument("outdir", type=pathlib.Path)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--fold", action="store_true", help="blocks join the batch for attention (see models.py)")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    models.FOLD_BLOCKS = options.fold
    options.outdir.mkdir(parents=True, exist_ok=True)
    module, z = generator(options.snapshot), load_file(options.latents)["z"]
    if options.compile:
        module = torch.compile(module)
    pool = ThreadPoolExecutor(torch.get_num_threads()) if options.tuned else None
    files = []
    with torch.inference_mode() if options.tuned else torch.no_grad():
        for first in range(0, len(z), BATCH):
            for i, image in enumerate(to_bytes(module(z[first : first + BATCH]))):
                if pool:
                    files.append(pool.submit(write, options.outdir, first + i, image))
                else:
                    write(options.outdir, first + i, image)
    for file in files:
        file.result()


if __name__ == "__main__":
    main()
