"""How many rows each named node of a llama.cpp context's graphs has."""

from __future__ import annotations

import ctypes

from batch.workers.llama.library import ggml, lib


class GraphRows:
    """`callback` goes into a context's cb_eval, and lives as long as the context."""

    def __init__(self) -> None:
        name, rows = ggml["ggml_get_name"], ggml["ggml_nrows"]
        name.restype, rows.restype = ctypes.c_char_p, ctypes.c_int64
        self.by_name: dict[str, int] = {}
        """Of the latest graph that had such a node."""

        def note(node: int, is_asked: bool, _data: int | None) -> bool:
            self.by_name[name(ctypes.c_void_p(node)).decode()] = rows(ctypes.c_void_p(node))
            return not is_asked

        self.callback = lib.ggml_backend_sched_eval_callback(note)
