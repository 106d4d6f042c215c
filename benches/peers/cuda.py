"""Training steps on a GPU: nestgen in bf16 against PyTorch in bf16, eager and through torch.compile; and the network of FID,
in f32. See `run`.

Builds nestgen with `scripts/build-cuda.sh` (CUDNN=1 for cuDNN). Agreement is measured on small batches against PyTorch in
f64: nestgen in f32, to f32's rounding, and both in bf16, to bf16's. Then the contestants take turns on a large batch. A
PyTorch that fails is left out, and named.
"""

import argparse
import concurrent.futures
import pathlib
import sys
import tempfile
import time

import torch

import classifier
import compare
import inception
import interleave
import training
from interleave import Worker

# Of an output or gradient in bf16: f32 weights, factors of 8 bits.
ROUGH = 2e-2
EXACT = compare.AGREEMENT
GAN_BATCH = 256
SMALL_BATCH = 16
# Steps follow one another without waiting for the GPU, as in training.
PASSES = 10
SETTLE_SECONDS = 0.02
# Features of scores are f32 on both sides.
IN_F32 = [row.with_batch(64) for row in inception.ROWS]
ROWS = [row.with_batch(GAN_BATCH) for row in training.ROWS] + classifier.ROWS + IN_F32
# Blocks join the batch for attention: PyTorch then has its fused kernels.
PEERS = {"eager": ["--fold"], "compiled": ["--fold", "--compile"]}


def say(text):
    print(time.strftime("%X"), text, file=sys.stderr, flush=True)


def ready(worker, made):
    """Whether a worker could be prepared and has run."""
    try:
        worker.ask(**made)
        worker.ask(cmd="run", passes=2)
        # The first passes try algorithms, on both sides.
        worker.ask(cmd="forget_peak")
        return True
    except RuntimeError as error:
        say(f"{worker.name}: left out, {str(error)[:300]}")
        worker.close()
        return False


def agreement(row, ours, folder, options):
    """Distances from f64 on a small batch: nestgen's and PyTorch's in f32, nestgen's and eager PyTorch's in bf16."""
    made = compare.make(row.with_batch(SMALL_BATCH), ours, 1, folder)
    layout = ["--channels-last"] if row.convolutions else []
    workers = [
        Worker("nestgen in f32", [ours, "cuda", "f32"], options.threads),
        compare.torch_worker("PyTorch in f32", options.threads, ["--cuda", "--exact"], tuned=False),
        Worker("nestgen in bf16", [ours, "cuda", "bf16"], options.threads),
        compare.torch_worker("PyTorch in bf16", options.threads, ["--cuda", *layout], tuned=False),
    ]
    try:
        return compare.check(workers, made, folder, ["--cuda"])
    finally:
        for worker in workers:
            worker.close()


def peer(name, row, options):
    layout = ["--channels-last"] if row.convolutions else []
    exact = ["--exact"] if row in IN_F32 else []
    return compare.torch_worker(name, options.threads, ["--cuda", "--fused", *layout, *exact, *PEERS[name]], tuned=False)


def prepare(row, ours, folder, options):
    """A row's distances from f64. torch.compile leaves its code in its cache, so that rows can be prepared beside one another."""
    found = agreement(row, ours, folder, options)
    if not options.no_compile:
        worker = peer("compiled", row, options)
        if ready(worker, compare.make(row, ours, 1, folder)):
            worker.close()
    say(f"{row.name}: prepared")
    return found


def attempt(*row):
    """What `prepare` finds, or None where a contestant fails, which leaves out the row and not the others."""
    try:
        return prepare(*row)
    except RuntimeError as error:
        say(f"{row[0].name}: left out, {str(error)[:300]}")
        return None


def contestants(row, ours, folder, options):
    """The workers of a row that are ready to be timed, nestgen first."""
    workers = [Worker("nestgen", [ours, "cuda", "bf16"], options.threads)] + [
        peer(name, row, options) for name, how in PEERS.items() if not (options.no_compile and "--compile" in how)
    ]
    made = compare.make(row, ours, 1, folder)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        works = list(pool.map(lambda worker: ready(worker, made), workers))
    left = [worker for worker, works in zip(workers, works) if works]
    if works[0]:
        return left
    say(f"{row.name}: nestgen failed")
    for worker in left:
        worker.close()
    return []


