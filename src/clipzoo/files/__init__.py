"""Files on disks and behind networks, read by offset and written whole; `places` is where the two are told apart."""

from clipzoo.files.lock import alone
from clipzoo.files.places import (
    AnyPath,
    Draft,
    Place,
    ahead,
    append,
    arrow,
    below,
    bring,
    discard,
    drop_drafts,
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
    read_at,
    read_spans,
    regular,
    remote,
    same,
    size,
    state,
    threads,
    whole,
    write,
)

__all__ = [
    "AnyPath", "Draft", "Place", "ahead", "alone", "append", "arrow", "below", "bring", "discard", "drop_drafts",
    "found", "join", "keep", "leads_out", "local", "near", "nested", "opened", "place", "raw", "read_at", "read_spans",
    "regular", "remote", "same", "size", "state", "threads", "whole", "write",
]  # fmt: skip
