#!/usr/bin/env bash
# Runs a program that was built with the feature cuda on a machine without a GPU, on a driver that does nothing
# (host-share.c): for the processor's share of the time, and for what is asked of the GPU.
#
#   scripts/host-share.sh PROGRAM [ARGUMENTS]
#
# The program's numbers are zeros, and so are its losses; what it writes is worth nothing. After its end come how many kernels
# were launched, products and convolutions made, and so on, to the standard error, or to the file HOST_SHARE_REPORT.
# Needs a C compiler and nm.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \?//' >&2; exit 1; }
program=$1
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Which of the libraries' functions the program calls, and as which version of which library.
nm -D --undefined-only "$program" | awk '{print $NF}' |
  grep -E '^_*(cu[A-Z]|cuda|cublas|curand|nvrtc|cudnn|nccl)' | sort -u >"$folder/called" || true
[ -s "$folder/called" ] || { echo "host-share: $program calls nothing of CUDA: build it with scripts/build-cuda.sh" >&2; exit 1; }
sed 's/@.*//' "$folder/called" | sort -u >"$folder/functions"
grep -oE '^(int|DESCRIPTOR|WORKSPACE)[ (][A-Za-z0-9_]+' "$here/host-share.c" | grep -oE '[A-Za-z0-9_]+$' | sort -u >"$folder/defined"

compile() { "${CC:-cc}" -O2 -w -shared -fPIC -Wl,-soname,"$1" -o "$folder/$1" "${@:2}"; }
{ grep '@' "$folder/called" || true; } | sed 's/@.*//' | awk '{print "int " $1 "(void) { return 0; }"}' >"$folder/versioned.c"
comm -23 "$folder/functions" "$folder/defined" | awk '{print "int " $1 "(void) { return 0; }"}' >"$folder/others.c"
echo >"$folder/empty.c"
for library in $(ldd "$program" | grep -oE 'lib(cuda|cudart|cublas|cublasLt|curand|nvrtc|cudnn|nccl)\.so\.[0-9]+' | sort -u); do
  case $library in
    libcuda.*) compile "$library" "$here/host-share.c" "$folder/others.c" ;;
    libcudart.*)
      echo "$library { global: *; };" >"$folder/version"
      compile "$library" "$folder/versioned.c" -Wl,--version-script="$folder/version"
      ;;
    *) compile "$library" "$folder/empty.c" ;;
  esac
done
LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$@"
