"""Drawing images as whole processes: from the command line to PNG files, start-up included."""

import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy
from PIL import Image

import compare
import interleave
from interleave import Worker

NAME = "sampling 1000 images at 64 px, whole process"
COUNT = 1000
QUICK_COUNT = 100


def snapshot(binary, folder):
    """A generator of preset fast64 after one step of training on the built-in scenes."""
    settings = ["train.tick_kimg=1", "train.image_ticks=0", "eval.every_kimg=0"]
    command = [binary, "train", "--preset", "fast64", "--kimg", "0.004", "--batch", "4", "--outdir", folder / "runs"]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return sorted((folder / "runs").glob("*/network-snapshot-*.safetensors"))[-1]


def seconds(command, threads, environment):
    """Wall time of a process from start to end."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    full = {**os.environ, **{name: str(threads) for name in names}, **environment}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=full, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def difference(ours, theirs):
    """Mean absolute difference of the pixels of two folders, of 1. A value at the edge of rounding differs by 1/255."""
    pairs = [(numpy.asarray(Image.open(path), float), numpy.asarray(Image.open(theirs / path.name), float))
             for path in sorted(ours.glob("*.png"))]
    return float(numpy.mean([abs(a - b).mean() / 255 for a, b in pairs]))


def measure(options, worker_binary, folder):
    """JSON rows as of compare.measure, without arithmetic rates."""
    binary = pathlib.Path(worker_binary).parent.parent / "nestgen"
    count, network = QUICK_COUNT if options.quick else COUNT, snapshot(binary, folder)
    worker = Worker("nestgen", [worker_binary], 1)
    worker.ask(cmd="latents", count=count, z_dim=256, file=str(folder / "latents.safetensors"))
    worker.close()
    ours, installed, tuned = folder / "ours", folder / "installed", folder / "tuned"
    torch = [sys.executable, compare.HERE / "sample_torch.py", network, folder / "latents.safetensors"]
    contestants = {
        "nestgen": ([binary, "sample", "-n", str(count), "--network", network, "--outdir", ours], {}),
        "PyTorch as installed": ([*torch, installed], {}),
        "best PyTorch": ([*torch, tuned, "--tuned"], interleave.TUNED_MALLOC),
    }
    rows = []
    for threads in options.threads or (compare.THREADS[:1] if options.quick else compare.THREADS):
        times = {name: [] for name in contestants}
        for _ in range(1 if options.quick else 3):
            for name, (command, environment) in contestants.items():
                times[name].append(seconds(command, threads, environment))
        medians = {name: statistics.median(values) for name, values in times.items()}
        for peer, outdir in (("PyTorch as installed", installed), ("best PyTorch", tuned)):
            rows.append({
                "name": NAME if count == COUNT else f"sampling {count} images at 64 px, whole process",
                "threads": threads,
                "nestgen_s": medians["nestgen"],
                "peer": peer,
                "peer_s": medians[peer],
                "ratio": medians["nestgen"] / medians[peer],
                "agreement": difference(ours, outdir),
            })
    return rows
