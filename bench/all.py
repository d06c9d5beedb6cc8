"""Every comparison with a peer, one after the other, in under ten minutes on a quiet machine with two cores.

    BATCH_LLAMA_SERVER=… BATCH_WHISPER_SERVER=… python bench/all.py [embeddings chat speech mixed] [-- further options]
    python bench/all.py --true-size [-- further options]

Options behind `--` go to each of them, `--rounds 3` say. With `--true-size` chat, bulk work (interactive requests beside it
among them), load time and memory are measured with Gemma 4 E4B's shape, which takes an hour on two cores and 11 GB of
memory. The exit status is 1 when a bar is missed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = ("embeddings", "chat", "speech", "mixed")
TRUE_SIZE = ("load", "chat", "bulk")


def main() -> int:
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    names, options = given[:at], given[at + 1 :]
    is_true_size = "--true-size" in names
    names = [name for name in names if name != "--true-size"]
    known = TRUE_SIZE if is_true_size else NAMES
    if unknown := set(names) - set(known):
        raise SystemExit(f"There is no benchmark {', '.join(sorted(unknown))}: choose among {', '.join(known)}.")
    if is_true_size:
        options = ["--model", "e4b-shape", *options]
    folder = Path(__file__).parent
    commands = [[sys.executable, str(folder / f"{name}.py"), *options] for name in names or known]
    return max([subprocess.run(command).returncode for command in commands])


if __name__ == "__main__":
    sys.exit(main())
