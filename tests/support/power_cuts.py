"""What a disk may hold after a power cut: the recorded changes of a home, cut off anywhere, with what was not flushed
dropped, torn or out of order (power_cut_recorder.c records them)."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from pathlib import Path

SOURCE = Path(__file__).with_name("power_cut_recorder.c")
_RECORD = struct.Struct("=IIIIQQQQ")
TORN_BYTES = (512, 4096)
"""A write may reach the disk in pieces of these sizes."""
_LOST_FILES = ("-shm",)
"""Endings of files in shared memory, which mean nothing after a cut."""


_Writes = list[tuple[int, bytes | None]]
"""(offset, bytes), or (size, None) for a cut to that size."""


class Operation(IntEnum):
    CREATE = 1
    MKDIR = 2
    WRITE = 3
    TRUNCATE = 4
    SYNC = 5
    RENAME = 6
    UNLINK = 7
    LINK = 8


@dataclass(frozen=True, slots=True)
class Change:
    """One record."""

    operation: Operation
    node: int
    folder: int
    second_folder: int
    offset: int
    name: str
    second_name: str
    data: bytes


def compile_recorder(folder: Path) -> Path | None:
    """The library to preload; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not Path("/proc/self/fd").is_dir():
        return None
    library = folder / "recorder.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", "-o", library, SOURCE, "-ldl"], check=True, timeout=120)
    return library


def read_changes(log: Path) -> Iterator[Change]:
    """All records, in order."""
    with log.open("rb") as file:
        while head := file.read(_RECORD.size):
            operation, name, second, data, node, folder, second_folder, offset = _RECORD.unpack(head)
            names = (file.read(name).decode(errors="surrogateescape"), file.read(second).decode(errors="surrogateescape"))
            yield Change(Operation(operation), node, folder, second_folder, offset, *names, file.read(data))


@dataclass(slots=True, eq=False)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: _Writes = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Folder:
    durable: dict[str, _Node] = field(default_factory=dict)
    current: dict[str, _Node] = field(default_factory=dict)


_Node = _File | _Folder


@dataclass(slots=True, eq=False)
class _Entry:
    """A change of names that is not on disk yet: `node` leaves one place, or comes to another, or both at once."""

    node: _Node
    leaves: tuple[_Folder, str] | None
    comes: tuple[_Folder, str] | None

    def touches(self, folder: _Folder) -> bool:
        return any(place is not None and place[0] is folder for place in (self.leaves, self.comes))

    def apply(self, trees: Mapping[_Folder, dict[str, _Node]]) -> None:
        """Do it, unless what it takes away is not there."""
        if self.leaves is not None:
            folder, name = self.leaves
            if trees[folder].get(name) is not self.node:
                return
            del trees[folder][name]
        if self.comes is not None:
            folder, name = self.comes
            trees[folder][name] = self.node


