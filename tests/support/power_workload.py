"""What a home is used for while its changes are recorded: `python power_workload.py HOME CHAT_PORT`.

Each line that it appends to HOME/accepted, itself recorded, names something that the service has accepted by then.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import drill_home
from batch.queue.channel import Waker
from batch.queue.jobs import Kind
from batch.queue.open_store import open_store

FATES = {"kept": "keep", "moved": "move", "deleted": "delete"}
"""What becomes of the sources in each folder of the inbox."""
FILES = ("a.png", "b.wav", "c.txt", "d.txt")


def main(home: Path, port: int) -> None:
    """Use the service in every way in which it accepts something."""
    Workload(home, f"http://127.0.0.1:{port}").run()


class Workload:
    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url
        self.accepted = os.open(home / "accepted", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def accept(self, what: str, id: str) -> None:
        os.write(self.accepted, f"{what} {id}\n".encode())

    def run(self) -> None:
        for number, (folder, fate) in enumerate(FATES.items()):
            self.drop(f"{folder}/.batch.toml", f'source = "{fate}"\n'.encode())
            for place, name in enumerate(FILES):
                self.drop(f"{folder}/{name}", drill_home.content(name, number * 10 + place))
        self.submit()
        file = self.upload(b"".join(_line(n) for n in range(5)))
        self.accept("file", file)
        body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = self.post("/v1/batches", body)["id"]
        self.accept("batch", batch)
        background = {"model": "any", "input": "one two three", "background": True, "seed": 1}
        response = self.post("/v1/responses", background)["id"]
        self.accept("response", response)
        self.accept("conversation", self.post("/v1/conversations", {"metadata": {"a": "b"}})["id"])
        self.wait(lambda: self.get(f"/v1/batches/{batch}")["status"] == "completed")
        self.accept("output", self.get(f"/v1/batches/{batch}")["output_file_id"])
        self.wait(lambda: self.get(f"/v1/responses/{response}")["status"] == "completed")
        self.wait(lambda: all((self.home / "outbox" / folder / f"{name}.json").exists() for folder in FATES for name in FILES))
        self.wait(lambda: not (self.home / "inbox/deleted/a.png").exists())
        self.accept("all", "done")

    def drop(self, name: str, data: bytes) -> None:
        """As a careful program does, which flushes what it drops."""
        path = self.home / "inbox" / name
        if not path.parent.exists():
            path.parent.mkdir()
            _flush(path.parent.parent)
        partial = path.with_name(f".{path.name}.part")
        partial.write_bytes(data)
        _flush(partial)
        partial.rename(path)
        _flush(path.parent)
        self.accept("dropped", name)

    def submit(self) -> None:
        store = open_store(self.home / ".batch" / "batch.db")
        waker = Waker(self.home / ".batch")
        for number in range(4):
            draft = drill_home.chat_draft(f"job {number} " + "and more " * (number * 60))
            store.submit(draft, durable=True)
            self.accept("job", draft.id)
        for kind in Kind:
            waker.wake(kind)
        store.close()

    def upload(self, data: bytes) -> str:
        lines = [
            b'--cut\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n',
            b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + data + b"\r\n",
            b"--cut--\r\n",
        ]
        head = {"Content-Type": "multipart/form-data; boundary=cut"}
        return str(_answer(urllib.request.Request(f"{self.url}/v1/files", b"".join(lines), head))["id"])

    def post(self, path: str, body: Any) -> Any:
        head = {"Content-Type": "application/json"}
        return _answer(urllib.request.Request(self.url + path, json.dumps(body).encode(), head))

    def get(self, path: str) -> Any:
        return _answer(urllib.request.Request(self.url + path))

    def wait(self, what: Any) -> None:
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _line(number: int) -> bytes:
    body = {"model": "any", "messages": [{"role": "user", "content": f"line {number}"}], "seed": 1}
    return (
        json.dumps({"custom_id": f"n{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}).encode() + b"\n"
    )


def _answer(request: urllib.request.Request) -> Any:
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
