"""Checks that nestgen computes what PyTorch computes in f64, then times them round by round; a table and JSON rows come out.

PyTorch takes part as installed and as fast as it gets. That is chosen for every row by measurement among channels-last memory,
torch.compile and blocks that join the batch for attention; a tuned allocator and the fused optimizer go with all of them.
"""

import argparse
import concurrent.futures
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

from safetensors.numpy import load_file

import interleave
from interleave import Worker

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent

# Outputs and gradients against PyTorch in f64, relative to each tensor's norm. Where PyTorch's own f32 is further than
# that from its f64 (deep compositions with kinks), its distance is the measure.
AGREEMENT = 1e-4
TIMES_PYTORCH = 3.0
THREADS = (2, 1)


class Row:
    """One line of the table: a case of the workers."""

    def __init__(self, case, name, batch, convolutions=False, blocks=False):
        self.case, self.batch, self.convolutions, self.blocks = case, batch, convolutions, blocks
        self.work, self.name = name, f"{name}, batch {batch}"

    def with_batch(self, batch):
        return Row(self.case, self.work, batch, self.convolutions, self.blocks)


def build(package_arguments, program="cargo"):
    """Builds in release; the path of the worker."""
    command = [program, "build", "--release", "--message-format=json-render-diagnostics", *package_arguments]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    made = [m["executable"] for m in map(json.loads, lines) if m.get("executable")]
    return next(path for path in made if pathlib.Path(path).name == "peer_worker")


def torch_worker(name, threads, options, tuned):
    environment = interleave.TUNED_MALLOC if tuned else None
    return Worker(name, [sys.executable, HERE / "worker_torch.py", *options], threads, environment)


def candidates(row):
    """Option lists that could be the fastest PyTorch."""
    layouts = [[], ["--channels-last"]] if row.convolutions else [[]]
    folds = [[], ["--fold"]] if row.blocks else [[]]
    return [["--fused", *itertools.chain(*choice)] for choice in itertools.product(layouts, folds, [[], ["--compile"]])]


def make(row, ours, threads, folder):
    """The message that prepares a row's case: its name, a file of weights and inputs, the models' configurations."""
    file = str(folder / f"{row.case}.safetensors")
    worker = Worker("nestgen", [ours], threads)
    config = worker.ask(cmd="make", case=row.case, batch=row.batch, file=file)["config"]
    worker.close()
    return {"cmd": "prepare", "case": row.case, "file": file, "config": config}


def fastest_torch(row, threads, made, count):
    """The options of the configuration that is fastest in a few rounds."""
    times = {}
    for options in candidates(row):
        label = " ".join(options)
        worker = torch_worker(label, threads, options, tuned=True)
        try:
            worker.ask(**made)
            times[label] = interleave.rounds([worker], count, warm_up=1)[label]
            print(f"  PyTorch {label}: {times[label]:.4f} s", file=sys.stderr)
        except RuntimeError as error:
            print(f"  PyTorch {label}: left out, {error}", file=sys.stderr)
        finally:
            worker.close()
    return min(times, key=times.get).split()


def check(workers, made, folder, options=()):
    """Distances of the workers to PyTorch in f64, which runs with further options."""
    reference = torch_worker("PyTorch in f64", 2, ["--double", *options], tuned=True)

    def dump(index, worker):
        path = folder / f"dump{index}.safetensors"
        worker.ask(**made)
        worker.ask(cmd="dump", file=str(path))
        return load_file(path)

    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            dumps = list(pool.map(dump, itertools.count(), [reference, *workers]))
    finally:
        reference.close()
    found = []
    for worker, dump in zip(workers, dumps[1:]):
        difference, where = interleave.largest_relative_difference(dump, dumps[0])
        print(f"  {worker.name}: {difference:.1e} from f64 ({where})", file=sys.stderr)
        found.append(difference)
    return found


def agrees(row):
    return row["agreement"] <= max(AGREEMENT, TIMES_PYTORCH * row.get("peer_agreement", 0))


