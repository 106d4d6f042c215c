"""nestgen-fid against pytorch-fid, torch-fidelity and clean-fid: whole processes on the same folders and weights.

    benches/peers/run fid [--quick] [--images N] [--rounds R] [--threads T] --json FILE

Weights and images come from formulas (fid_formula.py), so nothing is downloaded. Each tool starts from nothing, scores
one folder of 64x64 PNGs against another by its own resize rule, and ends; the tools take turns. Agreement is the
relative difference of the two distances: the peers' own sqrtm is off by about 1e-5 for fewer images than features.
nestgen computes KID, the Inception score, precision and recall beside FID, the others FID alone. One row times the
Frechet distance alone at 2048 features, from two files of statistics, against scipy's sqrtm; one compares threads.

Arithmetic is counted as the network's direct convolutions (11.42 GFLOP an image); the peak is that of PyTorch's f32
product of two 2048x2048 matrices. Winograd's algorithm needs fewer operations, so the share may exceed 1.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GFLOP_PER_IMAGE = 11.42
ROOT = Path(__file__).resolve().parents[2]
# Relative: what the peers' sqrtm is off by when there are fewer images than features.
AGREEMENT = 1e-4
CHECKPOINT = "pt_inception-2015-12-05-6726825d.pth"

PEERS = {
    # name: (nestgen's resize rule, program)
    "pytorch-fid": ("pytorch", """
import sys
from pytorch_fid.fid_score import calculate_fid_given_paths
print("FID", calculate_fid_given_paths(sys.argv[1:3], 50, "cpu", 2048, num_workers=2))
"""),
    "torch-fidelity": ("tf1", """
import sys, torch_fidelity
r = torch_fidelity.calculate_metrics(input1=sys.argv[1], input2=sys.argv[2], fid=True, cuda=False, cache=False, verbose=False,
                                     feature_extractor_weights_path=sys.argv[3])
print("FID", r["frechet_inception_distance"])
"""),
    # Its own network file is not at hand, so pytorch-fid's network with the same weights stands in for it.
    "clean-fid": ("clean", """
import sys, torch
from cleanfid import fid
from cleanfid.inception_pytorch import InceptionV3
net = InceptionV3(output_blocks=[3], resize_input=False, normalize_input=False).eval()
features = lambda x: net((x - 128) / 128)[0].squeeze(-1).squeeze(-1)
print("FID", fid.compute_fid(sys.argv[1], sys.argv[2], mode="clean", num_workers=2, device=torch.device("cpu"),
                             custom_feat_extractor=features, verbose=False))
"""),
}

# In a process of its own: the peak memory of a child starts at what its parent holds, and PyTorch is large.
PREPARE = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import fid_formula
work, images = pathlib.Path(sys.argv[2]), int(sys.argv[3])
(work / "hub" / "checkpoints").mkdir(parents=True)
fid_formula.write_weights(work / "hub" / "checkpoints" / sys.argv[4])
fid_formula.write_images(work / "real", images, 1, "real")
fid_formula.write_images(work / "fake", images, 2, "fake")
"""

SQRTM = """
import sys, time
import numpy as np
from pytorch_fid.fid_score import calculate_frechet_distance
a, b = (np.load(p) for p in sys.argv[1:3])
start = time.time()
print("FID", calculate_frechet_distance(a["mu"], a["sigma"], b["mu"], b["sigma"]))
print("SECONDS", time.time() - start)
"""


