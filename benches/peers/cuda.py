"""Training steps on a GPU: nestgen in bf16 against PyTorch in bf16, eager and through torch.compile. See `run`.

Builds nestgen with `scripts/build-cuda.sh` (CUDNN=1 for cuDNN). Agreement is measured against PyTorch in f64 on the
processor, as in the other comparisons, to bf16's rounding.
"""

import argparse
import pathlib
import sys
import tempfile

import torch

import classifier
import compare
import interleave
import training
from interleave import Worker

# f32 weights, factors of 8 bits.
compare.AGREEMENT = 2e-2
PEERS = {"PyTorch bf16, eager": [], "PyTorch bf16, compiled": ["--compile"]}


def measure(row, ours, folder, options):
    """The JSON rows of one case."""
    print(row.name, file=sys.stderr)
    made = compare.make(row, ours, 1, folder)
    layout = ["--channels-last"] if row.convolutions else []
    workers = [Worker("nestgen", [ours, "cuda", "bf16"], options.threads)]
    workers += [
        compare.torch_worker(name, options.threads, ["--cuda", "--fused", *layout, *compiled], tuned=False)
        for name, compiled in PEERS.items()
    ]
    try:
        agreement = compare.check(workers, made, folder)
        seconds = interleave.rounds(workers, 3 if options.quick else 21, warm_up=5)
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
            "peer_agreement": agreement[index],
            "gflops": gflops,
            "nestgen_mib": memory[0],
            "peer_mib": memory[index],
        }
        for index, worker in enumerate(workers[1:], start=1)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--json", metavar="FILE", help="write the rows here")
    parser.add_argument("--only", metavar="CASE", action="append", help="these cases only")
    parser.add_argument("--threads", type=int, default=8, help="threads of each process")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("cuda: PyTorch finds no GPU on this machine; nothing was measured")
    ours = compare.build(["--example", "peer_worker"], str(compare.ROOT / "scripts" / "build-cuda.sh"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in [*training.ROWS, *classifier.ROWS]:
            if not options.only or row.case in options.only:
                rows += measure(row, ours, pathlib.Path(folder), options)
                compare.write(options, rows)
    for row in rows:
        print("{name}: nestgen {nestgen_s:.4f} s, {peer} {peer_s:.4f} s, ratio {ratio:.2f}".format(**row))
    wrong = {row["name"] for row in rows if not compare.agrees(row)}
    sys.exit(f"outputs or gradients differ: {', '.join(sorted(wrong))}" if wrong else 0)


if __name__ == "__main__":
    main()
