"""The coordinator's memory on disk: an append-only file that outlives ``kill -9`` and power cuts.

What is kept is a map from keys to values; a record holds the entries that changed, and reading
all records in order gives the map back. What the entries mean is ``durable``'s business. Each
record is on the disk when ``append`` returns, so that whatever is sent after it is remembered.

A file is a line that names the format, then records::

    length (4) | CRC of payload (4) | CRC of the eight bytes before (4) | payload: msgpack

Only the last record can be incomplete, since the next one is not begun before the last is on
the disk: nothing that depends on it was ever sent, and opening the file cuts it off. Anything
else that does not fit its CRC is damage, and nobody but the operator can say what to do about it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import struct
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgpack  # type: ignore[import-untyped,unused-ignore]

from collectives.errors import CollectiveError

logger = logging.getLogger("collectives.coordinator")

Key = tuple[Any, ...]

_MAGIC = b"collectives journal 1\n"
_FAMILY = b"collectives journal "
_LENGTH = struct.Struct("<II")
_CHECK = struct.Struct("<I")
_HEADER = _LENGTH.size + _CHECK.size
_COMPACT = 4 * 1024 * 1024


class JournalError(CollectiveError):
    """The journal cannot be used, or can no longer be written; the message names the file."""


class Journal:
    """One journal, held by this process alone until ``close``.

    Args:
        path: the file; it is made if it is not there.
        compact: above so many bytes (and four times what its entries take) the file is written
            anew with the current entries only.

    Attributes:
        path: the file, symbolic links resolved.
        entries: what has been recorded, by key.

    Raises:
        JournalError: another coordinator holds it, it is damaged, or the disk refuses.
    """

    def __init__(self, path: str | os.PathLike[str], *, compact: int = _COMPACT) -> None:
        self.path = Path(path).resolve()
        self.entries: dict[Key, Any] = {}
        self._compact = compact
        self._file = -1
        self._size = 0
        self._lock = self._take_lock()
        try:
            self._open()
        except OSError as error:
            self.close()
            raise self._failed("read", error) from error
        except BaseException:
            self.close()
            raise
        _JOURNALS.add(self)

    def close(self) -> None:
        """Let go of the file; another coordinator may have it then."""
        if self._lock >= 0:
            # A child forked a moment ago may not have closed its copy yet.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        self.drop()

    def drop(self) -> None:
        """Close the descriptors and leave the lock to whoever else has it: for a forked child."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def append(self, changes: Mapping[Key, Any]) -> None:
        """Record entries and return when they are on the disk.

        Args:
            changes: new values by key; None: the key has no entry any more.

        Raises:
            JournalError: the disk refuses. What it has of the record is unknown, so nothing that
                depends on it may be sent, and the journal takes no more.
        """
        if self._file < 0:
            raise JournalError(f"the journal {self.path} is closed")
        if not changes:
            return
        record = _record(changes)
        try:
            _write_all(self._file, record)
            os.fdatasync(self._file)
        except OSError as error:
            self.close()
            raise self._failed("write", error) from error
        self._size += len(record)
        _merge(self.entries, changes)
        if self._size > self._compact:
            self._rewrite()

    # -- opening --

    def _take_lock(self) -> int:
        """Lock a file of its own: the journal's inode changes when it is written anew."""
        name = f"{self.path}.lock"
        try:
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failed("create the lock of", error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise self._failed("lock", error) from error
            raise JournalError(
                f"the journal {self.path} is in use by another coordinator, process"
                f" {holder or 'unknown'}; stop that one first, or give this one another journal"
            ) from None
        return lock

    def _open(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._temporary.unlink()  # of a compaction that was cut short
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            self._create()
            return
        with os.fdopen(os.dup(self._file), "rb") as file:
            data = file.read()
        if not data:
            self._create()
            return
        if not data.startswith(_MAGIC):
            raise self._foreign(data)
        end = self._replay(data)
        if end < len(data):
            logger.warning(
                "cut off the last %d bytes of the journal %s: a record that was being written"
                " when its coordinator ended",
                len(data) - end,
                self.path,
            )
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        self._size = end

    def _replay(self, data: bytes) -> int:
        """Take in all whole records; return where they end."""
        at = len(_MAGIC)
        while at < len(data):
            payload = _payload(data, at)
            if payload is None:
                if _any_record_after(data, at + 1):
                    raise JournalError(
                        f"the journal {self.path} is damaged at byte {at}, and what follows can"
                        " not be trusted without it; restore the file from a copy, or move it"
                        " away and start without it (a majority of the members then restores"
                        " the run)"
                    )
                break
            try:
                changes = msgpack.unpackb(payload, raw=False, use_list=False, strict_map_key=False)
                _merge(self.entries, dict(changes))
            except Exception as error:  # msgpack documents no complete list
                raise JournalError(
                    f"the journal {self.path} holds a record at byte {at} that this release"
                    f" cannot read ({type(error).__name__}); start the release that wrote it"
                ) from error
            at += _HEADER + len(payload)
        return at

    def _foreign(self, data: bytes) -> JournalError:
        if data.startswith(_FAMILY):
            return JournalError(
                f"the journal {self.path} has a format that this release does not know; start"
                " the release that wrote it"
            )
        return JournalError(
            f"{self.path} is no journal of a coordinator; give another path, it is not touched"
        )

    # -- writing it anew --

    @property
    def _temporary(self) -> Path:
        return Path(f"{self.path}.new")

    def _create(self) -> None:
        try:
            self._replace(self._write_new())
        except OSError as error:
            raise self._failed("create", error) from error

    def _rewrite(self) -> None:
        try:
            file = self._write_new()
        except OSError as error:
            # Nothing is lost: the old file has it all. It may grow as much again before we retry.
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            self._compact = 2 * self._size
            logger.warning("cannot compact the journal %s: %s", self.path, error.strerror)
            return
        try:
            self._replace(file)
        except OSError as error:
            # Which of the two files a restart will see is unknown: no promise can be kept.
            self.close()
            raise self._failed("replace", error) from error

    def _write_new(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        file = os.open(self._temporary, flags, 0o600)
        try:
            _write_all(file, _MAGIC + (_record(self.entries) if self.entries else b""))
            os.fsync(file)
        except BaseException:
            os.close(file)
            raise
        return file

    def _replace(self, file: int) -> None:
        old, self._file = self._file, file
        if old >= 0:
            os.close(old)
        self._temporary.rename(self.path)
        self._size = os.fstat(file).st_size
        self._compact = max(self._compact, 4 * self._size)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _failed(self, what: str, error: OSError) -> JournalError:
        return JournalError(
            f"cannot {what} the journal {self.path}: {error.strerror}; mend that and start the"
            " coordinator again with the same journal, the members wait for it"
        )


def _record(changes: Mapping[Key, Any]) -> bytes:
    payload = cast(bytes, msgpack.packb(list(changes.items()), use_bin_type=True))
    lengths = _LENGTH.pack(len(payload), zlib.crc32(payload))
    return lengths + _CHECK.pack(zlib.crc32(lengths)) + payload


def _payload(data: bytes, at: int) -> bytes | None:
    """The payload of the record at ``at``, None if it is not whole."""
    lengths = data[at : at + _LENGTH.size]
    check = data[at + _LENGTH.size : at + _HEADER]
    if len(check) < _CHECK.size or _CHECK.pack(zlib.crc32(lengths)) != check:
        return None
    length, crc = _LENGTH.unpack(lengths)
    payload = data[at + _HEADER : at + _HEADER + length]
    return payload if len(payload) == length and zlib.crc32(payload) == crc else None


def _any_record_after(data: bytes, start: int) -> bool:
    return any(_payload(data, at) is not None for at in range(start, len(data) - _HEADER + 1))


def _merge(entries: dict[Key, Any], changes: Mapping[Key, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            entries.pop(key, None)
        else:
            entries[key] = value


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


_JOURNALS: weakref.WeakSet[Journal] = weakref.WeakSet()


def _forked() -> None:
    # The lock belongs to the open file, which a forked child shares: a data loader's worker would
    # hold it beyond the coordinator's end.
    for journal in list(_JOURNALS):
        journal.drop()


os.register_at_fork(after_in_child=_forked)
