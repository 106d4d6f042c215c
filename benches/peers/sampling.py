"""Drawing images as whole processes: from the command line to PNG files, start-up included.

    benches/peers/run sampling [--quick] [--threads N]... --json FILE

Best PyTorch is the fastest of two: in inference mode with tuned allocator and files written by threads, and the same
with torch.compile, whose compilation is part of the process.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
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
    """Wall and processor seconds of a process from start to end."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    full = {**os.environ, **{name: str(threads) for name in names}, **environment}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, env=full, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
    outdirs = {name: folder / name.replace(" ", "-") for name in ("nestgen", "PyTorch as installed", "tuned", "folded", "compiled")}
    torch = [sys.executable, compare.HERE / "sample_torch.py", network, folder / "latents.safetensors"]
    flags = {"tuned": ["--tuned"], "folded": ["--tuned", "--fold"], "compiled": ["--tuned", "--compile"]}
    contestants = {
        "nestgen": ([binary, "sample", "-n", str(count), "--network", network, "--outdir", outdirs["nestgen"]], {}),
        "PyTorch as installed": ([*torch, outdirs["PyTorch as installed"]], {}),
        **{name: ([*torch, outdirs[name], *more], interleave.TUNED_MALLOC) for name, more in flags.items()},
    }
    rows = []
    for threads in options.threads or (compare.THREADS[:1] if options.quick else compare.THREADS):
        times = {name: [] for name in contestants}
        for _ in range(1 if options.quick else 3):
            for name, (command, environment) in contestants.items():
                times[name].append(seconds(command, threads, environment))
        medians = {name: [statistics.median(kind) for kind in zip(*values)] for name, values in times.items()}
        best = min((name for name in medians if name != "nestgen"), key=lambda name: medians[name][0])
        for peer, key in (("PyTorch as installed", "PyTorch as installed"), ("best PyTorch", best)):
            rows.append({
                "name": NAME if count == COUNT else f"sampling {count} images at 64 px, whole process",
                "threads": threads,
                "nestgen_s": medians["nestgen"][0],
                "peer": peer,
                "peer_s": medians[key][0],
                "ratio": medians["nestgen"][0] / medians[key][0],
                "agreement": difference(outdirs["nestgen"], outdirs[key]),
                "nestgen_cpu_s": medians["nestgen"][1],
                "peer_cpu_s": medians[key][1],
                "peer_options": key,
            })
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_COUNT} images, one round, 2 threads only")
    parser.add_argument("--threads", type=int, action="append", help="these numbers of threads only")
    parser.add_argument("--json", metavar="FILE", help="write the rows here")
    options = parser.parse_args()
    worker = compare.build(["--bins", "--example", "peer_worker"])
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, worker, pathlib.Path(folder))
    print(compare.table(rows))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(any(not row["agreement"] <= compare.AGREEMENT for row in rows))


if __name__ == "__main__":
    main()
