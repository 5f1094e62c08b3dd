"""Writing and reading files so that a crash, a full disk or a hostile file loses nothing and surprises nobody.

A path that the user gave is followed wherever it leads. In a directory whose content may come from elsewhere, such as
that of a run, names go through a `Folder`: it follows no symbolic link. What is read is as large as it says, is
compared with its form (`isnas.runtime.forms`), and nothing in it is executed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import pickle
import re
import secrets
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import FileError, UserError, short
from .forms import ANYTHING, Form, check

if TYPE_CHECKING:
    import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MOST_BYTES = 16 * 2**30
"""Bytes of any file that is read as a whole."""

MOST_JSON = MOST_ARRAYS = 64 * 2**20
"""Bytes of a JSON file, which takes ten times as much memory once it is read, and of a file of arrays."""

MOST_LINE = 16 * 2**20
"""Bytes of a line of a JSON Lines file."""

MOST_MEMBERS = 200_000
"""Members of an archive of tensors or arrays."""

MOST_VALUES = 5_000_000
"""Values in a file of tensors and plain data, those of tensors not counted."""

DEEPEST = 100
"""Levels that data beside tensors may be nested."""

TEMPORARY = r"\..*\.tmp"
"""Names of files that are being written, or were when their process was killed."""

# Links are refused by a look first, for a clear message; O_NOFOLLOW is for what happens between. O_NONBLOCK: opening a
# pipe would wait for its other end. Windows has none of them.
_SAFELY = sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_BY_DIRECTORY = os.open in os.supports_dir_fd  # not on Windows


def as_path(path: str | Path) -> Path:
    """Return a path that a user gave.

    Raises
    ------
    UserError
        When it is neither a text nor a path object.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"a path must be a text or a path object, got {short(path)}")
    return Path(path)


