"""Local and remote files: reading by offset, atomic writes, locks. `places` handles the differences."""

from clipzoo.files._writing import (
    PartialFile,
    append,
    atomic,
    check_inside,
    equal,
    link_or_copy,
    make_folder,
    named,
    remove_folder,
    remove_partial,
    sync_folder,
    write,
    write_output,
)
from clipzoo.files.lock import locked, unlocked
from clipzoo.files.places import (
    AnyPath,
    Place,
    below,
    cached,
    for_arrow,
    in_order,
    join,
    keep_cached,
    leads_out,
    local,
    map_ahead,
    matching,
    missing,
    nested,
    open_file,
    open_for_arrow,
    open_raw,
    open_regular,
    place,
    read,
    read_at,
    read_spans,
    remote,
    size,
    state,
    threads,
)

__all__ = [
    "AnyPath", "PartialFile", "Place", "append", "atomic", "below", "cached", "check_inside", "equal", "for_arrow",
    "in_order", "join", "keep_cached", "leads_out", "link_or_copy", "local", "locked", "make_folder", "map_ahead",
    "matching", "missing", "named", "nested", "open_file", "open_for_arrow", "open_raw", "open_regular", "place",
    "read", "read_at", "read_spans", "remote", "remove_folder", "remove_partial", "size", "state", "sync_folder",
    "threads", "unlocked", "write", "write_output",
]  # fmt: skip