def measure(row, workers, found, options):
    """The JSON rows of one case."""
    ours_f32, peer_f32, ours_bf16, peer_bf16 = found
    seconds = interleave.rounds(workers, 3 if options.quick else 11, 1, PASSES, SETTLE_SECONDS)
    memory = {worker.name: worker.ask(cmd="memory")["peak_mib"] for worker in workers}
    gflops = workers[0].ask(cmd="flops")["flops"] / seconds["nestgen"] / 1e9
    peak = workers[1].ask(cmd="peak")["gflops"]
    say(f"{row.name}: " + ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items()))
    return [
        {
            "name": f"{row.name}, {torch.cuda.get_device_name()}",
            "threads": options.threads,
            "nestgen_s": seconds["nestgen"],
            "peer": f"PyTorch {'f32' if row in IN_F32 else 'bf16'}, {worker.name}",
            "peer_s": seconds[worker.name],
            "ratio": seconds["nestgen"] / seconds[worker.name],
            "agreement": ours_bf16,
            "peer_agreement": peer_bf16,
            "agreement_f32": ours_f32,
            "peer_agreement_f32": peer_f32,
            "gflops": gflops,
            "peak_gflops": peak,
            "share_of_peak": gflops / peak,
            "nestgen_mib": memory["nestgen"],
            "peer_mib": memory[worker.name],
        }
        for worker in workers[1:]
    ]


def agrees(row):
    exact = max(EXACT, compare.TIMES_PYTORCH * row["peer_agreement_f32"])
    rough = max(ROUGH, compare.TIMES_PYTORCH * row["peer_agreement"])
    return row["agreement_f32"] <= exact and row["agreement"] <= rough


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--json", metavar="FILE", help="write the rows here")
    parser.add_argument("--only", metavar="CASE", action="append", help="these cases only")
    parser.add_argument("--threads", type=int, default=8, help="threads of each process")
    parser.add_argument("--worker", metavar="PROGRAM", help="a peer_worker built elsewhere, in place of building one")
    parser.add_argument("--together", metavar="N", type=int, default=2, help="rows prepared at once, for which memory must do")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes minutes")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("cuda: PyTorch finds no GPU on this machine; nothing was measured")
    build = str(compare.ROOT / "scripts" / "build-cuda.sh")
    ours = options.worker or compare.build(["--example", "peer_worker"], build)
    chosen = [row for row in ROWS if not options.only or row.case in options.only]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folders = [pathlib.Path(folder) / row.case for row in chosen]
        for each in folders:
            each.mkdir()
        with concurrent.futures.ThreadPoolExecutor(options.together) as pool:
            prepared = list(pool.map(lambda row, folder: attempt(row, ours, folder, options), chosen, folders))
        for row, found, folder in zip(chosen, prepared, folders):
            if found is None:
                continue
            workers = contestants(row, ours, folder, options)
            if len(workers) > 1:
                rows += measure(row, workers, found, options)
                compare.write(options, rows)
            for worker in workers:
                worker.close()
    for row in rows:
        print(
            "{name}: nestgen {nestgen_s:.5f} s, {peer} {peer_s:.5f} s, ratio {ratio:.2f}; from f64: "
            "{agreement_f32:.0e}, {peer_agreement_f32:.0e} in f32, {agreement:.0e}, {peer_agreement:.0e} in bf16; "
            "MiB {nestgen_mib:.0f}, {peer_mib:.0f}; {share_of_peak:.0%} of products' peak".format(**row)
        )
    wrong = {row["name"] for row in rows if not agrees(row)}
    if wrong:
        sys.exit(f"outputs or gradients differ: {', '.join(sorted(wrong))}")
    if len({row["name"] for row in rows}) < len(chosen):
        sys.exit("rows are missing: see above")


if __name__ == "__main__":
    main()
