"""setup/install.py: a compiled library is used only where its probe has run, and another variant where it traps; the source of
llama.cpp is changed where it is the one that the changes are for."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace

import pytest

from paths import ROOT

LLAMA, WHISPER = 0, 1
AMX = "fpu avx512f avx512_vnni amx_tile amx_int8 amx_bf16"
TRAP = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The set-up with a cache of its own, and a probe that computes."""
    monkeypatch.syspath_prepend(str(ROOT / "setup"))
    spec = importlib.util.spec_from_file_location("batch_setup", ROOT / "setup" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "batch_setup", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "NOTE", tmp_path / "note.json")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS"):
        monkeypatch.delenv(name, raising=False)
    return module


class Machine:
    """Stands in for pip and the processor: says which builds were compiled and installed, and what their probe does."""

    def __init__(
        self,
        setup: ModuleType,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        traps: Callable[[str], bool],
        *,
        library: int = LLAMA,
        compiles: bool = True,
        flags: str = AMX,
        sources: Mapping[Path, str] = MappingProxyType({}),
    ) -> None:
        self.compiled: list[str] = []
        """What each build was compiled with."""
        self.sources: list[Mapping[Path, str]] = []
        """What each build of llama.cpp was compiled from."""
        self.installed: list[str] = []
        """The same of what was installed; that of the package index is "index"."""
        self.options: list[str] = []
        """What pip was told for the latest installation."""
        self._setup, self._traps, self._compiles, self._probe = setup, traps, compiles, folder / "probe.py"
        self._library = replace(setup.LIBRARIES[library], probe=self._probe)
        self._sources = sources
        monkeypatch.setattr(setup, "pip", self.pip)
        monkeypatch.setattr(setup, "processor_flags", lambda: flags)

    def set_up(self) -> None:
        """Install the library."""
        requirement = f"{self._library.package}==9.9.9 \\\n    --hash=sha256:00\n"
        self._setup.install_compiled(self._library, requirement, ["--require-hashes"])

    def pip(self, command: str, *args: str, environment: dict[str, str] | None = None, must: bool = True) -> bool:
        if command == "download":
            assert "--require-hashes" in args
            name = Path("llama_cpp_python-9.9.9")
            with tarfile.open(Path(args[args.index("--dest") + 1]) / f"{name}.tar.gz", "w:gz") as archive:
                for path, text in {Path("pyproject.toml"): "", **self._sources}.items():
                    file = tarfile.TarInfo(str(name / path))
                    file.size = len(text.encode())
                    archive.addfile(file, io.BytesIO(text.encode()))
        elif command == "wheel":
            assert environment is not None
            if self._library.is_changed:
                self.sources.append({path: (Path(args[-1]) / path).read_text() for path in self._sources})
            told = f"{environment['CMAKE_ARGS']} {environment.get('CXXFLAGS', '')}".strip()
            self.compiled.append(told)
            if not self._compiles:
                return False
            folder = Path(args[args.index("--wheel-dir") + 1])
            folder.mkdir()
            (folder / "library-9.9.9-py3-none-any.whl").write_text(told)
        else:
            self.options = list(args)
            self.installed.append("index" if "-r" in args else Path(args[-1]).read_text())
            self._probe.write_text(TRAP if self._traps(self.installed[-1]) else "print('computes')")
        return True


@pytest.mark.parametrize("library", [LLAMA, WHISPER])
def test_a_build_that_computes_is_installed_and_compiled_once(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: int
) -> None:
    machine = Machine(setup, tmp_path, monkeypatch, lambda args: False, library=library)
    for _ in range(2):
        machine.set_up()
    assert len(machine.compiled) == 1 and machine.installed == machine.compiled * 2


