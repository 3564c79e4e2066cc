"""Checkpoints: those kept, their settings and versions, and the signals after which one is written."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipzoo.errors import CheckpointError
from clipzoo.stopping import Interrupted, signals
from clipzoo.training import checkpoint, train
from test_training import job, same_student


def interrupted(dataset: Path, labels: Path, model: str, out: Path, after: int = 7, **settings: object) -> None:
    """Train, and fail when step ``after`` is logged."""

    def stop(step: int, values: object) -> None:
        if step == after:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(replace(job(dataset, labels, model, out, **settings), on_step=stop))


def test_checkpoints_are_kept_every_few_steps(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path / "whole", checkpoint_every=4, keep_every=3))
    kept = sorted(path.name for path in (tmp_path / "whole").glob("*.pt"))
    assert kept == ["checkpoint-000003.pt", "checkpoint-000006.pt", "checkpoint-000009.pt"]
    (tmp_path / "again").mkdir()
    shutil.copy(tmp_path / "whole" / kept[1], tmp_path / "again" / checkpoint.NAME)
    seen = []
    made = job(dataset, labels, tiny_clip, tmp_path / "again")
    train(replace(made, on_step=lambda step, values: seen.append(step)))
    assert seen[0] == 6
    assert same_student(tmp_path / "again", tmp_path / "whole")


def test_a_kept_checkpoint_is_copied_where_files_have_one_name(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError("no hard links")

    monkeypatch.setattr(os, "link", refuse)
    interrupted(dataset, labels, tiny_clip, tmp_path, keep_every=6)
    last, kept = (checkpoint.load(tmp_path / name) for name in (checkpoint.NAME, "checkpoint-000006.pt"))
    assert last["step"] == kept["step"] == 6
    assert all(torch.equal(last["student"][name], kept["student"][name]) for name in last["student"])


def test_a_checkpoint_records_settings_and_versions(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    interrupted(dataset, labels, tiny_clip, tmp_path)
    state = checkpoint.load(tmp_path / checkpoint.NAME)
    assert torch.__version__.startswith(state["versions"]["torch"])
    assert state["settings"]["batch_size"] == 16
    assert state["digest"] == checkpoint.digest(state["settings"])


def test_other_settings_do_not_resume_a_checkpoint(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    interrupted(dataset, labels, tiny_clip, tmp_path)
    other = job(dataset, labels, tiny_clip, tmp_path, weight_decay=0.3)
    with pytest.raises(CheckpointError, match=r"other settings. It has\n  training.weight_decay: 0.1, not 0.3\n"):
        train(other)
    free = job(dataset, labels, tiny_clip, tmp_path, checkpoint_every=5, log_every=3, max_nonfinite=1, keep_every=9)
    train(free)


def test_a_checkpoint_of_an_earlier_release_is_resumed(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path / "whole"))
    interrupted(dataset, labels, tiny_clip, tmp_path / "resumed")
    path = tmp_path / "resumed" / checkpoint.NAME
    state = checkpoint.load(path)
    checkpoint.save(path, {name: state[name] for name in ("step", "student", "optimizer", "rng", "cuda_rng")})
    train(job(dataset, labels, tiny_clip, tmp_path / "resumed"))
    assert same_student(tmp_path / "resumed", tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 1])
def test_the_warning_of_slurm_saves_first(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, workers: int
) -> None:
    def warn(step: int, values: object) -> None:
        if step == 3:  # every process of the job is told
            for pid in [*(process.pid or 0 for process in multiprocessing.active_children()), os.getpid()]:
                os.kill(pid, signal.SIGUSR1)

    made = job(dataset, labels, tiny_clip, tmp_path, checkpoint_every=100, workers=workers)
    with pytest.raises(Interrupted, match="stopped by SIGUSR1 after step 4") as stopped:
        train(replace(made, on_step=warn))
    assert stopped.value.exit_code == 138
    assert checkpoint.step(tmp_path / checkpoint.NAME) == 4


@pytest.mark.slow
def test_a_process_that_alone_is_told_ends_with_its_workers(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    """`kill PID` reaches the main process only, and the error lives until the interpreter ends."""
    program = (
        "import os, signal, sys; from dataclasses import replace; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_training import job, train\n"
        "made = job(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], Path(sys.argv[5]), workers=1)\n"
        "def stop(step, values):\n"
        "    if step == 2: os.kill(os.getpid(), signal.SIGTERM)\n"
        "try: train(replace(made, on_step=stop))\n"
        "except KeyboardInterrupt as error: kept = error; print(error)\n"
    )
    arguments = [str(Path(__file__).parent), str(dataset), str(labels), tiny_clip, str(tmp_path)]
    command = [sys.executable, "-c", program, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert ended.stdout.startswith("stopped by SIGTERM after step 3"), ended.stderr
    assert ended.returncode == 0


def test_a_script_that_leaves_a_loader_in_the_middle_ends(dataset: Path) -> None:
    """Workers ignore the one SIGTERM that multiprocessing sends when the interpreter ends."""
    program = (
        "import sys, torch\n"
        "from clipzoo.data import Plan, TrainingSet, Viewing, loader\n"
        "from clipzoo.readers import open_dataset\n"
        "data = TrainingSet(Plan.build(reader := open_dataset(sys.argv[1]), {}), reader, {}, Viewing((16, 16)))\n"
        "batches = iter(loader(data, 2, lambda texts: torch.zeros(len(texts), 4), steps=50, workers=1))\n"
        "print(len(next(batches).keys))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(dataset)], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.returncode) == ("2\n", 0), ended.stderr


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_the_command_line_exits_with_the_code_of_the_signal(sent: signal.Signals, code: int) -> None:
    program = (
        "import os, sys; from clipzoo import cli; from clipzoo.stopping import signals; import typer\n"
        "@cli.app.command()\n"
        "def wait():\n"
        "    with signals() as stop:\n"
        f"        os.kill(os.getpid(), {int(sent)}); stop.check()\n"
        "sys.argv = ['clipzoo', 'wait']; cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.strip()) == (code, sent.name)


def test_handlers_of_signals_are_restored() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with signals():
        pass
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
