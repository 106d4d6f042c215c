"""Times the same work in several long-lived worker processes, one after the other, round by round.

A worker reads lines from stdin and answers each with one JSON line on stdout:

    {"cmd": "prepare", "case": NAME, "file": SAFETENSORS, "config": {}}
                                                            -> {"ok": true}     builds the case from weights and inputs
    {"cmd": "dump", "file": SAFETENSORS}                    -> {"ok": true}     outputs and gradients, for the agreement check
    {"cmd": "run", "passes": N}                             -> {"seconds": s}   seconds of one of N passes back to back
    {"cmd": "memory"}                                       -> {"peak_mib": m}  peak resident memory so far; on a GPU
                                                               what tensors held at most since {"cmd": "forget_peak"}

Rounds are interleaved (A B C A B C ...) so that a slow minute of a shared machine falls on everybody, and each worker
sleeps while another runs. Allocator settings are environment variables, so they belong to the process.
"""

import json
import os
import statistics
import subprocess
import time

# What keeps pages of freed buffers mapped in glibc: without it page faults dominate PyTorch's pointwise operations.
TUNED_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_TOP_PAD_": str(256 << 20)}

# The other workers' thread pools spin for a moment after a parallel region; let them fall asleep.
SETTLE_SECONDS = 0.25


class Worker:
    """One process that does the work of one contestant."""

    def __init__(self, name, command, threads, env=None):
        self.name = name
        settings = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads}
        full = {**os.environ, **{k: str(v) for k, v in settings.items()}, **(env or {})}
        self.process = subprocess.Popen(command, env=full, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended while doing {message}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def rounds(workers, count, warm_up=2, passes=1, settle=SETTLE_SECONDS):
    """Median seconds a pass of each worker over `count` interleaved rounds, after `warm_up` rounds that do not count.

    Each turn begins with a pass that does not count either: training goes on without a rest, and after one some
    processors take most of a second until their matrix units run at full speed again.
    """
    times = {worker.name: [] for worker in workers}
    for index in range(warm_up + count):
        for worker in workers:
            time.sleep(settle)
            worker.ask(cmd="run", passes=1)
            seconds = worker.ask(cmd="run", passes=passes)["seconds"]
            if index >= warm_up:
                times[worker.name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def largest_relative_difference(found, reference):
    """Over all tensors of two dicts: the largest |a - b| / |b| (root of summed squares), and the tensor's name."""
    assert found.keys() == reference.keys(), sorted(found.keys() ^ reference.keys())
    worst, where = 0.0, ""
    for name, b in reference.items():
        a, b = found[name].astype("float64"), b.astype("float64")
        assert a.shape == b.shape, (name, a.shape, b.shape)
        difference = float(((a - b) ** 2).sum() ** 0.5 / max((b**2).sum() ** 0.5, 1e-12))
        if not difference <= worst:  # also true for NaN
            worst, where = difference, name
    return worst, where