def run(command, threads, environment):
    """Runs a process to its end: its output, wall seconds, peak resident MiB, processor seconds."""
    settings = {k: str(threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    start = time.time()
    process = subprocess.Popen(command, env={**os.environ, **environment, **settings}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    out, err = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[:4]} failed:\n{out}{err}")
    return out, time.time() - start, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def number(pattern, text):
    found = re.search(pattern, text)
    if not found:
        sys.exit(f"no {pattern} in:\n{text}")
    return float(found.group(1))


def score(tool, real, fake, weights, resize, threads):
    """nestgen's report, wall seconds, peak MiB, processor seconds."""
    out, *cost = run([tool, real, fake, weights, resize, "json"], threads, {})
    return json.loads(out), *cost


def matmul_peak(threads):
    """GFLOP/s of PyTorch's f32 product of two 2048x2048 matrices: the best of five."""
    program = ("import torch,time;torch.set_num_threads(%d);a=torch.rand(2048,2048);a@a\n"
               "def once():\n t=time.time();a@a;return time.time()-t\n"
               "print('PEAK', 2*2048**3/min(once() for _ in range(5))/1e9)" % threads)
    return number(r"PEAK ([0-9.]+)", run([sys.executable, "-c", program], threads, {})[0])


def row(name, threads, ours, peer, theirs, agreement, **extra):
    result = dict(name=name, threads=threads, nestgen_s=round(ours, 3), peer=peer, peer_s=round(theirs, 3),
                  ratio=round(ours / theirs, 3), agreement=agreement, **extra)
    print(json.dumps(result), flush=True)
    return result


def whole_processes(work, tool, images, rounds, threads):
    real, fake, weights = work / "real", work / "fake", work / "hub" / "checkpoints" / CHECKPOINT
    environment = {"TORCH_HOME": str(work)}
    best = {}
    for _ in range(rounds):
        for peer, (resize, program) in PEERS.items():
            ours = score(tool, real, fake, weights, resize, threads)
            theirs = run([sys.executable, "-c", program, real, fake, weights], threads, environment)
            for name, result in ((f"nestgen {resize}", ours), (peer, theirs)):
                if name not in best or result[1] < best[name][1]:
                    best[name] = result
    rows = []
    peak = matmul_peak(threads)
    for peer, (resize, _) in PEERS.items():
        ours, theirs = best[f"nestgen {resize}"], best[peer]
        a, b = ours[0]["scores"]["frechet"]["value"], number(r"FID\s+([0-9.eE+-]+)", theirs[0])
        rate = 2 * images / ours[0]["features_secs"]
        rows.append(row(f"fid whole process, 2x{images} images of 64 px, {resize}", threads, ours[1], peer, theirs[1],
                        abs(a - b) / b, nestgen_peak_mib=round(ours[2]), peer_peak_mib=round(theirs[2]),
                        nestgen_cpu_s=round(ours[3], 2), peer_cpu_s=round(theirs[3], 2),
                        images_per_sec=round(rate, 2), gflops=round(rate * GFLOP_PER_IMAGE, 1),
                        peak_gflops=round(peak, 1), share_of_matmul_peak=round(rate * GFLOP_PER_IMAGE / peak, 3)))
    return rows


def scaling(work, tool, images, rounds):
    """The features of one run on one and on two threads, in turn; the fastest of each."""
    real, fake, weights = work / "real", work / "fake", work / "hub" / "checkpoints" / CHECKPOINT
    seconds = {1: [], 2: []}
    for _ in range(rounds + 1):
        for threads, times in seconds.items():
            times.append(score(tool, real, fake, weights, "pytorch", threads)[0]["features_secs"])
    one, two = (min(times) for times in seconds.values())
    return row(f"fid features, 2x{images} images, 2 threads against 1", 2, two, "nestgen, 1 thread", one, 0.0,
               speedup=round(one / two, 3))


def frechet_step(work, tool, threads):
    import numpy as np

    rng = np.random.default_rng(0)
    files = []
    for side in range(2):
        scale = 1 / (1 + np.arange(2048)) ** 0.6
        sample = rng.standard_normal((5000, 2048)) * scale + 0.02 * side
        files.append(work / f"stats{side}.npz")
        np.savez(files[-1], mu=sample.mean(0), sigma=np.cov(sample, rowvar=False))
    ours = score(tool, *files, work / "hub" / "checkpoints" / CHECKPOINT, "pytorch", threads)[0]
    theirs = run([sys.executable, "-c", SQRTM, *files], threads, {})[0]
    seconds = ours["total_secs"] - ours["features_secs"]
    a, b = ours["scores"]["frechet"]["value"], number(r"FID\s+([0-9.eE+-]+)", theirs)
    return row("Frechet distance of two statistics, 2048 features", threads, seconds, "pytorch-fid (scipy sqrtm)",
               number(r"SECONDS ([0-9.]+)", theirs), abs(a - b) / b)


def table(rows):
    """The rows as Markdown."""
    lines = ["| work | threads | nestgen, s | peer | peer, s | ratio | img/s | GFLOP/s, of peak | memory, MiB: nestgen, peer "
             "| agreement |", "|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        rate = [r["images_per_sec"], f"{r['gflops']:.0f}, {r['share_of_matmul_peak']:.0%}"] if "gflops" in r else ["", ""]
        memory = f"{r['nestgen_peak_mib']}, {r['peer_peak_mib']}" if "peer_peak_mib" in r else ""
        cells = [r["name"], r["threads"], r["nestgen_s"], r["peer"], r["peer_s"], f"**{r['ratio']}**", *rate, memory,
                 f"{r['agreement']:.0e}" if r["agreement"] else ""]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2x64 images")
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    images = options.images or (64 if options.quick else 512)
    build = ["cargo", "build", "--release", "-p", "nestgen-fid", "--example", "score_folders"]
    subprocess.run(build, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    tool = target / "release" / "examples" / "score_folders"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare = [sys.executable, "-c", PREPARE, str(Path(__file__).parent), work, str(images), CHECKPOINT]
        subprocess.run(prepare, check=True)
        rows = whole_processes(work, tool, images, options.rounds, options.threads)
        rows.append(scaling(work, tool, images, options.rounds))
        rows.append(frechet_step(work, tool, options.threads))
    print(table(rows))
    Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    wrong = [r["name"] for r in rows if not r["agreement"] <= AGREEMENT]
    sys.exit(f"the distances differ: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
