"""Shards that several processes index: the plan of one process, whatever becomes of the others."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipzoo import errors
from clipzoo.data import Plan, spreading
from clipzoo.errors import DatasetError
from clipzoo.readers import open_dataset
from clipzoo.readers.webdataset import write_shard

SHARDS = 6


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of tars; other processes start at once."""
    monkeypatch.setattr(spreading, "PATIENCE", 0)
    for number in range(SHARDS):
        members = ((f"{number}-{i}", {"jpg": b"x" * i, "txt": b"a photo"}) for i in range(1, 4 + number))
        write_shard(tmp_path / "data" / f"{number}.tar", members)
    return tmp_path / "data"


class Seen:
    """Progress that is recorded."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def stage(self, text: str) -> None: ...

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        assert what == "indexing"
        self.steps.append((done, total))


def process_of(shard: str) -> int:
    return os.getpid()


def killed(shard: str) -> int:
    """End the process, unless it is the one of the test."""
    if os.environ.get("OMP_NUM_THREADS") == "1" and shard == "3" and "PYTEST_CURRENT_TEST" not in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(shard)


def test_several_processes_make_the_plan_of_one(data: Path, tmp_path: Path) -> None:
    seen = Seen()
    one = Plan.build(open_dataset(str(data)), {}, path=tmp_path / "one.arrow", processes=1)
    Plan.build(open_dataset(str(data)), {}, path=tmp_path / "two.arrow", processes=2, progress=seen)
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "two.arrow").read_bytes()
    assert seen.steps == [(number + 1, SHARDS) for number in range(SHARDS)]
    assert len(one) == sum(3 + number for number in range(SHARDS))
    used = set(spreading.over_shards(process_of, open_dataset(str(data)), [str(i) for i in range(SHARDS)], 2))
    assert os.getpid() not in used
    assert 1 <= len(used) <= 2


def test_a_limit_of_samples_ends_the_processes(data: Path) -> None:
    seen = Seen()
    plan = Plan.build(open_dataset(str(data)), {}, max_samples=4, processes=2, progress=seen)
    assert len(plan) == 4
    assert seen.steps[-1] == (SHARDS, SHARDS)


def test_changed_shards_are_found_by_several_processes(data: Path) -> None:
    plan = Plan.build(open_dataset(str(data)), {}, processes=1)
    for number in (1, 2, 5):
        write_shard(data / f"{number}.tar", [("new", {"jpg": b"xx", "txt": b"a photo"})])
    assert plan.changed_shards(open_dataset(str(data)))[0] == ["1", "2", "5"]


def test_errors_of_other_processes_are_those_of_one(data: Path) -> None:
    (data / "4.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(DatasetError, match="compressed"):
        Plan.build(open_dataset(str(data)), {}, processes=2)


def test_work_goes_on_after_a_process_is_killed(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    test = os.environ.pop("PYTEST_CURRENT_TEST")
    try:
        made = spreading.over_shards(killed, open_dataset(str(data)), [str(i) for i in range(SHARDS)], 2)
        first = next(made)
    finally:
        os.environ["PYTEST_CURRENT_TEST"] = test
    assert [first, *made] == list(range(SHARDS))
    assert "was killed" in caplog.text


def test_errors_keep_their_text_between_processes() -> None:
    made = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.ClipzooError)]
    assert len(made) > 10
    for kind in made:
        assert str(pickle.loads(pickle.dumps(kind("what was seen")))) == "what was seen"


SCRIPT = """
import sys
from clipzoo.data import Plan, spreading
from clipzoo.readers import open_dataset

print("once", flush=True)
spreading.PATIENCE = 0
print(len(Plan.build(open_dataset(sys.argv[1]), {}, processes=2)))
"""


def test_a_script_without_a_guard_is_run_once(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script, data], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["once", str(sum(3 + number for number in range(SHARDS)))], done.stderr
    assert done.stderr == ""


ENDLESS = """
import signal, sys, time
from clipzoo.data import spreading
from clipzoo.readers import open_dataset

def work(shard):
    print(shard, flush=True)
    time.sleep(3)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
spreading.PATIENCE = 0
list(spreading.over_shards(work, open_dataset(sys.argv[1]), [str(i) for i in range(6)] * 20, 2))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_no_process_outlives_the_first(data: Path, tmp_path: Path, name: str) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    run = subprocess.Popen(
        [sys.executable, script, data], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert run.stdout is not None
    run.stdout.readline()  # a process is at work
    if name == "SIGINT":
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    else:
        run.send_signal(signal.Signals[name])
    run.communicate(timeout=60)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGKILL)
    raise AssertionError("processes were left")
