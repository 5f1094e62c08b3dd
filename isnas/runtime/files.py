"""Writing and reading files so that a crash, a full disk or a damaged file loses nothing and surprises nobody."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from .errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file whole or not at all: temporary file beside it, fsync, rename.

    Raises
    ------
    UserError
        When it cannot be written; a file that was there before is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def lock(path: str | Path) -> IO[bytes] | None:
    """Take the lock of this name, until what is returned is closed or the process ends; None when another has it.

    Where the system has no such locks (Windows), it is always given.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "ab"))
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        stack.pop_all()
        return file


def is_locked(path: str | Path) -> bool:
    """Whether a process has the lock of this name."""
    if fcntl is None or not Path(path).exists():
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_json(path: str | Path, data: Any) -> None:
    """Write plain data as JSON, atomically."""
    write_atomically(path, json.dumps(data, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    UserError
        When it is not there, cannot be read or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no valid JSON: {error}") from None


def write_tensors(path: str | Path, data: Any) -> None:
    """Write tensors and plain data with `torch.save`, atomically."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    write_atomically(path, buffer.getvalue())


def read_tensors(path: str | Path) -> Any:
    """Read what `write_tensors` wrote, onto the CPU. Nothing in the file is executed (``weights_only=True``).

    Raises
    ------
    UserError
        When the file is missing, truncated, altered, or holds anything but tensors and plain data.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return torch.load(_verified(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes the readers raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    raise UserError(f"{path} is damaged or no file of tensors: {reason}") from None


def _verified(archive: bytes) -> io.BytesIO:
    """Return the archive written anew from its parts, whose checksums are compared on the way.

    torch.load does not compare the checksums of its format, and its reader takes some damaged directories otherwise
    than Python's: it gets only what was verified.
    """
    anew = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(anew, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    anew.seek(0)
    return anew
