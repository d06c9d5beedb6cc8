#!/usr/bin/env bash
# One run on a machine with an NVIDIA GPU: builds llama.cpp with CUDA, makes Gemma 4 E4B's shape, and puts chat, bulk work and
# embeddings to ours and to llama-server. Under 8 minutes on 16 cores.
#
#     bench/gpu.sh SOURCE [ARCHITECTURE]
#
# SOURCE is an unpacked llama-cpp-python sdist, whole (its scripts are part of the build); ARCHITECTURE is CUDA's number for
# the GPU (90 for Hopper). The Python that runs this has the packages of requirements.lock but llama-cpp-python, which is taken
# from SOURCE as it was built here.
# BENCH_MODEL (e4b-shape), BENCH_LINES (200), BENCH_PICTURES (64), BENCH_SLOTS (32,16,1) and BENCH_CMAKE (-DGGML_CUDA=ON …)
# change what is run: a try without a GPU takes a small model and BENCH_CMAKE=-DGGML_CUDA=OFF. Each part has a time limit, and
# one that fails does not keep the next from running.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
source=$(cd "$1" && pwd)
architecture=${2:-90}
build=$source/build-cuda
model=${BENCH_MODEL:-e4b-shape}
cmake_options=${BENCH_CMAKE:--DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$architecture}
# Virtual machines may announce AMX tiles and trap at their use.
no_tiles="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
export PYTHONPATH=$here:$source${PYTHONPATH:+:$PYTHONPATH}
export BATCH_LLAMA_SERVER=$build/bin/llama-server
export PYTHONUNBUFFERED=1

start=$SECONDS
stage() { echo "== $* ($((SECONDS - start)) s)"; }
part() {
  local limit=$1
  shift
  timeout --kill-after=10 "$limit" "$@" || echo "(ended with $?)"
}

stage "building"
if [ "$model" = e4b-shape ]; then
  python3 "$here/bench/e4b_shape.py" &
  shape=$!
fi
generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi
# shellcheck disable=SC2086  # several options in one variable
cmake "${generator[@]}" -S "$source/vendor/llama.cpp" -B "$build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
  -DCMAKE_C_FLAGS="$no_tiles" -DCMAKE_CXX_FLAGS="$no_tiles" $cmake_options -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_TESTS=OFF \
  -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_CURL=OFF \
  >"$build.log" 2>&1 || { tail -30 "$build.log"; exit 1; }
cmake --build "$build" --target llama-server mtmd llama -j "$(nproc)" >"$build.log" 2>&1 || { tail -30 "$build.log"; exit 1; }
# Not copied: one library under two names would be loaded twice.
rm -rf "$source/llama_cpp/lib"
ln -s "$build/bin" "$source/llama_cpp/lib"
if [ "$model" = e4b-shape ]; then wait "$shape"; fi

stage "what this is"
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi
grep -m1 "model name" /proc/cpuinfo
python3 -c "import llama_cpp; print(llama_cpp.__version__, 'offload', llama_cpp.llama_supports_gpu_offload())"

stage "bulk"
part 200 python3 "$here/bench/bulk.py" --model "$model" --lines "${BENCH_LINES:-200}" --pictures "${BENCH_PICTURES:-64}" \
  --slots "${BENCH_SLOTS:-32,16,1}"
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=memory.used --format=csv,noheader; fi
stage "chat"
part 110 python3 "$here/bench/chat.py" --model "$model" --rounds 1
stage "embeddings"
part 60 python3 "$here/bench/embeddings.py" --model wide --rounds 1
stage "done"
