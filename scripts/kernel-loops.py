#!/usr/bin/env python3
"""What the inner loops of the own GPU kernels wait for, from the assembler's output: no GPU is needed.

    scripts/kernel-loops.py [--arch sm_90] [KERNEL...]

Compiles kernels/cuda/kernels.cu with nvcc and takes the code apart with cuobjdump, both of NVIDIA's toolkit (in the path or
under CUDA_HOME). Of each kernel: registers, and of every innermost loop that reads memory the order of its loads (L), stores
(S) and branches (B). LLLLB may have four reads under way; LBLB and LSLS have one at a time. A kernel has a loop for every
combination of its operands' types, the shortest first; the longest are for operands of any type and alignment.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent / "kernels" / "cuda"


def tool(name: str) -> str:
    home = os.environ.get("CUDA_HOME")
    found = shutil.which(name, path=f"{home}/bin" if home else None) or shutil.which(name)
    return found or sys.exit(f"error: no `{name}` in the path or under CUDA_HOME\nhint: install NVIDIA's toolkit")


def functions(code: str) -> dict[str, list[tuple[int, str]]]:
    """Address and text of every instruction, by kernel."""
    found: dict[str, list[tuple[int, str]]] = {}
    name = ""
    for line in code.splitlines():
        if begins := re.search(r"Function : (\w+)", line):
            name = begins[1]
            found[name] = []
        elif (instruction := re.search(r"/\*([0-9a-f]{4,6})\*/\s+(.*?);", line)) and name:
            found[name].append((int(instruction[1], 16), instruction[2]))
    return found


def inner_loops(instructions: list[tuple[int, str]]) -> list[str]:
    """Of each innermost loop with a load: its loads, stores and branches in order."""
    jumps = [(at, re.search(r"(0x[0-9a-f]+)\s*$", text)) for at, text in instructions if "BRA" in text]
    loops = [(int(to[1], 16), at) for at, to in jumps if to and int(to[1], 16) < at]
    holds = lambda outer, inner: outer != inner and outer[0] <= inner[0] and inner[1] <= outer[1]
    innermost = [loop for loop in loops if not any(holds(loop, other) for other in loops)]
    kinds = {"LDG": "L", "STG": "S", "BRA": "B"}
    order = lambda first, last: "".join(
        kinds[kind[0]]
        for at, text in instructions
        if first <= at <= last and (kind := re.search(r"\b(LDG|STG|BRA)\b", text))
    )
    return sorted((steps for steps in (order(*loop) for loop in innermost) if "L" in steps), key=len)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("kernels", nargs="*", metavar="KERNEL")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        binary = f"{folder}/kernels.cubin"
        command = [tool("nvcc"), f"-arch={asked.arch}", "-cubin", "-O3", "--ptxas-options=-v", "kernels.cu", "-o", binary]
        said = subprocess.run(command, cwd=KERNELS, capture_output=True, text=True)
        if said.returncode:
            sys.exit(said.stderr)
        code = subprocess.run([tool("cuobjdump"), "-sass", binary], capture_output=True, text=True, check=True).stdout
    registers = dict(re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", said.stderr, re.DOTALL))
    for name, instructions in sorted(functions(code).items()):
        if not asked.kernels or name in asked.kernels:
            print(f"{name}: {registers.get(name, '?')} registers; {' '.join(inner_loops(instructions)) or 'no loop'}")


if __name__ == "__main__":
    main()
