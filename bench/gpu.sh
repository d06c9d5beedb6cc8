#!/usr/bin/env bash
# One run on a machine with an NVIDIA GPU: builds llama.cpp with CUDA, makes Gemma 4 E4B's shape, and puts chat and bulk work
# to ours and to llama-server. Under 8 minutes on 16 cores.
#
#     bench/gpu.sh SOURCE [ARCHITECTURE]
#
# SOURCE is an unpacked llama-cpp-python sdist; ARCHITECTURE is CUDA's number for the GPU (90 for Hopper). The Python that
# runs this has the packages of requirements.lock but llama-cpp-python, which is taken from SOURCE as it was built here.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
source=$(cd "$1" && pwd)
architecture=${2:-90}
build=$source/build-cuda
export PYTHONPATH=$here:$source${PYTHONPATH:+:$PYTHONPATH}
export BATCH_LLAMA_SERVER=$build/bin/llama-server

start=$SECONDS
stage() { echo "== $* (${SECONDS} s)"; }

stage "building"
python3 "$here/bench/e4b_shape.py" &
shape=$!
cmake -S "$source/vendor/llama.cpp" -B "$build" -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=ON -DGGML_NATIVE=ON \
  -DCMAKE_CUDA_ARCHITECTURES="$architecture" -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
  -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_CURL=OFF >/dev/null
cmake --build "$build" --target llama-server mtmd llama -j "$(nproc)" >/dev/null
mkdir -p "$source/llama_cpp/lib" && cp -a "$build"/bin/lib*.so* "$source/llama_cpp/lib/"
wait "$shape"

stage "what this is"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
python3 -c "import llama_cpp; print(llama_cpp.__version__, llama_cpp.llama_supports_gpu_offload())"

stage "chat"
python3 "$here/bench/chat.py" --model e4b-shape --rounds 2 || true
stage "bulk"
python3 "$here/bench/bulk.py" --model e4b-shape --lines 200 --pictures 100 --slots 1,8,16 || true
stage "done in $((SECONDS - start)) s"
