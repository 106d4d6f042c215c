#!/usr/bin/env python3
"""Packs what tests/fuzz_corpus replays: fuzz/pack.py TARGET FOLDER... writes fuzz/found/TARGET.zip.

The folders hold inputs that fuzzing has left: those of a merge (cargo fuzz run TARGET -- -set_cover_merge=1 ...), and
findings. Small inputs first, until the archive would be larger than a share of the 350 KiB that all have together;
inputs named `valid-*` and `finding-*` are always in it. The same inputs give the same file.
"""

import io
import sys
import zipfile
from pathlib import Path

MAX_BYTES = 25 << 10
MAX_INPUT = 16 << 10
NEVER = (1980, 1, 1, 0, 0, 0)


def cost(name: str, data: bytes) -> int:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name, NEVER), data, zipfile.ZIP_DEFLATED)
    return len(file.getvalue()) - 22


def main() -> None:
    target, folders = sys.argv[1], sys.argv[2:]
    found = {path.name: path for folder in folders for path in Path(folder).iterdir()}
    named = {name for name in found if name.startswith(("valid-", "finding-"))}
    inputs = {name if name in named else name[:12]: path.read_bytes() for name, path in found.items()}
    kept, size = [], 22
    for name, data in sorted(inputs.items(), key=lambda item: (item[0] not in named, len(item[1]), item[0])):
        more = cost(name, data)
        if name in named or (len(data) <= MAX_INPUT and size + more <= MAX_BYTES):
            kept.append((name, data))
            size += more
    output = Path(__file__).parent / "found" / f"{target}.zip"
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(kept):
            archive.writestr(zipfile.ZipInfo(name, NEVER), data, zipfile.ZIP_DEFLATED)
    print(f"{output}: {len(kept)} of {len(inputs)} inputs, {output.stat().st_size} bytes")


main()
