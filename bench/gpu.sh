#!/usr/bin/env bash
# One run on a machine with an NVIDIA GPU: builds llama.cpp with CUDA, makes Gemma 4 E4B's shape, and puts chat, bulk work and
# embeddings to ours and to llama-server, and speech to ours and to whisper-server. Under 8 minutes on 16 cores, 10 with speech.
#
#     bench/gpu.sh SOURCE [ARCHITECTURE] [SPEECH_SOURCE]
#
# SOURCE is an unpacked llama-cpp-python sdist, whole (its scripts are part of the build) and unchanged: the peer is built from
# it as it is, ours after setup/llama_source.py has changed it. ARCHITECTURE is CUDA's number for the GPU (90 for Hopper);
# SPEECH_SOURCE an unpacked pywhispercpp sdist, without which speech is left out. The Python that runs this has the packages of
# requirements.lock but llama-cpp-python and pywhispercpp, which are taken from the sources as they were built here: whisper.cpp
# on llama.cpp's ggml, which saves the building of a second one. Whisper base is used where it was pulled; the cost at Whisper
# large-v3-turbo's size needs its list of tokens.
# BENCH_PARTS (bulk chat embeddings), BENCH_BULK_S (200, the limit of that part), BENCH_MODEL (e4b-shape), BENCH_LINES (200),
# BENCH_PICTURES (64), BENCH_SLOTS (32,16,1) and BENCH_CMAKE (-DGGML_CUDA=ON …) change what is run: a try without a GPU takes a small model and BENCH_CMAKE=-DGGML_CUDA=OFF. Each part has a time limit, and
# one that fails does not keep the next from running.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
source=$(cd "$1" && pwd)
architecture=${2:-90}
speech_source=${3:+$(cd "$3" && pwd)}
build=$source/build-cuda
model=${BENCH_MODEL:-e4b-shape}
cmake_options=${BENCH_CMAKE:--DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$architecture}
# Virtual machines may announce AMX tiles and trap at their use.
no_tiles="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
python_path=${PYTHONPATH:-}
export PYTHONPATH=$here:$source${PYTHONPATH:+:$PYTHONPATH}
peer=$build/peer
export BATCH_LLAMA_SERVER=$peer/llama-server.sh
export PYTHONUNBUFFERED=1

start=$SECONDS
stage() { echo "== $* ($((SECONDS - start)) s)"; }
part() {
  local limit=$1
  shift
  timeout --kill-after=10 "$limit" "$@" || echo "(ended with $?)"
}
compile() {
  cmake --build "$build" --target "$@" -j "$(nproc)" >"$build.log" 2>&1 || { tail -30 "$build.log"; exit 1; }
}

if [ ! -d "$peer" ] && [ -e "$source/vendor/llama.cpp/src/models/output_rows.h" ]; then
  echo "$1 has been changed by setup/llama_source.py: unpack the sdist anew, as the peer is built from it as it came." >&2
  exit 1
fi
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
compile llama-server mtmd llama
if [ ! -d "$peer" ]; then
  mkdir "$peer.part"
  cp -P "$build"/bin/libllama.so* "$peer.part"
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "'$peer'" "'$build/bin/llama-server'" >"$peer.part/llama-server.sh"
  chmod +x "$peer.part/llama-server.sh"
  mv "$peer.part" "$peer"
fi
python3 "$here/setup/llama_source.py" "$source"
compile mtmd llama
# Not copied: one library under two names would be loaded twice.
rm -rf "$source/llama_cpp/lib"
ln -s "$build/bin" "$source/llama_cpp/lib"
if [ "$model" = e4b-shape ]; then wait "$shape"; fi

stage "what this is"
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi
grep -m1 "model name" /proc/cpuinfo
python3 -c "import llama_cpp; print(llama_cpp.__version__, 'offload', llama_cpp.llama_supports_gpu_offload())"

for name in ${BENCH_PARTS:-bulk chat embeddings}; do
  stage "$name"
  case $name in
    bulk)
      part "${BENCH_BULK_S:-200}" python3 "$here/bench/bulk.py" --model "$model" --lines "${BENCH_LINES:-200}" \
        --pictures "${BENCH_PICTURES:-64}" --slots "${BENCH_SLOTS:-32,16,1}"
      if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=memory.used --format=csv,noheader; fi
      ;;
    chat) part 110 python3 "$here/bench/chat.py" --model "$model" --rounds 1 ;;
    embeddings) part 60 python3 "$here/bench/embeddings.py" --model wide --rounds 1 ;;
    *) echo "there is no part $name" ;;
  esac
done
if [ -n "$speech_source" ]; then
  stage "building speech"
  speech=$build/speech
  rm -rf "$speech"
  mkdir -p "$speech/ggml"
  cat >"$speech/ggml/ggml-config.cmake" <<END
foreach(name ggml ggml-base ggml-cpu)
  add_library(ggml::\${name} SHARED IMPORTED GLOBAL)
  set_target_properties(ggml::\${name} PROPERTIES IMPORTED_LOCATION $build/bin/lib\${name}.so
    INTERFACE_INCLUDE_DIRECTORIES $source/vendor/llama.cpp/ggml/include)
endforeach()
set_target_properties(ggml::ggml PROPERTIES INTERFACE_LINK_LIBRARIES "ggml::ggml-base;ggml::ggml-cpu")
END
  # A ggml that is found does not say that it was built with CUDA, and whisper.cpp asks when it is compiled.
  cuda_define=
  if [ -e "$build/bin/libggml-cuda.so" ]; then cuda_define=-DGGML_USE_CUDA; fi
  if cmake "${generator[@]}" -S "$speech_source" -B "$speech" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DCMAKE_POLICY_VERSION_MINIMUM=3.5 -DCMAKE_CXX_FLAGS="$cuda_define" -DWHISPER_USE_SYSTEM_GGML=ON -Dggml_DIR="$speech/ggml" \
    -DPython_EXECUTABLE="$(command -v python3)" -DPYTHON_EXECUTABLE="$(command -v python3)" -DWHISPER_BUILD_EXAMPLES=ON \
    -DWHISPER_BUILD_SERVER=ON -DWHISPER_BUILD_TESTS=OFF >"$speech.log" 2>&1 &&
    cmake --build "$speech" --target whisper-server _pywhispercpp -j "$(nproc)" >>"$speech.log" 2>&1; then
    export PYTHONPATH=$here:$speech:$source${python_path:+:$python_path}
    export BATCH_WHISPER_SERVER=$speech/bin/whisper-server
    stage "speech"
    part 30 python3 -P "$here/batch/workers/speech/whisper/probe.py" 2>/dev/null
    part 60 python3 "$here/bench/speech.py" --rounds 3 --long 0
    part 90 python3 "$here/bench/speech.py" --model turbo-shape --rounds 3 --long "${BENCH_LONG:-1800}"
    part 60 python3 "$here/bench/speech_bulk.py" --model turbo-shape --files 12 --rounds 2
  else
    tail -30 "$speech.log"
  fi
fi
stage "done"
