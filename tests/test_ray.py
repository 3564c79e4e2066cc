"""Labeling on a Ray cluster: the bytes of the local engine, whatever happens to its machines and its driver."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import hostile
from clipzoo.errors import DatasetError, EngineError, ExpertError, StoreError
from clipzoo.labeling import Tuning, label
from clipzoo.labeling._budget import Budget
from clipzoo.labeling.plan import Job
from clipzoo.labeling.ray.cluster import answering
from clipzoo.labeling.ray.worker import Order, Worker
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.store import Store, verify
from making import Bright, Near, encoded, image, make_dataset, raw_tar
from real import FOLDERS, label_corpus, needs_weights
from test_labeling import contents

TESTS = Path(__file__).parent
SMALL = {"object_store_memory": 80_000_000, "include_dashboard": False}


class Slow(Bright):
    """Takes its time, so that something can happen meanwhile: until there is a file, if it is given one."""

    def __init__(self, over: Path | None = None) -> None:
        super().__init__()
        self.over = over

    def predict(self, images):
        for _ in range(40):
            time.sleep(0.1)
            if self.over is None or self.over.exists():
                break
        return super().predict(images)


class Forgetful(Bright):
    """Another label whenever it is asked."""

    def predict(self, images):
        return [replace(label, ids=label.ids ^ random.getrandbits(1)) for label in super().predict(images)]


class Mortal(Bright):
    """Its process dies over one image, as by a fault in native code."""

    def __init__(self, deadly: bytes) -> None:
        super().__init__()
        self.deadly = deadly

    def predict(self, images):
        if any(image[0, 0].tobytes() == self.deadly for image in images):
            os._exit(1)
        return super().predict(images)


class Picky(Bright):
    """Cannot be loaded on some machines; the others begin when one of these has tried."""

    def __init__(self, tried: Path) -> None:
        super().__init__()
        self.tried = tried

    def load(self, device: str = "cpu") -> None:
        if os.environ.get("WITHOUT_WEIGHTS"):
            self.tried.touch()
            raise OSError("no weights here")

    def predict(self, images):
        deadline = time.monotonic() + 60
        while not self.tried.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        return super().predict(images)


def run(data: Path | str, out: Path, *experts, **options):
    given = {"device": "cpu", "progress": False, "check": False, "tuning": Tuning(threads=1), **options}
    return label(str(data), list(experts) or [Bright()], out, **given)


def same(one: Path, other: Path) -> None:
    assert contents(one) == contents(other)
    assert contents(one)
    assert not list(one.rglob("*.tmp"))
    for ours, theirs in zip(Store(one).columns(), Store(other).columns(), strict=True):
        assert ours.manifest.model_copy(update={"seconds": 0.0}) == theirs.manifest.model_copy(update={"seconds": 0.0})


@pytest.fixture
def data(tmp_path) -> Path:
    """Twelve shards of eight images; some are broken, some of another size."""
    folder = tmp_path / "data"
    for shard in range(12):
        members = []
        for i in range(8 * shard, 8 * shard + 8):
            picture = encoded(image(i, (12, 16) if i % 3 else (16, 12)))
            members += [(f"{i:06d}.png", picture[: 60 if i % 29 == 7 else None]), (f"{i:06d}.txt", b"words")]
        raw_tar(folder / f"{shard:05d}.tar", members)
    return folder


# Without a cluster -----------------------------------------------------------------------------------------


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    data = make_dataset(tmp_path / "data")
    with pytest.raises(EngineError, match=r"pip install 'clipzoo\[ray\]'"):
        run(data, tmp_path / "out", engine="ray")
    with pytest.raises(EngineError, match="one of local, ray"):
        run(data, tmp_path / "out", engine="roy")
    run(data, tmp_path / "out")  # nothing is locked or half done


@pytest.mark.parametrize("address", [None, "ray://head:10001"])
def test_the_address_of_a_client_is_refused_wherever_it_is_given(tmp_path, monkeypatch, address):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was asked"))
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(EngineError, match="ray://head:10001 is the address of a Ray client"):
        run(make_dataset(tmp_path / "data"), tmp_path / "out", engine="ray", ray_address=address)


@pytest.mark.parametrize("address", [None, "local"])
@pytest.mark.parametrize("kind", ["bare", "raylet", "system", "time"])
def test_a_ray_that_dies_at_its_start_ends_in_a_sentence(tmp_path, monkeypatch, kind, address):
    ray = pytest.importorskip("ray")
    raised = {
        "bare": Exception("The current node timed out during startup. This could happen because\nsome of the raylet"),
        "raylet": ray.exceptions.LocalRayletDiedError(),
        "system": ray.exceptions.RaySystemError("the agent failed"),
        "time": ray.exceptions.GetTimeoutError("no answer"),
    }[kind]
    ended = []

    def init(**options):
        raise raised

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(1))
    monkeypatch.setenv("RAY_TMPDIR", "/scratch")
    data = make_dataset(tmp_path / "data")
    with pytest.raises(EngineError) as error:
        run(data, tmp_path / "out", engine="ray", ray_address=address)
    said = str(error.value)
    if kind == "time":  # also a TimeoutError: who is asked does not answer
        assert "no answer" in said
    else:
        assert said.startswith(f"Ray did not start on this machine: {type(raised).__name__}: ")
        assert "/scratch/ray/session_latest/logs (raylet.out" in said
    assert "\n" not in said
    assert ended
    run(data, tmp_path / "out")  # nothing is locked or half done


def test_a_cluster_that_ends_is_said_and_a_workers_mistake_is_not_hidden():
    ray = pytest.importorskip("ray")
    said = r"does not answer anymore: RaySystemError: System error: gone\. Its logs"
    with pytest.raises(EngineError, match=said), answering(ray):
        raise ray.exceptions.RaySystemError("gone")
    with pytest.raises(ray.exceptions.RayTaskError), answering(ray):
        raise ray.exceptions.RayTaskError("label", "traceback", ValueError("mistake"))


def ordered(data: Path, out: Path, witness: Path, **values) -> Order:
    """What a driver would tell a worker that is to fill ``out`` with one expert's labels."""
    identity = fingerprint(open_dataset(str(data)))
    column = Store(out).create(Bright().card, identity)
    told = {
        "columns": [column.path],
        "active": [0],
        "dataset": identity,
        "folder": Path.cwd(),
        "witness": witness,
        **values,
    }
    return Order(str(data), Bright(), "cpu", None, Tuning(), 1, **told)


