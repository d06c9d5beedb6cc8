"""Without the extra: a sentence that says what to install, from the command and from the service's setting."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from batch.errors import SettingsProblem
from batch.mcp import missing_package_advice
from batch.queue.open_store import open_store
from batch.settings import Settings
from batch.supervisor import supervisor


@pytest.fixture
def without_mcp(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed: neither the package nor what imports it is there."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("mcp", "mcp_types")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("batch.mcp.server", "batch.mcp.http_endpoint"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setitem(sys.modules, "mcp_types", None)


def test_the_command_says_what_to_install(
    without_mcp: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from batch.cli import app

    open_store(tmp_path / ".batch" / "batch.db").close()
    monkeypatch.setattr(sys, "argv", ["batch", "mcp", "--home", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    printed = capsys.readouterr()
    assert ended.value.code == 1 and "pip install 'mcp" in printed.err and len(printed.err.splitlines()) == 1


def test_the_setting_says_what_to_install(without_mcp: None, tmp_path: Path) -> None:
    store = open_store(tmp_path / ".batch" / "batch.db")
    with pytest.raises(SettingsProblem, match=r"mcp\.http is true, and the package mcp is missing"):
        supervisor._mcp_endpoint(Settings(home=tmp_path), store, 8080)
    store.close()


def test_another_missing_module_is_a_fault_of_its_own() -> None:
    assert missing_package_advice(ModuleNotFoundError("No module named 'x'", name="x")) is None