@pytest.mark.parametrize("library", [LLAMA, WHISPER])
def test_a_build_whose_instructions_trap_is_replaced_by_one_without_them(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], library: int
) -> None:
    machine = Machine(setup, tmp_path, monkeypatch, lambda args: "-mno-amx-tile" not in args, library=library)
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_BLAS=ON")
    machine.set_up()
    assert "-DGGML_BLAS=ON" in machine.installed[0] and machine.installed[-1] == machine.compiled[-1]
    for flag in ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16", "-DGGML_BLAS=ON"):
        assert flag in machine.installed[-1]
    assert "illegal instruction" in capsys.readouterr().out
    note = json.loads((tmp_path / "note.json").read_text())[setup.LIBRARIES[library].package]
    assert note["variant"] == "without AMX" and "illegal instruction" in note["failures"][0], "batch doctor names it"


def test_a_cached_build_is_probed_again_on_another_machine(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two machines say the same of themselves, and one of them lies."""
    Machine(setup, tmp_path, monkeypatch, lambda args: False).set_up()
    other = Machine(setup, tmp_path, monkeypatch, lambda args: args == "")
    other.set_up()
    assert other.installed[0] == "" and "-mno-amx-tile" in other.installed[1]


def test_without_amx_the_next_variant_is_for_any_processor(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(setup, tmp_path, monkeypatch, lambda args: "GGML_NATIVE=OFF" not in args, flags="fpu avx2")
    machine.set_up()
    assert machine.compiled == ["", "-DGGML_NATIVE=OFF"]


@pytest.mark.parametrize("compiles", [True, False])
def test_where_no_build_of_whisper_runs_the_wheel_of_the_package_index_does_and_the_set_up_says_so(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], compiles: bool
) -> None:
    machine = Machine(setup, tmp_path, monkeypatch, lambda args: args != "index", library=WHISPER, compiles=compiles)
    machine.set_up()
    assert machine.installed[-1] == "index" and "--require-hashes" in machine.options
    reason = "illegal instruction" if compiles else "could not be compiled"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "package index" in line]
    assert "pywhispercpp" in line and reason in line
    note = json.loads((tmp_path / "note.json").read_text())["pywhispercpp"]
    assert note["variant"] == "by the package index" and reason in note["failures"][0]


def test_the_notes_of_both_libraries_stand_beside_each_other(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in (LLAMA, WHISPER):
        Machine(setup, tmp_path, monkeypatch, lambda args: False, library=library).set_up()
    notes = json.loads((tmp_path / "note.json").read_text())
    assert set(notes) == {"llama-cpp-python", "pywhispercpp"}
    changes = [notes[name].get("changes") for name in ("llama-cpp-python", "pywhispercpp")]
    assert changes == [setup.llama_source.digest(), None], "workers are known by it"


def test_where_no_build_runs_the_set_up_says_so_in_one_sentence(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(setup, tmp_path, monkeypatch, lambda args: True)
    with pytest.raises(SystemExit, match=r"no build of llama-cpp-python runs on this machine .*illegal instruction"):
        machine.set_up()


def unchanged(setup: ModuleType) -> dict[Path, str]:
    """Sources that the changes are for."""
    return {path: "\n".join(change.before for change in changes) for path, changes in setup.llama_source.CHANGES.items()}


def test_the_source_of_llama_cpp_is_changed_before_it_is_compiled(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(setup, tmp_path, monkeypatch, lambda args: False, sources=unchanged(setup))
    machine.set_up()
    (built,) = machine.sources
    models, products = {"gemma4.cpp", "bert.cpp", "llama-graph.cpp"}, {"sgemm.cpp", "repack.cpp", "tiled.cpp", "quants.c"}
    assert {path.name for path in built} == models | products | {"ops.cpp", "unary-ops.cpp", "vec.h"}
    for path, changes in setup.llama_source.CHANGES.items():
        assert all(change.after in built[path] for change in changes)
    assert "another source" not in capsys.readouterr().out


def test_another_source_is_compiled_as_it_is_and_the_set_up_says_so(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, changes in setup.llama_source.CHANGES.items():
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / path.name))
        sources = {**unchanged(setup), path: "\n".join(change.before for change in changes[1:])}
        machine = Machine(setup, tmp_path, monkeypatch, lambda args: False, sources=sources)
        machine.set_up()
        assert machine.sources == [sources] and machine.installed == machine.compiled, "all of it, or nothing"
        assert "llama_cpp_python-9.9.9.tar.gz has another source" in capsys.readouterr().out


def folders(setup: ModuleType) -> list[Path]:
    """Where the builds of both libraries lie."""
    return [
        setup.Build(library, library.variants[0], f"{library.package}==9.9.9 \\\n", AMX).folder for library in setup.LIBRARIES
    ]


def test_a_build_with_other_changes_is_not_used(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folders(setup)
    monkeypatch.setattr(setup.llama_source, "CHANGES", dict(list(setup.llama_source.CHANGES.items())[:-1]))
    after = folders(setup)
    assert after[LLAMA] != before[LLAMA] and after[WHISPER] == before[WHISPER]


def test_the_set_up_runs_where_pythons_path_has_no_folder_of_a_script(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    command = [sys.executable, "-P", ROOT / "setup" / "install.py", "--requirements", tmp_path / "empty.txt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "empty.txt names no llama-cpp-python: run `make lock`.\n"


@pytest.mark.parametrize(
    "changed",
    ["install.py", "llama_source.py", *(f"llama_cpp/{name}" for name in sorted(os.listdir(ROOT / "setup" / "llama_cpp")))],
)
@pytest.mark.parametrize("target", ["setup", "dev"])
def test_make_sets_up_again_where_what_is_compiled_is_changed(tmp_path: Path, target: str, changed: str) -> None:
    def make(*options: str) -> int:
        return subprocess.run(
            ["make", "--silent", *options, target, f"VENV={tmp_path}"], cwd=ROOT, stdout=subprocess.DEVNULL
        ).returncode

    (tmp_path / "bin").mkdir()
    make("--touch")
    assert make("--question") == 0
    assert make("--question", f"--what-if=setup/{changed}") == 1


def test_another_processor_finds_no_build_of_this_one(setup: ModuleType) -> None:
    def folder(flags: str) -> Path:
        library = setup.LIBRARIES[LLAMA]
        return Path(setup.Build(library, library.variants[0], "llama-cpp-python==9.9.9 \\\n", flags).folder)

    assert len({folder(flags) for flags in (AMX, "fpu avx2", "fpu avx2 fma")}) == 3
    assert folder(AMX + " smep") == folder(AMX)


def test_a_python_finds_no_extension_that_was_built_for_another(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folders(setup)
    other = SimpleNamespace(cache_tag="cpython-399", name="cpython", version=sys.version_info, hexversion=sys.hexversion)
    monkeypatch.setattr(sys, "implementation", other)
    after = folders(setup)
    assert after[LLAMA] == before[LLAMA], "Python loads it by ctypes"
    assert after[WHISPER] != before[WHISPER]


def test_a_build_finds_the_cmake_of_its_own_environment(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    library = setup.LIBRARIES[WHISPER]
    environment = setup.Build(library, library.variants[0], "pywhispercpp==9.9.9", AMX).environment()
    assert environment["PATH"].split(os.pathsep)[0] == sysconfig.get_path("scripts")


@pytest.mark.parametrize(("machine", "has_it"), [("x86_64", True), ("aarch64", False), ("arm64", False)])
def test_whisper_gets_llamafiles_matrix_product_where_that_adds_up_in_single_precision(
    monkeypatch: pytest.MonkeyPatch, machine: str, has_it: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.syspath_prepend(str(ROOT / "setup"))
    spec = importlib.util.spec_from_file_location("batch_setup", ROOT / "setup" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "batch_setup", module)
    spec.loader.exec_module(module)
    assert ("-DGGML_LLAMAFILE=ON" in module.LIBRARIES[WHISPER].cmake_args) is has_it
