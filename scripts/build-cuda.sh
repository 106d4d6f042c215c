#!/usr/bin/env bash
# Builds nestgen with its CUDA feature, on a machine with NVIDIA's toolkit or on one without toolkit and GPU.
#
#   scripts/build-cuda.sh [CARGO ARGUMENTS]        without arguments: build --release
#   scripts/build-cuda.sh clippy --release --workspace --all-targets
#
# With a toolkit (nvcc under CUDA_HOME or in PATH) that is used. Without one, the compiler comes from PyPI (105 MB, kept
# in CUDA_TOOLKIT), and stand-ins are made for the libraries that a program of this kind is linked to: they carry the
# right names and nothing else, and lie where only the linker looks. The program runs where there is a driver and
# CUDA 13's libraries (cudart, cublas, curand, nvrtc). Exit code 3: there is no compiler, and none could be had.
#
# It needs Python 3, and pip where there is no toolkit.
#
# Settings (environment):
#   CUDA_COMPUTE_CAP   least compute capability to build for   [of the GPU here, else 80: A100 and everything after]
#   CUDA_LIBRARIES     folders with CUDA's libraries on the machine that runs the program, joined by `:`
#   CUDA_TOOLKIT       where a toolkit from PyPI is kept       [target-cuda/toolkit]
#   CARGO_TARGET_DIR   where the build goes                    [target-cuda]
#   CUDNN=1            convolutions by cuDNN 9, which the machine that runs the program then needs too
#   NCCL=1             training over MPI with gradients from GPU to GPU by NCCL 2; needs what the feature mpi needs (an MPI
#                      library with mpicc, and libclang), and NCCL on the machines that run the program
#   FULL=1             also compile candle's kernels for quantised networks, which nestgen never calls (many minutes)
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target-cuda}
toolkit=${CUDA_TOOLKIT:-$PWD/target-cuda/toolkit}
mkdir -p "$CARGO_TARGET_DIR" "$toolkit"
say() { echo "build-cuda: $*" >&2; }

package_folder() { # where cargo keeps a package's sources
  cargo metadata --format-version 1 --all-features --locked | python3 -c '
import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == sys.argv[1]:
        print(os.path.dirname(package["manifest_path"]))' "$1"
}

standin() { # folder of cudarc, module, prefix of function names, soname, link name
  grep -rhoE "fn $3[A-Za-z0-9_]*" "$1/src/$2/sys" | awk '{print $2}' | sort -u |
    awk '{print "int " $1 "(void) { return 34; }"}' >"$toolkit/standin.c"
  [ -s "$toolkit/standin.c" ] || { say "no functions found for $5"; exit 1; }
  "${CC:-cc}" -shared -fPIC -w -Wl,-soname,"$4" -o "$toolkit/stand-ins/$5.so" -x c "$toolkit/standin.c"
}

from_pypi() { # a toolkit of NVIDIA's wheels; its version is that of the libraries the program will need
  if [ ! -e "$toolkit/complete" ]; then
    say "no nvcc here: taking NVIDIA's compiler from PyPI"
    timeout 900 python3 -m pip install -q --no-deps --only-binary=:all: --retries 2 --upgrade --target "$toolkit/py" \
      nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
      nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 ||
      { say "NVIDIA's compiler cannot be had from PyPI; install a toolkit, or set CUDA_HOME"; exit 3; }
    touch "$toolkit/complete"
  fi
  CUDA_HOME=$toolkit/py/nvidia/cu13
  ln -sfn lib "$CUDA_HOME/lib64"
  ln -sf libcudart.so.13 "$CUDA_HOME/lib/libcudart.so"
  mkdir -p "$toolkit/stand-ins"
  local cudarc
  cudarc=$(package_folder cudarc)
  standin "$cudarc" driver 'cu[A-Z]' libcuda.so.1 libcuda
  standin "$cudarc" cublas cublas libcublas.so.13 libcublas
  standin "$cudarc" cublaslt cublasLt libcublasLt.so.13 libcublasLt
  standin "$cudarc" curand curand libcurand.so.10 libcurand
  standin "$cudarc" nvrtc nvrtc libnvrtc.so.13 libnvrtc
  standin "$cudarc" cudnn cudnn libcudnn.so.9 libcudnn
  standin "$cudarc" nccl nccl libnccl.so.2 libnccl
  export LIBRARY_PATH="$toolkit/stand-ins:$CUDA_HOME/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
  export CUDARC_CUDA_VERSION=13000
}

