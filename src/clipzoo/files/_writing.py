"""Files written whole, in folders that may have come from somebody else: nothing is written through a link.

A file is written beside its place, under a name that nobody can foresee, and renamed. A link at its place is replaced;
it is never followed. Lines are added to a file only if it is a file itself.
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
from clipzoo.files import _local, _near
from clipzoo.files._remote import Remote
from clipzoo.files.places import Place, below, leads_out, near, nearest, read_at, size

DRAFT = ".tmp"


class Draft:
    """A file while it is written; ``path``, on this machine, is where to. It is there, empty, and new.

    `settle` makes it appear at ``target``, whole or not at all; `drop` leaves nothing behind.

    Args:
        target: its place; a link there is replaced.
        sync: contents, then name, reach the disk in `settle`, so that they outlast a power cut.
    """

    def __init__(self, target: Place, sync: bool = True) -> None:
        self.target, self.sync = target, sync
        if isinstance(target, Remote):
            self.path = _near.scratch(target.name)
            return
        make_folder(target.parent)
        self.path = target.with_name(f"{target.name}.{uuid4().hex[:8]}{DRAFT}")
        os.close(_local.own(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))

    def settle(self) -> None:
        """The file is at its place; for good if it is synced, or the store has it all."""
        if isinstance(self.target, Remote):
            self.target.upload(self.path)
            self.drop()
            return
        if self.sync:
            _sync(self.path)
        self.path.replace(self.target)
        if self.sync:
            _sync(self.target.parent)

    def drop(self) -> None:
        """Remove what is left of it."""
        self.path.unlink(missing_ok=True)


def drop_drafts(folder: Place, but: str) -> None:
    """Remove the drafts that dead writers left below ``folder``, except of the file of one name."""
    for name in below(folder, DRAFT):
        if not name.startswith(f"{but}."):
            (folder / name).unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, so that they outlast a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def settle(folder: Path) -> None:
    """Return when all that lies below a folder, and its name, have reached the disk."""
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
def whole(path: Path, sync: bool = True, alone: bool = False) -> Iterator[Path]:
    """Where to write a file that appears at ``path`` when the block ends: whole or not at all; folders are made.

    It has the rights of any new file of this process (its umask), though a library may write files that nobody else
    can read, as safetensors does since 0.8.

    Args:
        path: a link there is replaced, not followed.
        sync: as of `Draft`.
        alone: nobody else writes this file now, so that what dead writers left of it is removed first.
    """
    if alone:
        for left in glob.glob(f"{glob.escape(str(path))}.????????{DRAFT}"):  # noqa: PTH207
            Path(left).unlink(missing_ok=True)
    draft = Draft(path, sync)
    try:
        rights = draft.path.stat().st_mode
        yield draft.path
        if draft.path.stat().st_mode != rights:
            draft.path.chmod(stat.S_IMODE(rights))
        draft.settle()
    finally:
        draft.drop()


def write(path: Place, data: bytes, sync: bool = True, alone: bool = False) -> None:
    """Replace a small file, as `whole` does; folders are made."""
    if isinstance(path, Remote):
        path.write(data)
        return
    with whole(path, sync, alone) as beside:
        beside.write_bytes(data)


def deliver(path: Path, data: bytes) -> None:
    """Write a file that the user has named: through the user's own links, and into a pipe or terminal as it is."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        write(path.resolve(), data)


def append(path: Place, line: bytes) -> None:
    """Add a line, or several, to a small file; one torn by a crash is closed first.

    A store has no way to add: it gets all anew.

    Raises:
        OSError: the file is a link, a pipe or a device.
    """
    if isinstance(path, Remote):
        path.write((path.read_bytes() if path.is_file() else b"") + line + b"\n")
        return
    with os.fdopen(_local.own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line + b"\n")


def bring(source: Place, target: Place) -> None:
    """The file at another place, too, whole or not at all: a hard link where the disk allows it, else a copy.

    Of a source that is a link, the file is brought that it leads to.
    """
    if isinstance(source, Remote) and isinstance(target, Remote) and source.protocol == target.protocol:
        target.copy(source)
        return
    with near(source):
        path = nearest(source)
        assert isinstance(path, Path)
        if isinstance(target, Remote):
            target.upload(path)
            return
        draft = Draft(target)
        try:
            _link_or_copy(path.resolve(), draft.path)
            target.unlink(missing_ok=True)  # of a run that was killed; a link renamed to itself would stay
            draft.settle()
        finally:
            draft.drop()


def _link_or_copy(path: Path, empty: Path) -> None:
    """Put a file into the place of an empty one."""
    empty.unlink()
    try:
        os.link(path, empty)
    except OSError:  # another disk, or one without links
        os.close(_local.own(empty, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        shutil.copyfile(path, empty)


def same(one: Place, other: Place) -> bool:
    """Whether both files are there, and equal."""
    if not (one.is_file() and other.is_file()) or size(one) != size(other):
        return False
    if isinstance(one, Path) and isinstance(other, Path):
        return filecmp.cmp(one, other, shallow=False)
    step = _near.PART
    return all(read_at(one, at, step) == read_at(other, at, step) for at in range(0, size(one), step))


def discard(folder: Place, root: Place, last: str) -> None:
    """Remove a folder below ``root`` for good.

    On a disk it is gone at once: killed while it deletes, this leaves ``root/.removed-…``. In a store it goes file by
    file, shards' marks first and the file ``last`` last: stopped in between, less of it is left.
    """
    if isinstance(folder, Remote):
        names = sorted(folder.below(), key=lambda name: (name == last, not name.endswith(".parquet")))
        for name in names:
            if name != ".lock":  # its holder's
                (folder / name).unlink(missing_ok=True)
        return
    assert isinstance(root, Path)
    aside = Path(tempfile.mkdtemp(prefix=".removed-", dir=root))
    (aside / folder.parent.name).mkdir()  # deeper than columns lie, so that it is none
    folder.rename(aside / folder.parent.name / folder.name)
    shutil.rmtree(aside)
    with suppress(OSError):  # another column of the task is there
        folder.parent.rmdir()


def check_inside(root: Place, name: str, error: type[ClipzooError]) -> None:
    """Raise ``error`` unless whatever is written into ``root/name`` and its folders stays in ``root``.

    A folder that is a link to one elsewhere is refused, and so is what is no file: a pipe would block whoever opens it.
    ``root`` itself may be a link: it is the user who names it.
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
                    raise error(f"{path} is a pipe or device where files are expected: remove it")


def _elsewhere(path: Path, root: Path) -> str:
    below_root = [root / part for part in (path.relative_to(root), *path.relative_to(root).parents)]
    link = next((one for one in reversed(below_root) if one != root and one.is_symlink()), path)
    return (
        f"{link} is a link to {link.resolve()}, outside of {root}. Nothing is written through it: in a folder that "
        "somebody else made, it could lead to any file. If it is yours, move the folder that it leads to into its "
        "place, or name that folder itself: by `--out`, and the store of a recipe by `store:`"
    )
