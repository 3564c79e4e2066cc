"""Labeling runs that are killed at random moments.

    python tests/chaos.py FOLDER KILLS      prints what happened as JSON

A process that has imported everything and has one thread forks a run, sends it SIGKILL after a random while, and forks
the next one, which goes on where that one was. After each kill every shard that counts as committed must have the bytes
that an undisturbed run gives it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

from clipzoo.labeling import label
from clipzoo.readers.webdataset import write_shard
from making import Bright, Near, encoded, image

SHARDS, SAMPLES = 60, 8
POISON = [image(seed)[0, 0].tobytes() for seed in range(5, SHARDS * SAMPLES, 40)]


def make(folder: Path) -> None:
    """Shards of images of two sizes, of which some are broken."""
    for shard in range(SHARDS):
        samples = []
        for i in range(shard * SAMPLES, (shard + 1) * SAMPLES):
            data = encoded(image(i, (12, 16) if i % 3 else (16, 12)))
            samples.append((f"{i:06d}", {"png": data[: 60 if i % 29 == 7 else None], "txt": b"words"}))
        write_shard(folder / f"{shard:05d}.tar", samples)


def begin(data: Path, out: Path) -> int:
    """The number of a process that labels; it ends with 0 if nothing is left to do."""
    number = os.fork()
    if number:
        return number
    try:
        torch.set_num_threads(1)
        label(str(data), [Bright(poison=POISON), Near()], out, device="cpu", max_failures=0.5, progress=False)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def finish(number: int) -> bool:
    """Whether the process was killed; it must not have failed."""
    _, status = os.waitpid(number, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, "a run failed"
    return killed


def committed(out: Path) -> dict[str, bytes]:
    """Name -> bytes of the files of all shards that count as committed."""
    rows = list(out.rglob("*.parquet"))
    files = [*rows, *(path.with_suffix(".tar") for path in rows)]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def seconds(data: Path, out: Path) -> float:
    """Of a run that nothing disturbs."""
    began = time.perf_counter()
    assert not finish(begin(data, out))
    return time.perf_counter() - began


def torment(folder: Path, kills: int) -> Counter[str]:
    """Kill so many runs over ``folder/data`` into ``folder/out``, then let one end; what happened how often."""
    data, whole, out = folder / "data", folder / "whole", folder / "out"
    make(data)
    work, idle = seconds(data, whole), seconds(data, whole)
    wanted, rng, seen = committed(whole), random.Random(0), Counter[str]()
    while seen["kills"] < kills:
        before, number = len(committed(out)), begin(data, out)
        time.sleep(rng.uniform(0, idle + 3 * work / SHARDS))
        os.kill(number, signal.SIGKILL)
        if finish(number):
            found = committed(out)
            assert found.items() <= wanted.items(), "a shard counts as committed and is not what it should be"
            seen["kills"] += 1
            seen["kills after commits"] += len(found) > before
            seen["kills with a shard in work"] += any(path.name.count(".tar.") for path in out.rglob("*.tmp"))
        else:  # it was done before: once more from the beginning
            assert committed(out) == wanted
            seen["times done"] += 1
            shutil.rmtree(out)
    finish(begin(data, out))
    assert committed(out) == wanted
    return seen


if __name__ == "__main__":
    print(json.dumps(torment(Path(sys.argv[1]), int(sys.argv[2]))))