def test_a_worker_commits_when_it_is_told_to(data, tmp_path):
    run(data, tmp_path / "local", max_failures=0.5, shards=["00000", "00001"])
    column = Store(tmp_path / "local").columns()[0]
    worker, out = Worker(ordered(data, tmp_path / "ray", tmp_path)), tmp_path / "ray"
    worker.setup()
    for shard, before in (("00000", 0), ("00001", 2)):
        known = Budget(column.name, 0.5, samples=90, failed=30)
        (counts,) = worker.label(Job(shard, (0,)), [known]).values()
        assert (counts.samples, counts.failed) == (8, column.rows(shard)["error"].drop_null().length())
        assert len(contents(out)) == before
        done = worker.commit()
        assert len(contents(out)) == before + 2
        assert done.labeled == {0: counts.samples - counts.failed}
        assert [(line["event"], line["shard"], line["rows"]) for line in done.lines[0]] == [("shard", shard, 8)]
    assert contents(out) == contents(tmp_path / "local")


def test_a_worker_stops_at_a_shard_that_uses_up_the_budget(data, tmp_path):
    worker = Worker(ordered(data, tmp_path / "ray", tmp_path))
    worker.setup()
    with pytest.raises(DatasetError, match="of test failed"):
        worker.label(Job("00000", (0,)), [Budget("test", 0.3, samples=99, failed=30, by_sample=30)])
    assert not [path for path in (tmp_path / "ray").rglob("*") if path.is_file() and path.name != "manifest.json"]


@pytest.mark.parametrize(
    ("what", "says"), [("store", "file system at one path"), ("data", "is another dataset on this machine")]
)
def test_a_machine_that_sees_something_else_is_told(tmp_path, what, says):
    data = make_dataset(tmp_path / "data")
    order = ordered(data, tmp_path / "out", tmp_path / "nothing" if what == "store" else tmp_path)
    if what == "data":
        make_dataset(data, shards=3)
    with pytest.raises((DatasetError, StoreError), match=says):
        Worker(order).setup()