def measure(row, threads, ours, folder, arguments):
    """The JSON rows of one case with one number of threads."""
    print(f"{row.name}, {threads} thread(s)", file=sys.stderr)
    made = make(row, ours, threads, folder)
    chosen = fastest_torch(row, threads, made, 2 if arguments.quick else 3)
    workers = [
        Worker("nestgen", [ours], threads),
        torch_worker("PyTorch as installed", threads, [], tuned=False),
        torch_worker("chosen PyTorch", threads, chosen, tuned=True),
    ]
    try:
        agreement = check(workers, made, folder)
        seconds = interleave.rounds(workers, 3 if arguments.quick else 9)
        memory = [worker.ask(cmd="memory")["peak_mib"] for worker in workers]
        flops = workers[0].ask(cmd="flops")["flops"]
        peak = max(worker.ask(cmd="peak")["gflops"] for worker in workers)
    finally:
        for worker in workers:
            worker.close()
    # A short trial may have chosen what is slower in these rounds than PyTorch as it comes.
    best = min((1, 2), key=lambda index: seconds[workers[index].name])
    rows = []
    for peer, index in (("PyTorch as installed", 1), ("best PyTorch", best)):
        peer_s = seconds[workers[index].name]
        entry = {
            "name": row.name,
            "threads": threads,
            "nestgen_s": seconds["nestgen"],
            "peer": peer,
            "peer_s": peer_s,
            "ratio": seconds["nestgen"] / peer_s,
            "agreement": agreement[0],
            "peer_agreement": agreement[index],
            "gflops": flops / seconds["nestgen"] / 1e9,
            "share_of_peak": flops / seconds["nestgen"] / 1e9 / peak,
            "peak_gflops": peak,
            "nestgen_mib": memory[0],
            "peer_mib": memory[index],
        }
        if peer == "best PyTorch":
            entry["peer_options"] = chosen if index == 2 else []
        rows.append(entry)
    return rows


def table(rows):
    """The JSON rows as Markdown, one line for each work and number of threads."""
    lines = [
        "| work | threads | nestgen, s | best PyTorch, s | ratio | as installed, s | ratio | GFLOP/s | of peak "
        "| memory, MiB: nestgen, best | from f64: nestgen, PyTorch |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, threads), group in itertools.groupby(rows, key=lambda r: (r["name"], r["threads"])):
        by_peer = {r["peer"]: r for r in group}
        installed, best = by_peer["PyTorch as installed"], by_peer["best PyTorch"]
        speed = ["", ""] if "gflops" not in best else [f"{best['gflops']:.0f}", f"{best['share_of_peak']:.0%}"]
        memory = f"{best['nestgen_mib']:.0f}, {best['peer_mib']:.0f}" if "peer_mib" in best else ""
        cells = [name, threads, f"{best['nestgen_s']:.4f}", f"{best['peer_s']:.4f}", f"**{best['ratio']:.2f}**",
                 f"{installed['peer_s']:.4f}", f"{installed['ratio']:.2f}", *speed, memory,
                 f"{best['agreement']:.0e}, {installed.get('peer_agreement', 0):.0e}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def write(options, rows):
    """What there is so far: a run that is stopped keeps the rows it has."""
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


def main(description, all_rows, extra=None):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few rounds, 2 threads only")
    parser.add_argument("--json", metavar="FILE", help="write the rows here")
    parser.add_argument("--only", metavar="CASE", action="append", help="these cases only")
    parser.add_argument("--threads", type=int, action="append", help="these numbers of threads only")
    options = parser.parse_args()
    ours = build(["--bins", "--example", "peer_worker"])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in all_rows:
            if options.only and row.case not in options.only:
                continue
            for threads in options.threads or (THREADS[:1] if options.quick else THREADS):
                rows += measure(row, threads, ours, pathlib.Path(folder), options)
                write(options, rows)
        if extra and not options.only:
            rows += extra(options, ours, pathlib.Path(folder))
    print(table(rows))
    write(options, rows)
    wrong = {r["name"] for r in rows if not agrees(r)}
    sys.exit(f"outputs or gradients differ: {', '.join(sorted(wrong))}" if wrong else 0)