class Folder:
    """A directory whose files are named relative to it, such as "codes/000001.npz". No symbolic link in it is followed.

    The directory itself may be reached through links: the user gave it.

    Parameters
    ----------
    path : path

    Raises
    ------
    FileError
        From all methods, when something cannot be done, is a link, or is no regular file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path)

    def make(self, *folders: str) -> None:
        """Make the directory, and folders in it, where they are not there."""
        with _reported(self.path, "written"):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise NotADirectoryError(errno.ENOTDIR, "it is no directory") from None
        for folder in folders:
            with _reported(self.path / folder, "written"), self._at(folder) as (last, at):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(last, dir_fd=at)
                if not stat.S_ISDIR(self._mode(last, at)):
                    raise NotADirectoryError(errno.ENOTDIR, "it is no directory")

    def names(self, folder: str = "", pattern: str = ".*") -> list[str]:
        """Return the names that match a pattern, in the directory or in a folder in it; none where there is no folder.

        They are sorted, and relative to the directory.
        """
        prefix = f"{folder}/" if folder else ""
        with _reported(self.path / folder, "read"):
            try:
                with self._at(f"{prefix}.") as (last, at):
                    found = os.listdir(last if at is None else at)
            except FileNotFoundError:
                return []
        return [f"{prefix}{name}" for name in sorted(found) if re.fullmatch(pattern, name)]

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None where there is none."""
        with _reported(self.path / name, "read"):
            try:
                with self._at(name) as (last, at):
                    _check_regular(self._mode(last, at))
                    return os.stat(last, dir_fd=at, follow_symlinks=False).st_size
            except FileNotFoundError:
                return None

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return the content of a file, of at most so many bytes."""
        path = self.path / name
        with _reported(path, "read"), open(self._open(name, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise FileError(f"{path} is too large: {size:,} bytes, expected at most {most:,}")
            return file.read()

    def lines(self, name: str) -> Iterator[tuple[int, bytes]]:
        """Yield the lines of a file with their numbers from 1, without their ends; none where there is no file.

        A last line that has no end is still being written, and left out.
        """
        path = self.path / name
        with _reported(path, "read"):
            try:
                descriptor = self._open(name, os.O_RDONLY)
            except FileNotFoundError:
                return
            with open(descriptor, "rb") as file:
                number = 0
                while line := file.readline(MOST_LINE + 1):
                    number += 1
                    if len(line) > MOST_LINE:
                        raise FileError(
                            f"{path}, line {number} is too long: more than {MOST_LINE:,} bytes"
                        )
                    if not line.endswith(b"\n"):
                        return
                    yield number, line[:-1]

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file whole or not at all: a temporary file beside it, fsync, rename."""
        path = self.path / name
        with _reported(path, "written"), self._at(name) as (last, at):
            with contextlib.suppress(FileNotFoundError):
                _check_regular(self._mode(last, at))
            beside = os.path.join(os.path.dirname(last), f".{secrets.token_hex(8)}.tmp")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY
            descriptor = os.open(beside, flags, 0o666, dir_fd=at)
            try:
                with open(descriptor, "wb") as file:
                    file.write(_encoded(content))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(beside, last, src_dir_fd=at, dst_dir_fd=at)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(beside, dir_fd=at)
                raise
            if at is not None:
                os.fsync(at)

    def append(self, name: str, content: bytes | str, *, sync: bool = False) -> None:
        """Write at the end of a file; with `sync` it is on the disk when this returns."""
        with (
            _reported(self.path / name, "written"),
            open(self._open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file,
        ):
            file.write(_encoded(content))
            if sync:
                file.flush()
                os.fsync(file.fileno())

    def sync(self, name: str) -> None:
        """Wait until a file is on the disk."""
        with (
            _reported(self.path / name, "written"),
            open(self._open(name, os.O_RDONLY), "rb") as file,
        ):
            os.fsync(file.fileno())

    def truncate(self, name: str, size: int) -> None:
        """Cut a file to so many bytes; it is made where it is not there."""
        with (
            _reported(self.path / name, "written"),
            open(self._open(name, os.O_WRONLY | os.O_CREAT), "ab") as file,
        ):
            file.truncate(size)

    def remove(self, name: str) -> None:
        """Remove a file, or a link."""
        with _reported(self.path / name, "written"), self._at(name) as (last, at):
            os.unlink(last, dir_fd=at)

    def tidy(self, *folders: str) -> None:
        """Remove the temporary files that processes which were killed have left. Only who has the lock may do so."""
        for folder in ("", *folders):
            for name in self.names(folder, TEMPORARY):
                self.remove(name)

    def lock(self, name: str) -> IO[bytes] | None:
        """Take the lock of this name, until what is returned is closed or the process ends; None when another has it.

        Where the system has no such locks (Windows), it is always given.
        """
        with _reported(self.path / name, "written"), contextlib.ExitStack() as stack:
            descriptor = self._open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            file = stack.enter_context(open(descriptor, "ab"))
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            stack.pop_all()
            return file

    def is_locked(self, name: str) -> bool:
        """Return whether a process has the lock of this name."""
        if fcntl is None or self.size(name) is None:
            return False
        with _reported(self.path / name, "read"), open(self._open(name, os.O_RDONLY), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def write_json(self, name: str, data: Any) -> None:
        """Write plain data as JSON, see `write`."""
        self.write(name, _json(data))

    def read_json(self, name: str, form: Form) -> Any:
        """Read a JSON file whose data are of a form."""
        path = self.path / name
        return check(_from_json(self.read(name, MOST_JSON), path), form, str(path))

    def json_lines(self, name: str, form: Form) -> Iterator[tuple[int, Any]]:
        """Yield what the lines of a file are as JSON, with their numbers; see `lines`."""
        for number, line in self.lines(name):
            where = f"{self.path / name}, line {number}"
            yield number, check(_from_json(line, where), form, where)

    def write_tensors(self, name: str, data: Any) -> None:
        """Write tensors and plain data with `torch.save`, see `write`."""
        self.write(name, _tensors(data))

    def read_tensors(self, name: str) -> Any:
        """Read tensors and plain data onto the CPU, see `read_tensors`."""
        return _from_tensors(self.read(name), self.path / name)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays with `numpy.savez`, see `write`."""
        import numpy as np

        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        self.write(name, buffer.getvalue())

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read arrays of numbers that `numpy.savez` wrote.

        Nothing is unpickled, and no array is made that is larger than the file.
        """
        return _from_arrays(self.read(name, MOST_ARRAYS), self.path / name)

    @contextlib.contextmanager
    def _at(self, name: str) -> Iterator[tuple[str, int | None]]:
        """Yield the last part of a name, and a descriptor of the directory that it is in, for functions of `os`.

        Where these take none (Windows): the whole path, and None.
        """
        *folders, last = name.split("/")
        if not _BY_DIRECTORY:
            path = str(self.path)
            for folder in folders:
                path = os.path.join(path, folder)
                self._mode(path, None)
            yield os.path.join(path, last), None
            return
        at = os.open(self.path, os.O_RDONLY | _DIRECTORY)
        try:
            for folder in folders:
                self._mode(folder, at)
                inner = os.open(folder, os.O_RDONLY | _DIRECTORY | _SAFELY, dir_fd=at)
                os.close(at)
                at = inner
            yield last, at
        finally:
            os.close(at)

    def _mode(self, last: str, at: int | None) -> int:
        """Return what kind of file this is; a link is refused."""
        mode = os.stat(last, dir_fd=at, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "there is a symbolic link, which is not followed here")
        return mode

    def _open(self, name: str, flags: int) -> int:
        """Return the descriptor of a file; with `os.O_CREAT` it is made where it is not there."""
        with self._at(name) as (last, at):
            with contextlib.suppress(FileNotFoundError):
                _check_regular(self._mode(last, at))
            descriptor = os.open(last, flags | _SAFELY, 0o666, dir_fd=at)
        try:
            _check_regular(os.fstat(descriptor).st_mode)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file")


@contextlib.contextmanager
def _reported(path: str | Path, what: str) -> Iterator[None]:
    """Turn the errors of the system into one that names the file."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be {what}: {error.strerror or error}") from None
    except MemoryError:
        raise FileError(f"{path} cannot be {what}: there is not enough memory") from None
    except ValueError:  # a zero byte, or letters that no file's name can have
        raise FileError(f"{path} cannot be {what}: there can be no file of such a name") from None


def _encoded(content: bytes | str) -> bytes:
    """Return a text as UTF-8; the parts of paths that are no text (PEP 383) are written as escapes."""
    return content.encode(errors="backslashreplace") if isinstance(content, str) else content


# Files that the user has named: links are followed


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file whole or not at all: temporary file beside it, fsync, rename.

    Where the path is a symbolic link, the file that it points to is written. What is no regular file, such as a device
    or a pipe, is written straight into.

    Raises
    ------
    FileError
        When it cannot be written; a file that was there before is left as it was.
    """
    with _reported(path, "written"):
        mode = _mode_of(path)
        if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            with open(path, "wb") as file:
                file.write(_encoded(content))
            return
    folder, name = _followed(path)
    folder.write(name, content)


def check_input(path: str | Path) -> None:
    """Check that there is a file at a path.

    Raises
    ------
    FileError
        When there is none, or something else.
    """
    with _reported(path, "read"):
        _check_regular(os.stat(path).st_mode)


def check_output(path: str | Path) -> None:
    """Check that a file can be written at a path, before the work that makes its content.

    Raises
    ------
    FileError
        When it is a directory, its directory is not there, or either may not be written.
    """
    with _reported(path, "written"):
        mode = _mode_of(path)
        place = path
        if mode is None or stat.S_ISREG(mode):
            place = os.path.dirname(os.path.realpath(path))
            os.stat(place)
        elif stat.S_ISDIR(mode):
            _check_regular(mode)
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _mode_of(path: str | Path) -> int | None:
    """Return what kind of file a path leads to; None where there is none."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _followed(path: str | Path) -> tuple[Folder, str]:
    """Return a path as a folder and a name in it; a link, as what it points to."""
    with _reported(path, "found"):
        path = Path(os.path.realpath(path) if os.path.islink(path) else path)
    return Folder(path.parent), path.name or "."


def write_json(path: str | Path, data: Any) -> None:
    """Write plain data as JSON, see `write_atomically`."""
    write_atomically(path, _json(data))


def read_json(path: str | Path, form: Form = ANYTHING) -> Any:
    """Read a JSON file, by default of whatever is not too deep and has no number that is too large.

    Raises
    ------
    FileError
        When it is not there, cannot be read, is no JSON, or holds data that are not of the form.
    """
    folder, name = _followed(path)
    return folder.read_json(name, form)


def write_tensors(path: str | Path, data: Any) -> None:
    """Write tensors and plain data with `torch.save`, see `write_atomically`."""
    write_atomically(path, _tensors(data))


def read_tensors(path: str | Path) -> Any:
    """Read what `write_tensors` wrote, onto the CPU. Nothing in the file is executed (``weights_only=True``).

    Raises
    ------
    FileError
        When the file is missing, truncated, altered, compressed, or holds anything but tensors and plain data.
    """
    folder, name = _followed(path)
    return folder.read_tensors(name)


# What is in files


class _Refused(Exception):
    """The content of a file is not what it should be."""


def _json(data: Any) -> str:
    return json.dumps(data, indent=1) + "\n"


def _from_json(content: bytes, where: str | Path) -> Any:
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise FileError(f"{where} is no valid JSON: {reason}")


def _tensors(data: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def _from_tensors(content: bytes, where: str | Path) -> Any:
    import torch

    try:
        data = torch.load(_verified(content), map_location="cpu", weights_only=True)
        _check_values(data)
        return data
    except (_Refused, zipfile.BadZipFile) as error:
        reason = str(error)
    except pickle.UnpicklingError:  # whose message is advice on how to load it unsafely
        reason = "it holds more than tensors and plain data"
    except Exception:  # whatever else a damaged or hostile file makes the readers raise
        reason = "its parts do not fit together"
    raise FileError(f"{where} is damaged or no file of tensors: {reason}")


def _from_arrays(content: bytes, where: str | Path) -> dict[str, np.ndarray]:
    try:
        return {name.removesuffix(".npy"): _array(part) for name, part in _members(content)}
    except (_Refused, zipfile.BadZipFile) as error:
        reason = str(error)
    except Exception:  # as above
        reason = "its parts do not fit together"
    raise FileError(f"{where} is damaged or no file of arrays: {reason}")


def _members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the members of an archive, whose checksums are compared on the way.

    Nothing is unpacked: together they are no larger than the archive. PyTorch and NumPy write them so.
    """
    if archive.count(b"PK\1\2") > MOST_MEMBERS:  # before a reader makes an object of each
        raise _Refused(f"it has more than {MOST_MEMBERS:,} parts")
    with zipfile.ZipFile(io.BytesIO(archive)) as parts:
        members = parts.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise _Refused("it is compressed, which files of isnas are not")
        if sum(member.file_size for member in members) > len(archive):
            raise _Refused("its parts are said to be larger than it is")
        if len({member.filename for member in members}) < len(members):
            raise _Refused("it has two parts of one name")
        for member in members:
            yield member.filename, parts.read(member)


def _verified(archive: bytes) -> io.BytesIO:
    """Return an archive written anew from its members.

    torch.load does not compare the checksums of its format, and its reader takes some damaged directories otherwise
    than Python's: it gets only what was verified.
    """
    anew = io.BytesIO()
    with zipfile.ZipFile(anew, "w") as new:
        for name, part in _members(archive):
            new.writestr(name, part)
    anew.seek(0)
    return anew


def _check_values(data: Any) -> None:
    """Refuse what a `write_tensors` of plain data and tensors does not write, or what would grow when it is used."""
    import torch

    left = MOST_VALUES
    found = [(data, 0)]
    while found:
        value, depth = found.pop()
        left -= 1
        if left < 0:  # also lists that hold one list many times, and this another
            raise _Refused(f"it has more than {MOST_VALUES:,} values")
        if depth > DEEPEST:
            raise _Refused(f"it is nested more than {DEEPEST} deep")
        if isinstance(value, dict):
            if any(type(key) not in (str, int) for key in value):
                raise _Refused("it has a name that is neither a text nor a number")
            found += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, (list, tuple)):
            found += [(inner, depth + 1) for inner in value]
        elif isinstance(value, torch.Tensor):
            plain = value.device.type == "cpu" and value.layout == torch.strided
            if not plain or value.nbytes > value.untyped_storage().nbytes():
                raise _Refused("it has a tensor that is larger than what is stored of it")
        elif value is not None and type(value) not in (bool, int, float, str):
            raise _Refused("it holds more than tensors and plain data")


def _array(content: bytes) -> np.ndarray:
    """Return the array of a .npy file: numbers or truth values, as many as are in the file."""
    import numpy as np

    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise _Refused("it is of a version that isnas does not write")
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(stream)
    start = stream.tell()
    if kind.kind not in "biuf":
        raise _Refused("it holds something other than numbers")
    if any(n < 0 for n in shape) or math.prod(shape) * kind.itemsize != len(content) - start:
        raise _Refused("an array of it is not as large as it says")
    flat = np.frombuffer(content, kind, offset=start, count=math.prod(shape))
    return flat.reshape(shape, order="F" if by_columns else "C").copy()