if [ -z "${CUDA_HOME:-}" ] && command -v nvcc >/dev/null; then
  CUDA_HOME=$(dirname "$(dirname "$(realpath "$(command -v nvcc)")")")
fi
if [ -z "${CUDA_HOME:-}" ] || [ ! -x "$CUDA_HOME/bin/nvcc" ]; then
  from_pypi
elif [ -d "$CUDA_HOME/lib64/stubs" ]; then
  # NVIDIA's own stand-in for the driver's library, for machines that build and have no GPU.
  export LIBRARY_PATH="$CUDA_HOME/lib64/stubs:$CUDA_HOME/lib64${LIBRARY_PATH:+:$LIBRARY_PATH}"
fi
export CUDA_HOME CUDA_PATH=$CUDA_HOME PATH=$CUDA_HOME/bin:$PATH
if [ -z "${CUDA_COMPUTE_CAP:-}" ]; then
  CUDA_COMPUTE_CAP=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .) || true
fi
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80} CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}
say "compiler $(nvcc --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p'), compute capability $CUDA_COMPUTE_CAP"

# candle compiles fifteen sources for quantised and mixture-of-experts networks, at up to a minute each. Unless all is
# wanted, they are replaced by functions that say so and end the program. The patch would alter Cargo.lock.
patch=()
if [ "${FULL:-0}" != 1 ]; then
  lite=$toolkit/candle-kernels
  rm -rf "$lite"
  cp -r "$(package_folder candle-kernels)" "$lite"
  rm -f "$lite/Cargo.lock"
  {
    echo '#include <cstdio>'
    echo '#include <cstdlib>'
    grep -oE 'pub fn +[A-Za-z0-9_]+' "$lite/src/ffi.rs" | awk '{print $3}' | sort -u |
      awk '{printf "extern \"C\" void %s() { fprintf(stderr, \"%s is left out of this build\\n\"); abort(); }\n", $1, $1}'
  } >"$lite/src/left_out.cu"
  sed -i -e '/let mut moe_sources = vec!\[/,/\];/c\    let mut moe_sources = vec!["src/left_out.cu"];' \
    -e 's/"mmq_\*\.cu"\]/"mmq_*.cu", "left_out.cu"]/' "$lite/build.rs"
  grep -q 'vec!\["src/left_out.cu"\]' "$lite/build.rs" && grep -q '"left_out.cu"\])' "$lite/build.rs" ||
    { say "candle-kernels has changed: build with FULL=1"; exit 1; }
  # Kept when nothing changed, so that cargo does not compile it again.
  if [ -d "$lite-kept" ] && diff -rq "$lite" "$lite-kept" >/dev/null; then rm -rf "$lite"; else
    rm -rf "$lite-kept"
    mv "$lite" "$lite-kept"
  fi
  patch=(--config "patch.crates-io.candle-kernels.path='$lite-kept'")
  cp Cargo.lock "$toolkit/Cargo.lock.saved"
  trap 'cp "$toolkit/Cargo.lock.saved" Cargo.lock' EXIT
fi
if [ -n "${CUDA_LIBRARIES:-}" ]; then
  export RUSTFLAGS="${RUSTFLAGS:-} -C link-arg=-Wl,-rpath,$CUDA_LIBRARIES"
fi
[ $# -gt 0 ] || set -- build --release
verb=$1
shift
features=nestgen/cuda
[ "${CUDNN:-0}" != 1 ] || features=$features,nestgen/cudnn
[ "${NCCL:-0}" != 1 ] || features=$features,nestgen/nccl
cargo "$verb" --features "$features" "${patch[@]}" "$@"
