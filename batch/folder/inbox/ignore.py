"""Which files of the inbox are passed over: those that nobody dropped, and those that the settings say.

`folder.ignore` holds patterns as in a .gitignore: of the settings that match a path, the nearest to it decide, and among
their patterns the last one. What the service never takes, whatever patterns say, are names that begin with "." or "~".
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from pathspec import GitIgnoreSpec

from batch.folder.file_names import is_default_folder, is_hidden, is_ignored


class IgnoreLayer(msgspec.Struct, frozen=True):
    """The patterns of one settings file."""

    folder: str
    """What they are relative to, below the inbox."""
    patterns: tuple[str, ...]


class IgnoreRules(msgspec.Struct, frozen=True):
    """What holds in a folder."""

    layers: tuple[IgnoreLayer, ...] = ()
    """The nearest last."""

    def with_layer(self, folder: str, patterns: tuple[str, ...]) -> IgnoreRules:
        """The same rules with nearer ones."""
        return IgnoreRules((*self.layers, IgnoreLayer(folder, patterns))) if patterns else self

    def is_file_ignored(self, path: str) -> bool:
        """Whether a file is passed over."""
        *folders, name = path.split("/")
        if is_hidden(name) or any(is_hidden(folder) for folder in folders):
            return True
        decision = self._decision(path)
        return decision if decision is not None else is_ignored(name) or any(map(is_default_folder, folders))

    def is_folder_entered(self, path: str) -> bool:
        """Whether there may be files to take in a folder: it is not ignored, or a pattern makes exceptions."""
        name = path.rpartition("/")[2]
        if is_hidden(name):
            return False
        decision = self._decision(f"{path}/")
        is_left_out = decision if decision is not None else is_default_folder(name)
        return not is_left_out or any(pattern.startswith("!") for layer in self.layers for pattern in layer.patterns)

    def _decision(self, path: str) -> bool | None:
        """What the nearest settings with a matching pattern say; None where none match."""
        for layer in reversed(self.layers):
            relative = path[len(layer.folder) + 1 :] if layer.folder else path
            if relative and (include := _compiled(layer.patterns).check_file(relative).include) is not None:
                return include
        return None


@lru_cache(1024)
def _compiled(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(patterns)
