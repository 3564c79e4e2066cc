"""Atomic writes, also in folders of unknown origin: nothing is written through a link.

A file is written next to its target, under a random name, and renamed. A link at the target is replaced, never
followed. Lines are appended only to a regular file.
"""

from __future__ import annotations

import errno
import filecmp
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from clipzoo.errors import ClipzooError
from clipzoo.files import _copies, _local
from clipzoo.files._remote import Remote
from clipzoo.files.places import Place, below, cached, leads_out, local_copy, read_at, size

PARTIAL = ".tmp"


@contextmanager
def named(target: Path, partial: Path | None = None) -> Iterator[None]:
    """Raise errors of the disk with the name of ``target`` instead of that of the partial file or folder.

    Where folders exist and nothing can be created in them, as in /proc, Linux says "No such file or directory".
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise PermissionError(errno.EACCES, "nothing can be created there", str(target)) from error
        if str(error.filename) in (str(partial), str(partial or target)) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise


class PartialFile:
    """A file that is being written, at ``path`` on this machine; it starts empty.

    `commit` publishes it at ``target`` as a whole; `discard` removes it.

    Args:
        target: final place; a link there is replaced.
        sync: flush the contents, then the name, to the disk in `commit`, so that they survive a power cut.
    """

    def __init__(self, target: Place, sync: bool = True) -> None:
        self.target, self.sync = target, sync
        if isinstance(target, Remote):
            self.path = _copies.scratch(target.name)
            return
        make_folder(target.parent)
        self.path = target.with_name(f"{target.name}.{uuid4().hex[:8]}{PARTIAL}")
        with named(target, self.path):
            os.close(_local.unlinked(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))

    def commit(self) -> None:
        """Publish the file at its target."""
        if isinstance(self.target, Remote):
            self.target.upload(self.path)
            self.discard()
            return
        if self.sync:
            _sync(self.path)
        with named(self.target, self.path):
            self.path.replace(self.target)
        if self.sync:
            _sync(self.target.parent)

    def discard(self) -> None:
        """Remove the file unless it was committed."""
        self.path.unlink(missing_ok=True)


def remove_partial(folder: Place, but: str) -> None:
    """Remove partial files of interrupted writers below ``folder``, except those of the file named ``but``."""
    for name in below(folder, PARTIAL):
        if not name.startswith(f"{but}."):
            (folder / name).unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents if they are missing, so that they survive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with named(folder):
        folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush everything below a folder, and its name, to the disk."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems sync no folders
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic(path: Path, sync: bool = True, exclusive: bool = False) -> Iterator[Path]:
    """Yield a path to write to; the file is published at ``path`` when the block ends. Missing folders are created.

    It has the permissions of any new file of this process (its umask), even if a library writes files that nobody else
    can read, as safetensors has done since 0.8.

    Args:
        path: final place; a link there is replaced, not followed.
        sync: as in `PartialFile`.
        exclusive: no other process writes this file now; partial files of interrupted writers are removed first.
    """
    if exclusive:
        for partial in glob.glob(f"{glob.escape(str(path))}.????????{PARTIAL}"):  # noqa: PTH207
            Path(partial).unlink(missing_ok=True)
    file = PartialFile(path, sync)
    try:
        permissions = file.path.stat().st_mode
        yield file.path
        if file.path.stat().st_mode != permissions:
            file.path.chmod(stat.S_IMODE(permissions))
        file.commit()
    finally:
        file.discard()


def write(path: Place, data: bytes, sync: bool = True, exclusive: bool = False) -> None:
    """Replace a small file as a whole; missing folders are created. Options as in `atomic`."""
    if isinstance(path, Remote):
        path.write(data)
        return
    with atomic(path, sync, exclusive) as partial:
        partial.write_bytes(data)


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user named: links are followed, and pipes and terminals are written to directly."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        write(path.resolve(), data)


def append(path: Place, line: bytes) -> None:
    """Append a line, or several, to a small file; a line that a crash left incomplete is ended first.

    Object stores cannot append: the file is written again.

    Raises:
        OSError: the file is a link, a pipe or a device.
    """
    if isinstance(path, Remote):
        path.write((path.read_bytes() if path.is_file() else b"") + line + b"\n")
        return
    make_folder(path.parent)
    with named(path):
        number = _local.unlinked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    with os.fdopen(number, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line + b"\n")


def link_or_copy(source: Place, target: Place) -> None:
    """Publish a file at another place, too: as a hard link if the disk allows it, else as a copy.

    If the source is a link, the file that it points to is used.
    """
    if isinstance(source, Remote) and isinstance(target, Remote) and source.protocol == target.protocol:
        target.copy(source)
        return
    with cached(source):
        path = local_copy(source)
        assert isinstance(path, Path)
        if isinstance(target, Remote):
            target.upload(path)
            return
        partial = PartialFile(target)
        try:
            _link_or_copy(path.resolve(), partial.path)
            target.unlink(missing_ok=True)  # of a killed run; renaming a hard link to itself would do nothing
            partial.commit()
        finally:
            partial.discard()


def _link_or_copy(path: Path, empty: Path) -> None:
    """Replace an empty file by a link to a file, or by a copy."""
    empty.unlink()
    try:
        os.link(path, empty)
    except OSError:  # another disk, or a disk without hard links
        os.close(_local.unlinked(empty, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        shutil.copyfile(path, empty)


def equal(one: Place, other: Place) -> bool:
    """Return True if both files exist and have equal contents."""
    if not (one.is_file() and other.is_file()) or size(one) != size(other):
        return False
    if isinstance(one, Path) and isinstance(other, Path):
        return filecmp.cmp(one, other, shallow=False)
    step = _copies.PART
    return all(read_at(one, at, step) == read_at(other, at, step) for at in range(0, size(one), step))


def remove_folder(folder: Place, root: Place, last: str) -> None:
    """Remove a folder below ``root``.

    On a disk it is renamed first, so that it disappears in one step; a kill during deletion leaves ``root/.removed-…``.
    In an object store, files are deleted one by one, marks of shards first and the file ``last`` last.
    """
    if isinstance(folder, Remote):
        names = sorted(folder.below(), key=lambda name: (name == last, not name.endswith(".parquet")))
        for name in names:
            if name != ".lock":  # the caller holds it
                (folder / name).unlink(missing_ok=True)
        return
    assert isinstance(root, Path)
    aside = Path(tempfile.mkdtemp(prefix=".removed-", dir=root))
    (aside / folder.parent.name).mkdir()  # one level deeper than columns, so that it is not listed as one
    folder.rename(aside / folder.parent.name / folder.name)
    shutil.rmtree(aside)
    with suppress(OSError):  # the task has another column
        folder.parent.rmdir()


def check_inside(root: Place, name: str, error: type[ClipzooError]) -> None:
    """Raise ``error`` unless everything written into ``root/name`` and its folders stays in ``root``.

    Refused are links to folders outside of ``root``, and pipes and devices, which would block whoever opens them.
    ``root`` itself may be a link, since the user named it.
    """
    if isinstance(root, Remote):
        return
    top = root / name
    if leads_out(root, name):
        raise error(_elsewhere(top, root))
    folders = [top]
    while folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_symlink() and path.is_dir():
                    if leads_out(root, path.relative_to(root).as_posix()):
                        raise error(_elsewhere(path, root))
                elif not entry.is_file() and path.exists():
                    raise error(f"{path} is a pipe or device, but only files are expected there: remove it")


def _elsewhere(path: Path, root: Path) -> str:
    below_root = [root / part for part in (path.relative_to(root), *path.relative_to(root).parents)]
    link = next((one for one in reversed(below_root) if one != root and one.is_symlink()), path)
    return (
        f"{link} is a link to {link.resolve()}, outside of {root}. Nothing is written through it, because in a folder "
        "from another person it could point to any file. If the link is yours, replace it by the folder that it points "
        "to, or name that folder directly: with --out, or as store: in a recipe"
    )
