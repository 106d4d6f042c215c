"""What a GPU did, from the file that gpu_trace.c writes: the share of time in which nothing ran, and kernels by time.

    gpu_idle.py TRACE [--last SHARE] [--top N]

Only the last SHARE (default 0.5) of the records count, so that loading and warming up do not.
"""

import argparse
import collections
import re
import sys


def short(name):
    """A kernel's name, demangled as far as it takes to tell it apart."""
    found = re.match(r"_Z(?:N)?(\d+)", name)
    return name[found.end():found.end() + int(found.group(1))] if found and not name.startswith("_ZN") else name[:72]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace")
    parser.add_argument("--last", type=float, default=0.5)
    parser.add_argument("--top", type=int, default=25)
    options = parser.parse_args()
    records = []
    with open(options.trace) as lines:
        for line in lines:
            start, end, name = line.rstrip("\n").split(",", 2)
            records.append((int(start), int(end), name))
    if not records:
        sys.exit(f"gpu_idle: {options.trace} has no records: the program ended before its trace was written")
    records.sort()
    records = records[int(len(records) * (1 - options.last)):]
    first, latest, busy = records[0][0], records[0][0], 0
    times = collections.Counter()
    counts = collections.Counter()
    for start, end, name in records:
        busy += max(0, end - max(start, latest))
        latest = max(latest, end)
        times[short(name)] += end - start
        counts[short(name)] += 1
    span = latest - first
    print(f"{len(records)} records over {span / 1e6:.2f} ms: nothing ran in {1 - busy / span:.1%} of it")
    for name, time in times.most_common(options.top):
        print(f"{time / span:6.1%} {counts[name]:7d} x {time / counts[name] / 1e3:8.1f} us  {name}")


if __name__ == "__main__":
    main()
