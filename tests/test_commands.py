"""What the command line says when it is asked for what is not there, or may not write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipzoo.cli import app, main


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ["new", "--yes", "--device", "cpu", "--out", "file/r.yaml"],
            "file: File exists; the path is a file: choose another",
        ),
        (
            ["new", "--yes", "--device", "cpu", "--out", "file/a/r.yaml"],
            "file: File exists; the path is a file: choose another",
        ),
        (["report", "nothere"], "nothere does not exist; did you mean runs/nowhere?"),
        (["export", "nothere"], "nothere does not exist"),
        (["export", "runs"], "runs is not a run folder: it has no recipe.yaml"),
        (["experts", "ls", "--task", "dept"], "did you mean depth?"),
        (["experts", "ls", "--zoo", "hff"], "did you mean hf"),
        (["experts", "ls", "--zoo", "hf", "no such words"], "no family matches all filters"),
        (["experts", "check", "hf:nothere"], "'nothere' is neither a folder nor a hub id (<owner>/<model>)"),
        (["tasks", "dept"], "did you mean depth?"),
    ],
)
def test_what_cannot_be_done_is_a_line_and_exit_code_2(
    command: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "runs" / "nowhere").mkdir(parents=True)
    (tmp_path / "runs" / "nowhere" / "recipe.yaml").touch()
    monkeypatch.setattr("sys.argv", ["clipzoo", *command])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert says in told


@pytest.mark.parametrize(
    ("given", "used"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_idle_threads_leave_their_core_unless_the_user_decides(
    given: dict[str, str], used: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen: list[str | None] = []
    monkeypatch.setattr("clipzoo.cli.app", lambda: seen.append(os.environ.get("GOMP_SPINCOUNT")))
    main()
    assert seen == [used]


DISKS = (
    "EACCES", "ENOSPC", "ELOOP", "EINVAL", "EIO", "EREMOTEIO", "ESTALE", "ENOTCONN", "EMFILE", "ENFILE",
)  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [*((getattr(errno, name), 2) for name in DISKS), (errno.EPIPE, 1)])
def test_what_a_disk_refuses_is_no_fault_of_the_program(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        raise OSError(number, "not for you", "/some/place")

    monkeypatch.setattr("clipzoo.cli.app", refused)
    if code == 1:
        with pytest.raises(OSError, match="not for you"):
            main()
        return
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    assert "error: /some/place: not for you; " in capsys.readouterr().err


def test_an_invalid_argument_without_a_file_is_a_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def failed() -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("clipzoo.cli.app", failed)
    with pytest.raises(OSError, match="Invalid argument"):
        main()


def test_families_are_counted_and_filtered() -> None:
    def told(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"}, catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    every, zoos = told("experts", "ls"), told("experts")
    assert len(zoos.splitlines()) < 60 < len(every.splitlines())
    assert "Depth Anything" not in zoos
    few = told("experts", "ls", "--zoo", "torchhub", "--task", "normals", "dsine")
    assert "DSINE" in few
    assert "Omnidata" not in few
    assert "Omnidata" in told("experts", "ls", "--zoo", "torchhub")


def test_a_task_is_told_in_full() -> None:
    text = CliRunner().invoke(app, ["tasks", "depth"], env={"COLUMNS": "200"}, catch_exceptions=False).output
    for said in (
        "along defines the direction of depth", "delta1, higher is better", "rmse in m, lower is better",
        "conv {width: 128, upscale: 4} (default)", "losses, metric", "silog {lam: 0.85, eps: 0.001, trim: 0} (default)",
        "losses, affine-depth and affine-disparity",
    ):  # fmt: skip
        assert said in text, said
    assert "fcos" not in text, "its head gives boxes"
    assert "fcos {width: 128, depth: 2, upscale: 2} (default)" in CliRunner().invoke(app, ["tasks", "detection"]).output
