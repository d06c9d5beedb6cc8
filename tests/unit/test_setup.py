"""setup/install.py: a compiled library is used only where its probe has run, and another variant where it traps."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from paths import ROOT

REQUIREMENT = "llama-cpp-python==9.9.9 \\\n    --hash=sha256:00\n"
AMX = "fpu avx512f avx512_vnni amx_tile amx_int8 amx_bf16"
TRAP = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The set-up with a cache of its own, and a probe that computes."""
    spec = importlib.util.spec_from_file_location("batch_setup", ROOT / "setup" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "batch_setup", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "NOTE", tmp_path / "note.json")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    return module


class Machine:
    """Stands in for pip and the processor: says which builds were compiled and installed, and what their probe does."""

    def __init__(self, setup: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, traps: Callable[[str], bool]) -> None:
        self.compiled: list[str] = []
        self.installed: list[str] = []
        self._traps, self._probe = traps, folder / "probe.py"
        monkeypatch.setattr(setup, "pip", self.pip)
        monkeypatch.setattr(setup, "PROBE", self._probe)

    def pip(self, command: str, *args: str, environment: dict[str, str] | None = None, must: bool = True) -> bool:
        if command == "wheel":
            assert environment is not None
            self.compiled.append(environment["CMAKE_ARGS"])
            folder = Path(args[args.index("--wheel-dir") + 1])
            folder.mkdir()
            (folder / "llama_cpp_python-9.9.9-py3-none-any.whl").write_text(environment["CMAKE_ARGS"])
        else:
            self.installed.append(Path(args[-1]).read_text())
            self._probe.write_text(TRAP if self._traps(self.installed[-1]) else "print('computes')")
        return True


def test_a_build_that_computes_is_installed_and_compiled_once(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(setup, tmp_path, monkeypatch, lambda args: False)
    monkeypatch.setattr(setup, "processor_flags", lambda: AMX)
    for _ in range(2):
        setup.install_compiled(REQUIREMENT, [])
    assert machine.compiled == [""] and machine.installed == ["", ""]


def test_a_build_whose_instructions_trap_is_replaced_by_one_without_them(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(setup, tmp_path, monkeypatch, lambda args: "-mno-amx-tile" not in args)
    monkeypatch.setattr(setup, "processor_flags", lambda: AMX)
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_BLAS=ON")
    setup.install_compiled(REQUIREMENT, [])
    assert machine.installed[0] == "-DGGML_BLAS=ON" and machine.installed[-1] == machine.compiled[-1]
    for flag in ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16", "-DGGML_BLAS=ON"):
        assert flag in machine.installed[-1]
    assert "illegal instruction" in capsys.readouterr().out
    note = json.loads((tmp_path / "note.json").read_text())["llama-cpp-python"]
    assert note["variant"] == "without AMX" and "illegal instruction" in note["failures"][0], "batch doctor names it"


def test_a_cached_build_is_probed_again_on_another_machine(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two machines say the same of themselves, and one of them lies."""
    monkeypatch.setattr(setup, "processor_flags", lambda: AMX)
    Machine(setup, tmp_path, monkeypatch, lambda args: False)
    setup.install_compiled(REQUIREMENT, [])
    other = Machine(setup, tmp_path, monkeypatch, lambda args: args == "")
    setup.install_compiled(REQUIREMENT, [])
    assert other.installed[0] == "" and "-mno-amx-tile" in other.installed[1]


def test_without_amx_the_next_variant_is_for_any_processor(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(setup, tmp_path, monkeypatch, lambda args: "GGML_NATIVE=OFF" not in args)
    monkeypatch.setattr(setup, "processor_flags", lambda: "fpu avx2")
    setup.install_compiled(REQUIREMENT, [])
    assert machine.compiled == ["", "-DGGML_NATIVE=OFF"]


def test_where_no_build_runs_the_set_up_says_so_in_one_sentence(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(setup, tmp_path, monkeypatch, lambda args: True)
    monkeypatch.setattr(setup, "processor_flags", lambda: AMX)
    with pytest.raises(SystemExit, match=r"no build of llama-cpp-python runs on this machine .*illegal instruction"):
        setup.install_compiled(REQUIREMENT, [])


def test_another_processor_finds_no_build_of_this_one(setup: ModuleType) -> None:
    native, *_ = setup.VARIANTS
    folders = {setup.wheel_folder(REQUIREMENT, native, flags) for flags in (AMX, "fpu avx2", "fpu avx2 fma")}
    assert len(folders) == 3
    assert setup.wheel_folder(REQUIREMENT, native, AMX + " smep") == setup.wheel_folder(REQUIREMENT, native, AMX)
