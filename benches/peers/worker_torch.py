"""PyTorch's side of benches/peers: one process that does one case at a time, told by JSON lines (see interleave.py).

    worker_torch.py [--channels-last] [--compile] [--fold] [--fused] [--double] [--cuda [--exact]]

Without options it is PyTorch as a user would write it. --channels-last keeps images and convolution weights in
channels-last memory, --compile passes the models through torch.compile, --fold joins blocks and batch for attention (see models.py),
--fused takes the fused Adam. --double computes in f64: what all others are compared with. --cuda computes on the GPU, with matrix products and convolutions
in bf16 (autocast) and f32 weights, unless in f64 or --exact; passes then end when the GPU has ended them. Threads and the allocator are set by environment variables.
"""

import argparse
import contextlib
import json
import os
import resource
import sys
import time

import torch
from safetensors.torch import load_file, save_file

import cases_torch
import models

CASES = cases_torch.CASES


def answer(message, state, options):
    match message["cmd"]:
        case "prepare":
            options.config = message["config"]
            dtype = torch.get_default_dtype()
            tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in load_file(message["file"], device="cuda" if options.cuda else "cpu").items()}
            state["case"] = CASES[message["case"]](tensors, options)
        case "dump":
            with autocast(options):
                tensors = state["case"].dump()
            if options.cuda:
                tensors = {name: (t.float() if t.dtype == torch.bfloat16 else t).cpu() for name, t in tensors.items()}
            save_file({name: t.detach().contiguous().clone() for name, t in tensors.items()}, message["file"])
        case "run":
            start = time.perf_counter()
            with autocast(options):
                for _ in range(message["passes"]):
                    state["case"].run()
            if options.cuda:
                torch.cuda.synchronize()
            return {"seconds": (time.perf_counter() - start) / message["passes"]}
        case "profile":
            with autocast(options):
                for _ in range(message["count"]):
                    state["case"].run()
        case "operators":
            return {"table": operators(state["case"], message["count"])}
        case "forget_peak":
            torch.cuda.reset_peak_memory_stats()
        case "memory" if options.cuda:
            return {"peak_mib": torch.cuda.max_memory_allocated() / 2**20}
        case "memory":
            return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        case "peak":
            return {"gflops": gpu_matmul_peak(options) if options.cuda else matmul_peak()}
        case other:
            raise ValueError(f"unknown command {other}")
    return {"ok": True}


def autocast(options):
    rough = options.cuda and not options.double and not options.exact
    return torch.autocast("cuda", dtype=torch.bfloat16) if rough else contextlib.nullcontext()


def operators(case, count):
    """Milliseconds a pass that each operator takes by itself."""
    with torch.profiler.profile() as profile:
        for _ in range(count):
            case.run()
    rows = [[e.key, e.self_cpu_time_total / 1e3 / count, e.count // count] for e in profile.key_averages()]
    return sorted(rows, key=lambda row: -row[1])


def matmul_peak(side=2048, tries=8):
    a = torch.rand(side, side)
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def gpu_matmul_peak(options, side=8192, tries=10):
    """Of the products that the case is made of: bf16, or f32 without TF32."""
    dtype = torch.float32 if options.exact else torch.bfloat16
    a, b = (torch.rand(side, side, dtype=dtype) - 0.5 for _ in range(2))
    best = float("inf")
    for _ in range(tries):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def main():
    parser = argparse.ArgumentParser()
    for option in ("channels-last", "compile", "fold", "fused", "double", "cuda", "exact"):
        parser.add_argument(f"--{option}", action="store_true")
    options = parser.parse_args()
    models.FOLD_BLOCKS = options.fold
    torch.set_default_dtype(torch.float64 if options.double else torch.float32)
    if options.cuda:
        torch.set_default_device("cuda")
        torch.backends.cudnn.allow_tf32 = not options.exact
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    # Answers have their own pipe: libraries print what they like to stdout.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    state = {}
    for line in sys.stdin:
        try:
            result = answer(json.loads(line), state, options)
        except Exception as error:  # noqa: BLE001: reported to the driver, which stops
            result = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(result) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
