"""Files on disks and behind networks, read by offset and written whole; `places` is where the two are told apart."""

from clipzoo.files._writing import (
    Draft,
    append,
    bring,
    check_inside,
    deliver,
    discard,
    drop_drafts,
    make_folder,
    same,
    settle,
    whole,
    write,
)
from clipzoo.files.lock import alone, idle
from clipzoo.files.places import (
    AnyPath,
    Place,
    ahead,
    arrow,
    below,
    found,
    join,
    keep,
    leads_out,
    local,
    near,
    nested,
    opened,
    place,
    raw,
    read,
    read_at,
    read_spans,
    regular,
    remote,
    size,
    state,
    threads,
)

__all__ = [
    "AnyPath", "Draft", "Place", "ahead", "alone", "append", "arrow", "below", "bring", "check_inside", "deliver",
    "discard", "drop_drafts", "found", "idle", "join", "keep", "leads_out", "local", "make_folder", "near", "nested",
    "opened", "place", "raw", "read", "read_at", "read_spans", "regular", "remote", "same", "settle", "size", "state",
    "threads", "whole", "write",
]  # fmt: skip