class Disk:
    """The home as it would be on disk, change by change."""

    def __init__(self, home: int) -> None:
        """`home`: the inode of its folder, empty now and on disk."""
        self.root = _Folder()
        self._nodes: dict[int, _Node] = {home: self.root}
        self._folders: list[_Folder] = [self.root]
        self._entries: list[_Entry] = []

    def apply(self, change: Change) -> None:
        """Take one change in."""
        match change.operation:
            case Operation.CREATE | Operation.MKDIR:
                is_file = change.operation is Operation.CREATE
                node: _Node = _File() if is_file else _Folder()
                self._nodes[change.node] = node
                if isinstance(node, _Folder):
                    self._folders.append(node)
                self._enter(_Entry(node, None, (self._folder(change.folder), change.name)))
            case Operation.LINK:
                self._enter(_Entry(self._nodes[change.node], None, (self._folder(change.folder), change.name)))
            case Operation.WRITE:
                self._file(change.node).pending.append((change.offset, change.data))
            case Operation.TRUNCATE:
                self._file(change.node).pending.append((change.offset, None))
            case Operation.RENAME:
                self._rename(change)
            case Operation.UNLINK:
                folder = self._folder(change.folder)
                self._enter(_Entry(folder.current[change.name], (folder, change.name), None))
            case Operation.SYNC:
                self._sync(self._nodes.get(change.node))

    def _folder(self, inode: int) -> _Folder:
        node = self._nodes[inode]
        assert isinstance(node, _Folder)
        return node

    def _file(self, inode: int) -> _File:
        node = self._nodes.get(inode)
        return node if isinstance(node, _File) else _File()

    def _enter(self, entry: _Entry) -> None:
        entry.apply({folder: folder.current for folder in self._folders})
        self._entries.append(entry)

    def _rename(self, change: Change) -> None:
        if not change.folder:  # from elsewhere, whose bytes are not known: nothing here does so
            raise AssertionError(f"{change.second_name} was moved in from outside of the home")
        source = self._folder(change.folder)
        node = source.current[change.name]
        target = (self._folder(change.second_folder), change.second_name) if change.second_folder else None
        self._enter(_Entry(node, (source, change.name), target))

    def _sync(self, node: _Node | None) -> None:
        if isinstance(node, _File):
            node.durable, node.pending = _written(node.durable, node.pending), []
        elif node is not None:
            durable = {folder: folder.durable for folder in self._folders}
            for entry in [entry for entry in self._entries if entry.touches(node)]:
                # What made the name that this one takes away is on disk with it, in whatever folder.
                for earlier in self._entries[: self._entries.index(entry)]:
                    if entry.leaves is not None and earlier.comes == entry.leaves and earlier.node is entry.node:
                        earlier.apply(durable)
                        self._entries.remove(earlier)
                entry.apply(durable)
                self._entries.remove(entry)

    # -- cuts

    def cut(self, target: Path, luck: random.Random) -> None:
        """Write one of the states in which a cut at this moment may leave the disk into a new folder."""
        trees = {folder: dict(folder.durable) for folder in self._folders}
        share = luck.choice((0.0, 0.5, 1.0, 1.0))
        prefix = luck.randrange(len(self._entries) + 1) if luck.random() < 0.5 else None
        for number, entry in enumerate(self._entries):
            if luck.random() < share if prefix is None else number < prefix:
                entry.apply(trees)
        self._write(self.root, trees, target, partial(_survivors, luck))

    def _write(
        self, folder: _Folder, trees: Mapping[_Folder, dict[str, _Node]], target: Path, survivors: Callable[[_Writes], _Writes]
    ) -> None:
        target.mkdir(mode=0o700)
        for name, node in trees[folder].items():
            if name.endswith(_LOST_FILES):
                continue
            if isinstance(node, _Folder):
                self._write(node, trees, target / name, survivors)
            else:
                descriptor = os.open(target / name, os.O_WRONLY | os.O_CREAT, 0o600)
                with open(descriptor, "wb") as file:
                    file.write(_written(node.durable, survivors(node.pending)))


def _survivors(luck: random.Random, pending: _Writes) -> _Writes:
    """What of a file's unflushed changes is on disk: none, all, those up to some moment, or any of them in pieces."""
    match luck.randrange(4):
        case 0:
            return []
        case 1:
            return pending
        case 2:
            return pending[: luck.randrange(len(pending) + 1)]
    torn = luck.choice(TORN_BYTES)
    survivors: _Writes = []
    for offset, data in pending:
        if data is None:
            if luck.random() < 0.5:
                survivors.append((offset, None))
            continue
        at = 0
        while at < len(data):
            size = min(torn - (offset + at) % torn, len(data) - at)
            if luck.random() < 0.5:
                survivors.append((offset + at, data[at : at + size]))
            at += size
    return survivors


def _written(durable: bytearray, changes: _Writes) -> bytearray:
    content = bytearray(durable)
    for offset, data in changes:
        if data is None:
            del content[offset:]
            content.extend(bytes(max(0, offset - len(content))))
            continue
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
    return content
