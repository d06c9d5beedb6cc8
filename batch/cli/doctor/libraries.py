"""Whether the libraries are there in versions that fit, import as the code imports them, and compute on this processor."""

from __future__ import annotations

import importlib.metadata
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import msgspec

from batch.cli.doctor.finding import Finding
from batch.memory.compute_device import ComputeDevice
from batch.workers.build import build_note

CHECK_TIMEOUT_S = 120

IMPORTS = {
    "the service": (
        "batch.supervisor batch.cli.commands batch.queue.open_store batch.catalog.pull sqlite_utils.migrations "
        "huggingface_hub.file_download gguf av pillow_heif charset_normalizer"
    ),
    "chat and embeddings": "llama_cpp.llama_cpp batch.workers.worker batch.workers.chat.engine batch.workers.embedding.engine",
    "speech": "_pywhispercpp batch.workers.worker batch.workers.speech.engine",
}
"""The modules of each part, with those that it imports only when they are needed; one process each, as in the service."""

COMPUTE_SPEECH = """
import numpy
from pathlib import Path
import batch.workers.speech.voice_activity as voice_activity
import batch
detector = voice_activity.SileroDetector(Path(batch.__file__).parent / "data/silero-vad/ggml-silero-v6.2.0.bin")
detector.scores(numpy.zeros((8, 512), numpy.float32))
"""


def check_libraries() -> Iterator[Finding]:
    """Every check in turn, each that loads compiled code in a process of its own."""
    yield _versions()
    yield from (_imports(part, modules.split()) for part, modules in IMPORTS.items())
    yield _computes("llama.cpp", ["-m", "batch.workers.llama.probe"], _variant("llama-cpp-python"))
    yield _computes("whisper.cpp", ["-m", "batch.workers.speech.whisper.probe"], _variant("pywhispercpp"))
    yield _computes("voice activity", ["-c", COMPUTE_SPEECH], "")
    yield _graphics()


def _versions() -> Finding:
    from packaging.requirements import Requirement

    try:
        requirements = importlib.metadata.requires("batch-engine") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("libraries", "batch is not installed, but run from its folder", "Run `make setup`.")
    problems = []
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        if version not in requirement.specifier:
            problems.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    return Finding("libraries", "; ".join(problems) or "all there", "Run `make setup` again." if problems else "")


def _imports(part: str, modules: list[str]) -> Finding:
    problem = _run(["-c", f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"])
    subject = f"modules of {part}"
    return Finding(subject, problem, "Run `make clean setup`.") if problem else Finding(subject, "import")


def _variant(package: str) -> str:
    """How a library was built, in brackets; empty where nobody noted it."""
    note = build_note(package)
    if not note.variant:
        return ""
    reasons = f", because of {'; '.join(note.failures)}" if note.failures else ""
    return f" (compiled {note.variant}{reasons})"


def _computes(library: str, arguments: list[str], variant: str) -> Finding:
    problem = _run(arguments)
    if problem is None:
        return Finding(library, f"computes here{variant}")
    return Finding(library, f"{problem}{variant}", "Run `make clean setup`, which builds one that runs on this processor.")


def _graphics() -> Finding:
    has_driver = shutil.which("nvidia-smi") is not None
    return judge_graphics(_devices("llama"), _devices("speech.whisper"), has_nvidia_driver=has_driver)


def judge_graphics(llama: Sequence[ComputeDevice], whisper: Sequence[ComputeDevice], *, has_nvidia_driver: bool) -> Finding:
    """What to say of the devices that llama.cpp and whisper.cpp see, of which the latter uses the first GPU. One that
    they were not built for is a loss, not a fault."""
    gpus = [device for device in llama if device.is_gpu]
    speech_gpu = next((device for device in whisper if device.is_gpu), None)
    if not gpus and speech_gpu is None:
        state = "the models compute on the CPU"
        state += ", but this machine has an NVIDIA GPU" if has_nvidia_driver else ", and no NVIDIA GPU is seen here"
    else:
        state = f"llama.cpp computes on {'; '.join(gpu.summary for gpu in gpus) or 'the CPU'}"
        state += f", whisper.cpp on {speech_gpu.name if speech_gpu is not None else 'the CPU'}"
    remedy = 'To use it for all models: CMAKE_ARGS="-DGGML_CUDA=on" make setup (needs the CUDA toolkit).'
    is_used = bool(gpus) and speech_gpu is not None
    return Finding("graphics", state, "" if is_used or not (has_nvidia_driver or gpus or speech_gpu) else remedy)


def _devices(library: str) -> list[ComputeDevice]:
    """What a model library can compute on here, told by another process; [] where it cannot say."""
    command = [sys.executable, "-m", f"batch.workers.{library}.devices"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=CHECK_TIMEOUT_S, check=False)
        return msgspec.json.decode(done.stdout, type=list[ComputeDevice])
    except (subprocess.TimeoutExpired, msgspec.MsgspecError):
        return []


def _run(arguments: list[str]) -> str | None:
    """Why another Python process failed, in a few words; None when it did not."""
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=CHECK_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"not done after {CHECK_TIMEOUT_S} seconds"
    if done.returncode < 0:
        name = signal.strsignal(-done.returncode) or f"signal {-done.returncode}"
        return f"stopped with {name.lower()}"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
    return None
