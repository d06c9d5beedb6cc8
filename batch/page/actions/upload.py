"""POST /page/files: put a file into the inbox, where it is taken up as if somebody had dropped it there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil

from starlette.requests import Request
from starlette.responses import Response

from batch.api.http.multipart import read_upload
from batch.errors import BadRequest, DiskFull
from batch.folder.file_names import NAME_BYTES, is_ignored, shortened
from batch.folder.safe_open import make_folder_below
from batch.page.endpoint import done
from batch.page.parameters import Parameters
from batch.page.service import PageService

MAX_FOLDER_DEPTH = 20
_MAX_NUMBERED = 10_000
_FOLDER_MODE = 0o777
"""As far as the umask lets others in, like a folder that a person makes."""
_PART_CHARS = 60


async def upload(page: PageService, request: Request) -> Response:
    """A raw body with its name in the address, as the script sends it, or a form with one file."""
    parameters = Parameters.of_address(request)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        form = await read_upload(request)
        if form.sha256 is None or not form.filename:
            raise BadRequest("No file was chosen.")
        sha256, name, folder = form.sha256, form.filename, form.last("folder") or ""
    else:
        name, folder = parameters.text("name") or "", parameters.text("folder") or ""
        clean_name(name)
        sha256, _ = await page.hub.keep_stream(request.stream())
    name, folder = clean_name(name), clean_folder(folder)
    source, inbox = os.fspath(await page.hub.fetch(sha256)), os.fspath(page.settings.inbox_dir)
    await asyncio.to_thread(place_file, source, inbox, folder, name)
    return done(request, "/page/files", "uploaded")


def clean_name(name: str) -> str:
    """A name as one component of a path. Raises BadRequest for one that is none, or that the inbox passes over."""
    last = name.replace("\\", "/").rpartition("/")[2]
    clean = "".join(char if char.isprintable() else "_" for char in last).strip()
    if len(os.fsencode(clean.encode("utf-8", "replace").decode())) > NAME_BYTES:
        stem, dot, ending = clean.rpartition(".")
        clean = shortened(stem, f"{dot}{ending}") if stem and _is_ending(ending) else shortened(clean, "")
    if clean in ("", ".", ".."):
        raise BadRequest('The file has no name: send it as "name".', param="name")
    if is_ignored(clean):
        raise BadRequest(f"The inbox passes over files called {clean[:100]!r}: give it another name.", param="name")
    return clean


def _is_ending(ending: str) -> bool:
    """Whether what follows the last dot of a name tells a kind of file, and stays where a name is made shorter."""
    return ending.isascii() and len(ending) < 20


def clean_folder(folder: str) -> str:
    """A folder of the inbox. Raises BadRequest for a path that leads elsewhere."""
    parts = [part for part in folder.split("/") if part]
    if len(parts) > MAX_FOLDER_DEPTH:
        raise BadRequest(f'"folder" is deeper than {MAX_FOLDER_DEPTH} folders.', param="folder")
    for part in parts:
        is_plain = part.isprintable() and "\\" not in part and not part.startswith((".", "~"))
        if not is_plain or len(part.encode("utf-8", "replace")) > NAME_BYTES:
            raise BadRequest('"folder" must be the path of a folder of the inbox, as in "holidays/2026".', param="folder")
    return "/".join(parts)


def place_file(source: str, inbox: str, folder: str, name: str) -> str:
    """Copy a file into the inbox whole or not at all; its name there, with a number where that was taken. Raises DiskFull,
    BadRequest."""
    try:
        descriptor = make_folder_below(inbox, folder, _FOLDER_MODE)
    except OSError as error:
        raise BadRequest(f'"folder" cannot be made in the inbox: {error.strerror}.', param="folder") from None
    try:
        part = f".{name[:_PART_CHARS]}.{os.urandom(4).hex()}.part"
        try:
            copy = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=descriptor)
            try:
                with open(source, "rb") as original, open(copy, "wb") as target:
                    shutil.copyfileobj(original, target, 1 << 20)
                    target.flush()
                    os.fsync(target.fileno())
                return _name_file(descriptor, part, name)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=descriptor)
        except OSError as error:
            raise DiskFull(f"The inbox cannot be written ({error.strerror}): look after its disk.") from None
    finally:
        os.close(descriptor)


def _name_file(folder: int, part: str, name: str) -> str:
    """Give a finished copy a name that no file has."""
    stem, dot, ending = name.rpartition(".")
    base, ending = (stem, f"{dot}{ending}") if stem and _is_ending(ending) else (name, "")
    for number in range(1, _MAX_NUMBERED):
        candidate = name if number == 1 else shortened(base, f" ({number}){ending}")
        try:
            os.link(part, candidate, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            return candidate
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            if not _exists(folder, candidate):
                os.rename(part, candidate, src_dir_fd=folder, dst_dir_fd=folder)
                return candidate
    raise BadRequest("The inbox holds thousands of files of this name: give it another one.", param="name")


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
