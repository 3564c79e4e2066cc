"""A GPU that fails during labeling: the run ends with the cause, and no image is blamed for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clipzoo.errors import DeviceError, EngineError, ExpertError
from clipzoo.experts.calls import device_lost
from clipzoo.labeling import Tuning, label
from clipzoo.labeling._loading import load_expert
from clipzoo.labeling.local import Work
from clipzoo.labeling.plan import Job
from clipzoo.labeling.ray import driver
from clipzoo.store import Store
from making import Bright, make_dataset

ASSERTION = "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA` to enable assertions."


class Losing(Bright):
    """From its fourth batch on every call fails, as after a failed assertion in a kernel."""

    def predict(self, images):
        if len(self.calls) >= 3:
            raise RuntimeError(ASSERTION)
        return super().predict(images)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA is in use, and reports the error at every call."""

    def synchronize(device: object = None) -> None:
        raise RuntimeError(ASSERTION)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)


def run(data: Path, out: Path, expert: Bright):
    return label(str(data), [expert], out, device="cpu", progress=False, check=False, max_failures=1.0)


@pytest.mark.usefixtures("failing")
def test_a_lost_gpu_ends_the_run_and_the_next_run_resumes(tmp_path, monkeypatch):
    data, out = make_dataset(tmp_path / "data", shards=3, count=8), tmp_path / "out"
    says = r"GPU of this process has failed \(CUDA error: device-side assert triggered\).*Rerun the command"
    with pytest.raises(DeviceError, match=says):
        run(data, out, Losing())
    (column,) = Store(out).columns()
    assert column.committed() == {"00000"}
    assert not list(column.failures())
    (report,) = run(data, out, Bright())
    assert (report.labels, report.failures) == (24, 0)


def test_an_expert_that_fails_on_a_sound_gpu_fails_by_image(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    data = make_dataset(tmp_path / "data", shards=2, count=8)
    (report,) = run(data, tmp_path / "out", Losing())
    assert (report.labels, report.failures) == (12, 4)


def test_a_process_without_cuda_does_not_start_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: pytest.fail("it would start CUDA"))
    assert device_lost("cuda") == ""


def test_the_gpu_of_the_expert_is_asked(monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    assert [device_lost(device) for device in ("cuda:1", "cpu")] == ["", ""]
    assert asked == ["cuda:1", None]
    work = Work(Bright(), None, None, 1)
    load_expert(work, "cuda:1", Tuning(), None)
    assert work.device == "cuda:1"


class Errors:
    """The exceptions of Ray that the driver distinguishes."""

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        def __init__(self, cause: Exception) -> None:
            self.cause = cause


class OneMachine(driver._Run):
    """A driver of one machine, on which a worker's call raises ``cause``."""

    def __init__(self, cause: Exception, shard: str) -> None:
        def get(reference: object) -> None:
            raise Errors.RayTaskError(cause)

        self.ray = SimpleNamespace(
            exceptions=Errors, get=get, kill=lambda actor: None, nodes=lambda: [{"NodeID": "a", "Alive": True}]
        )
        self.job = Job(shard, (0,))
        self.queue, self.losses, self.given_up, self.refused = driver.deque(), driver.defaultdict(list), {}, {}

    def fail(self) -> None:
        worker = driver._Worker(None, "a", "host", ready=True, job=self.job)
        self.workers, self.steps = [worker], {"call": (worker, self._judge)}
        self._take("call")


def test_a_worker_that_lost_its_gpu_is_replaced_and_its_shard_given_up_at_last(caplog):
    run = OneMachine(DeviceError("the GPU of this process has failed"), "00003")
    for _ in range(driver.LOSSES - 1):
        run.fail()
        assert (run.workers, run.given_up) == ([], {})
        assert run.queue.popleft() is run.job
    run.fail()
    assert (list(run.queue), run.given_up) == ([], {"00003": "the GPU of this process has failed"})
    assert "lost a worker on host, at the shard 00003: the GPU of this process has failed" in caplog.text


def test_other_errors_of_a_worker_end_the_run():
    with pytest.raises(ExpertError, match="wrong option"):
        OneMachine(ExpertError("wrong option"), "00003").fail()
    assert not issubclass(DeviceError, EngineError)
