"""Training steps on a GPU: nestgen in bf16 against PyTorch in bf16, eager and through torch.compile. See `run`.

Builds nestgen with `scripts/build-cuda.sh` (CUDNN=1 for cuDNN). Agreement is measured against PyTorch in f64: nestgen in
f32, to f32's rounding, and all in bf16, to bf16's.
"""

import argparse
import concurrent.futures
import pathlib
import sys
import tempfile

import torch

import classifier
import compare
import interleave
import training
from interleave import Worker

# Of an output or gradient in bf16: f32 weights, factors of 8 bits.
ROUGH = 2e-2
EXACT = compare.AGREEMENT
EAGER, COMPILED = "PyTorch bf16, eager", "PyTorch bf16, compiled"
GAN_BATCH = 256
# Steps follow one another without waiting for the GPU, as in training.
PASSES = 10
SETTLE_SECONDS = 0.02
ROWS = [row.with_batch(GAN_BATCH) for row in training.ROWS] + classifier.ROWS


def torch_workers(row, threads):
    layout = ["--channels-last"] if row.convolutions else []
    arguments = ["--cuda", "--fused", *layout]
    return [
        compare.torch_worker(EAGER, threads, arguments, tuned=False),
        compare.torch_worker(COMPILED, threads, [*arguments, "--compile"], tuned=False),
    ]


def fill_compiler_cache(row, made, threads):
    """Compiles a row's models, so that its turn finds them in torch.compile's cache."""
    eager, compiled = torch_workers(row, threads)
    eager.close()
    compiled.ask(**made)
    compiled.ask(cmd="run", passes=1)
    compiled.close()


def measure(row, ours, made, folder, options):
    """The JSON rows of one case."""
    print(row.name, file=sys.stderr)
    exact = [
        Worker("nestgen in f32", [ours, "cuda", "f32"], options.threads),
        compare.torch_worker("PyTorch in f32", options.threads, ["--cuda", "--exact"], tuned=False),
    ]
    workers = [Worker("nestgen", [ours, "cuda", "bf16"], options.threads), *torch_workers(row, options.threads)]
    try:
        ours_f32, peer_f32, *agreement = compare.check([*exact, *workers], made, folder, ["--cuda"])
        for worker in exact:
            worker.close()
        rounds = 3 if options.quick else 11
        seconds = interleave.rounds(workers, rounds, 3, PASSES, SETTLE_SECONDS)
        memory = [worker.ask(cmd="memory")["peak_mib"] for worker in workers]
        gflops = workers[0].ask(cmd="flops")["flops"] / seconds["nestgen"] / 1e9
    finally:
        for worker in workers:
            worker.close()
    return [
        {
            "name": f"{row.name}, {torch.cuda.get_device_name()}",
            "threads": options.threads,
            "nestgen_s": seconds["nestgen"],
            "peer": worker.name,
            "peer_s": seconds[worker.name],
            "ratio": seconds["nestgen"] / seconds[worker.name],
            "agreement": agreement[0],
            "agreement_f32": ours_f32,
            "peer_agreement_f32": peer_f32,
            "peer_agreement": agreement[index],
            "gflops": gflops,
            "nestgen_mib": memory[0],
            "peer_mib": memory[index],
        }
        for index, worker in enumerate(workers[1:], start=1)
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
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("cuda: PyTorch finds no GPU on this machine; nothing was measured")
    build = str(compare.ROOT / "scripts" / "build-cuda.sh")
    ours = options.worker or compare.build(["--example", "peer_worker"], build)
    chosen = [row for row in ROWS if not options.only or row.case in options.only]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        made = {row.case: compare.make(row, ours, 1, folder) for row in chosen}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda row: fill_compiler_cache(row, made[row.case], options.threads), chosen))
        for row in chosen:
            rows += measure(row, ours, made[row.case], folder, options)
            compare.write(options, rows)
    for row in rows:
        print(
            "{name}: nestgen {nestgen_s:.5f} s, {peer} {peer_s:.5f} s, ratio {ratio:.2f}; from f64: "
            "{agreement_f32:.0e}, {peer_agreement_f32:.0e} in f32, {agreement:.0e}, {peer_agreement:.0e} in bf16; MiB {nestgen_mib:.0f}, {peer_mib:.0f}".format(**row)
        )
    wrong = {row["name"] for row in rows if not agrees(row)}
    sys.exit(f"outputs or gradients differ: {', '.join(sorted(wrong))}" if wrong else 0)


if __name__ == "__main__":
    main()
