"""The files for torchrun and Slurm, run with gloo on this machine; small scripts stand in for Slurm's commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipzoo.training import reached, read_log
from forking import free_port
from test_pipeline import world  # noqa: F401
from test_ranks_cli import environment, recipe  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.ranks]

ROOT = Path(__file__).parent.parent
SRUN = """#!/bin/bash
# Starts the command once per machine, and forwards SIGTERM, as srun does.
pids=
trap 'kill -TERM $pids' TERM
for ((node = 0; node < SLURM_NNODES; node++)); do
    SLURM_NODEID=$node "$@" &
    pids="$pids $!"
done
worst=0
for pid in $pids; do
    while true; do
        code=0
        wait "$pid" || code=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    [ "$code" = 0 ] || worst=$code
done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
# Names this machine for all machines of the job, and records what is queued again.
case $1 in
show) for ((node = 0; node < SLURM_NNODES; node++)); do echo localhost; done ;;
requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""
SHORT = ("--set", "training.learning_rates=[0.001]", "--set", "arms=[clip-ft]", "--set", "seeds=[0]")
CPU = ("--device", "cpu", "--trust")


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch job of two machines, with stand-ins for Slurm's commands."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return environment() | {
        "PATH": os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "SLURM_JOB_ID": "42", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "machine[0-1]",
        "CLIPZOO_PORT": str(free_port()), "REQUEUED": str(tmp_path / "requeued"),
    }  # fmt: skip


def until_steps(out: Path, process: subprocess.Popen[str], more_than: int) -> int:
    """Wait until a training has logged a step; return the number of its lines."""
    folder, deadline = out / "arms" / "clip-ft" / "0", time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "log.jsonl").exists() and len(read_log(folder)) > more_than:
            return len(read_log(folder))
        time.sleep(0.2)
    raise AssertionError(process.communicate()[1])


def test_a_job_of_several_machines_is_queued_again_at_its_time_limit(
    recipe: Path,  # noqa: F811
    tmp_path: Path,
    slurm: dict[str, str],
) -> None:
    """Two machines of one process each. SIGUSR1 reaches the batch shell alone, as with --signal=B:USR1@120."""
    out, script = tmp_path / "run", ROOT / "examples" / "slurm" / "several_nodes.sbatch"
    long = ("--set", "training.steps=100000", "--set", "training.log_every=1", "--set", "training.sharding=fsdp2")
    command = ["bash", str(script), str(recipe), "--out", str(out), *SHORT, *long, *CPU]
    slurm |= {"CLIPZOO_GPUS": "1"}
    steps = 0
    for job in (1, 2):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=slurm, cwd=ROOT
        ) as process:
            logged = until_steps(out, process, steps)
            process.send_signal(signal.SIGUSR1)
            _, shown = process.communicate(timeout=120)
        assert process.returncode not in (0, 128 + signal.SIGUSR1), shown
        assert "stopped by SIGTERM after step" in shown
        assert (tmp_path / "requeued").read_text() == "42\n" * job
        assert reached(out / "arms" / "clip-ft" / "0") >= logged > steps
        steps = reached(out / "arms" / "clip-ft" / "0")


def test_a_job_of_one_machine_ends_with_its_results(
    recipe: Path,  # noqa: F811
    tmp_path: Path,
    slurm: dict[str, str],
) -> None:
    out, script = tmp_path / "run", ROOT / "examples" / "slurm" / "one_node.sbatch"
    command = ["bash", str(script), str(recipe), "--out", str(out), *SHORT, *CPU]
    slurm |= {"SLURM_NNODES": "1", "CLIPZOO_GPUS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=slurm, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (out / "results.json").exists()
    assert not (tmp_path / "requeued").exists()


def test_torchrun_joins_two_machines(recipe: Path, tmp_path: Path, slurm: dict[str, str]) -> None:  # noqa: F811
    script = ROOT / "examples" / "torchrun" / "node.sh"
    rest = ["2", "localhost", "1", "train", str(recipe), "--arm", "clip-ft", "--out", str(tmp_path / "run")]
    nodes = [
        subprocess.Popen(
            ["bash", str(script), rank, *rest, *SHORT, *CPU], stderr=subprocess.PIPE, text=True, env=slurm, cwd=ROOT
        )
        for rank in ("0", "1")
    ]
    for node in nodes:
        _, shown = node.communicate(timeout=300)
        assert node.returncode == 0, shown
    assert (tmp_path / "run" / "arms" / "clip-ft" / "0" / "student" / "done").exists()


def test_torchrun_starts_the_processes_of_one_machine(
    recipe: Path,  # noqa: F811
    tmp_path: Path,
    slurm: dict[str, str],
) -> None:
    script = ROOT / "examples" / "torchrun" / "one_node.sh"
    options = ["--arm", "clip-ft", "--out", str(tmp_path / "run"), *SHORT, *CPU]
    command = ["bash", str(script), "2", "train", str(recipe), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=slurm, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "arms" / "clip-ft" / "0" / "student" / "done").exists()