def test_workers_make_their_own_experts_of_uris(tmp_path, monkeypatch):
    """Else one with stale weights would write its labels under the driver's checksum."""
    data, orders = make_dataset(tmp_path / "data"), []
    monkeypatch.setattr("clipzoo.labeling.ray.label_shards", lambda order, *rest: orders.append(order))
    (tmp_path / "own.py").write_text("from making import Bright\nclass Own(Bright):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    near = Near()
    run(data, tmp_path / "out", "python:own:Own", near, engine="ray")
    (order,) = orders
    assert order.experts == ["python:own:Own", near]
    columns = Store(tmp_path / "out")
    paths = [columns.column("segmentation", "python-own-Own").path, columns.column("depth", "test-near").path]
    identity = fingerprint(open_dataset(str(data)))
    order = replace(order, columns=paths, active=[0], dataset=identity, folder=tmp_path, witness=tmp_path)
    Worker(order).setup()
    (tmp_path / "own.py").write_text("from making import Bright\nclass Own(Bright):\n    stale = True\n")
    monkeypatch.delitem(sys.modules, "own")  # as in another process
    with pytest.raises(StoreError, match="was made with revision"):
        Worker(order).setup()


# Three machines --------------------------------------------------------------------------------------------

cluster_test = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::ResourceWarning")]


class Machines:
    """A cluster of three machines, each with room for one worker; the first one cannot be spared."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
        self.spare = [self.add(), self.add()]

    def add(self, **options):
        return self.cluster.add_node(num_cpus=1, wait=False, **SMALL, **options)

    def replace(self, which: int) -> None:
        """One dies with all that runs on it, and another one comes."""
        self.cluster.remove_node(self.spare.pop(which), allow_graceful=False)
        self.spare.append(self.add())

    def options(self) -> dict[str, str]:
        return {"engine": "ray", "ray_address": self.cluster.address}


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(TESTS), str(TESTS.parent / "src"), *FOLDERS, os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        made = Machines()
        yield made
        made.cluster.shutdown()


def until(true: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


@pytest.mark.usefixtures("machines")
class TestCluster:
    pytestmark = cluster_test

    def test_the_bytes_are_those_of_the_local_engine(self, machines, data, tmp_path):
        poison = [image(i)[0, 0].tobytes() for i in (4, 40)]
        experts = lambda: [Bright(poison=poison), Near()]  # noqa: E731
        local = run(data, tmp_path / "local", *experts(), max_failures=0.5)
        ray = run(data, tmp_path / "ray", *experts(), max_failures=0.5, log=tmp_path / "log", **machines.options())
        same(tmp_path / "ray", tmp_path / "local")
        told = [(r.labels, r.labeled, r.failures, r.reasons, r.bytes) for r in ray]
        assert told == [(r.labels, r.labeled, r.failures, r.reasons, r.bytes) for r in local]
        assert told[0][2] > told[1][2] > 0
        assert all(r.seconds > 0 for r in ray)
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        assert [line["event"] for line in lines] == ["shard"] * 12 + ["end"]
        assert lines[-1]["images"] == 96
        store = Store(tmp_path / "ray")
        assert verify(store, open_dataset(str(data))) == []
        events = [json.loads(line) for line in (store.columns()[0].path / "runs.jsonl").read_text().splitlines()]
        assert sorted(line["shard"] for line in events if line["event"] == "shard") == [f"{i:05d}" for i in range(12)]
        (again, _) = run(data, tmp_path / "ray", *experts(), max_failures=0.5, **machines.options())
        assert again.labeled == 0

    def test_the_first_worker_looks_at_new_experts(self, machines, data, tmp_path, caplog):
        for _ in range(2):
            run(data, tmp_path / "ray", Forgetful(), check=True, max_failures=0.5, **machines.options())
            assert caplog.text.count("determinism") == 1  # once: later the column is not new
            (tmp_path / "ray" / "segmentation" / Forgetful().card.slug / "00003.parquet").unlink()

    def test_machines_that_die_and_are_replaced_cost_time_alone(self, machines, data, tmp_path, caplog):
        over, kills, rng = tmp_path / "over", 0, random.Random(0)
        options = {"max_failures": 0.5, **machines.options()}
        with ThreadPoolExecutor(1) as pool:  # Ray starts machines in the main thread alone
            labeling = pool.submit(run, data, tmp_path / "ray", Slow(over), **options)
            while kills < 5 and not labeling.done():
                if len(workers("Worker.label")) > 1:  # of three: one that can be spared is at work
                    time.sleep(rng.uniform(0, 1))
                    machines.replace(rng.randrange(2))
                    kills += 1
                time.sleep(0.1)
            over.touch()
            labeling.result()
        run(data, tmp_path / "local", Slow(), max_failures=0.5)
        same(tmp_path / "ray", tmp_path / "local")
        assert verify(Store(tmp_path / "ray"), open_dataset(str(data))) == []
        assert kills >= 3
        assert caplog.text.count("lost a worker") >= 2

    def test_every_hostile_item_is_labeled_or_a_row(self, machines, tmp_path):
        where = hostile.as_shards(tmp_path / "data")
        for name, options in (("local", {}), ("ray", machines.options())):
            (report,) = run(where, tmp_path / name, max_failures=1, **options)
            assert report.labels + report.failures == len(hostile.items())
        same(tmp_path / "ray", tmp_path / "local")

    @needs_weights
    def test_experts_with_real_weights_give_the_bytes_of_the_local_engine(self, machines, tmp_path):
        where = hostile.as_shards(tmp_path / "data", 6)
        label_corpus(where, tmp_path / "local")
        label_corpus(where, tmp_path / "ray", "--engine", "ray", "--ray-address", machines.cluster.address)
        same(tmp_path / "ray", tmp_path / "local")

    def test_the_budget_is_counted_over_all_workers(self, machines, data, tmp_path):
        poison = [image(i, (12, 16) if i % 3 else (16, 12))[0, 0].tobytes() for i in range(0, 96, 8)]
        for _ in range(2):  # a shard is left undone, so that the next run stops, too
            with pytest.raises(ExpertError, match=r"of 96 samples of segmentation/test-bright failed"):
                run(data, tmp_path / "ray", Bright(poison=poison), max_failures=0.1, **machines.options())
        assert len(Store(tmp_path / "ray").columns()[0].committed()) == 11
        assert not list(tmp_path.rglob("*.tmp"))

    def test_a_driver_that_is_killed_leaves_nobody_at_work(self, machines, data, tmp_path):
        driver = self.driver(machines, data, tmp_path / "ray")
        until(lambda: len(contents(tmp_path / "ray")) > 2)
        driver.kill()
        driver.communicate()
        until(lambda: not workers())
        left = contents(tmp_path / "ray")
        assert 2 < len(left) < 24
        run(data, tmp_path / "local", Slow(), max_failures=0.5)
        assert left.items() <= contents(tmp_path / "local").items()
        run(data, tmp_path / "ray", Slow(), max_failures=0.5)  # the engines go on with each other's work
        same(tmp_path / "ray", tmp_path / "local")

    def test_a_signal_ends_cleanly(self, machines, data, tmp_path):
        driver = self.driver(machines, data, tmp_path / "ray")
        until(lambda: len(contents(tmp_path / "ray")) > 2)
        driver.send_signal(signal.SIGINT)
        _, errors = driver.communicate(timeout=120)
        assert "stopped by SIGINT" in errors
        assert "Rerun the command to resume" in errors
        assert not list(tmp_path.rglob("*.tmp"))
        (column,) = Store(tmp_path / "ray").columns()
        assert 0 < column.manifest.counts.shards == len(column.committed()) < 12

    @staticmethod
    def driver(machines: Machines, data: Path, out: Path) -> subprocess.Popen[str]:
        code = (
            "import sys; from test_ray import Slow, run; "
            "run(*sys.argv[1:3], Slow(), max_failures=0.5, engine='ray', ray_address=sys.argv[3])"
        )
        command = [sys.executable, "-c", code, str(data), str(out), machines.cluster.address]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def test_a_shard_that_kills_its_workers_is_set_aside(self, machines, data, tmp_path):
        deadly = image(40)[0, 0].tobytes()
        with pytest.raises(EngineError, match=r"1 shard cannot be labeled: 3 workers died at each[^']*'00005'"):
            run(data, tmp_path / "ray", Mortal(deadly), max_failures=0.5, **machines.options())
        assert len(Store(tmp_path / "ray").columns()[0].committed()) == 11

    def test_a_machine_that_cannot_take_part_is_passed_over(self, machines, data, tmp_path, caplog):
        broken = machines.add(env_vars={"WITHOUT_WEIGHTS": "1"})
        machines.cluster.wait_for_nodes()
        (report,) = run(data, tmp_path / "ray", Picky(tmp_path / "tried"), max_failures=0.5, **machines.options())
        machines.cluster.remove_node(broken, allow_graceful=False)
        assert report.shards == 12
        assert "cannot be used: test:bright cannot be loaded on cpu: OSError: no weights here" in caplog.text

    def test_what_the_cluster_cannot_do_is_said(self, machines, data, tmp_path):
        with pytest.raises(EngineError, match=r"no machine of the cluster has 64 CPUs\. The largest has 1 CPU"):
            run(data, tmp_path / "ray", tuning=Tuning(threads=64), **machines.options())
        with pytest.raises(EngineError, match="no machine of the cluster has 1 CPU and 1 GPU"):
            run(data, tmp_path / "ray", **machines.options() | {"device": "cuda"})
        with pytest.raises(EngineError, match="on a cluster, Ray assigns devices"):
            run(data, tmp_path / "ray", **machines.options() | {"device": "cuda:1"})
        with pytest.raises(EngineError, match="on a machine of the cluster"):
            run(data, tmp_path / "ray", **machines.options() | {"ray_address": "ray://head:10001"})
        with pytest.raises(EngineError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
            run(data, tmp_path / "ray", **machines.options() | {"ray_address": "127.0.0.1:9"})


def workers(doing: str = "Worker") -> list[str]:
    """Names of the processes that label."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.append(path.read_bytes().decode(errors="replace"))
    return [name for name in found if name.startswith(f"ray::{doing}")]
