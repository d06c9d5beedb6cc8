"""Every comparison with a peer, one after the other, in under ten minutes on a quiet machine with two cores.

    BATCH_LLAMA_SERVER=… BATCH_WHISPER_SERVER=… python bench/all.py [embeddings chat speech mixed] [-- further options]

Options behind `--` go to each of them, `--rounds 3` say. The exit status is 1 when a bar is missed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = ("embeddings", "chat", "speech", "mixed")


def main() -> int:
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    names, options = given[:at] or list(NAMES), given[at + 1 :]
    if unknown := set(names) - set(NAMES):
        raise SystemExit(f"There is no benchmark {', '.join(sorted(unknown))}: choose among {', '.join(NAMES)}.")
    folder = Path(__file__).parent
    return max([subprocess.run([sys.executable, str(folder / f"{name}.py"), *options]).returncode for name in names])


if __name__ == "__main__":
    sys.exit(main())
