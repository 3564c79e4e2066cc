"""The engine for a Ray cluster: workers label shards, and the driver orders their commits.

Only the driver holds the columns' locks, plans, counts failures and writes manifests and ``runs.jsonl``. A worker runs
the local engine on one shard at a time with the same threads, so its files have the same bytes. The shard of a lost
worker is labeled by another one. If the lost worker still commits, it writes the same bytes.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypedDict
from uuid import uuid4

from clipzoo import files
from clipzoo.errors import ClipzooError, DeviceError, EngineError, StoreError, counted
from clipzoo.labeling._budget import EARLIEST, Budget
from clipzoo.labeling._progress import Progress
from clipzoo.labeling._quick_check import warn
from clipzoo.labeling.local import Work
from clipzoo.labeling.plan import Job, uncommitted
from clipzoo.labeling.ray.cluster import answering, connected
from clipzoo.labeling.ray.worker import Done, Order, Worker
from clipzoo.stopping import Stop
from clipzoo.store.manifest import software, writing
from clipzoo.types import LIMIT

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

__all__ = ["Order", "label_shards"]

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two queries of the cluster's machines."""

LOSSES = 3
"""Number of lost workers after which a shard, or a machine on which workers start, is given up. Workers that died with
their machine do not count."""

FIRST = 8
"""Number of shards from which the quick check takes images."""

PATIENCE = 120.0
"""Seconds without a worker after which a warning is logged."""


def label_shards(
    order: Order,
    address: str | None,
    jobs: Sequence[Job],
    works: Sequence[Work],
    fresh: Sequence[int],
    stop: Stop,
    progress: Progress,
) -> None:
    """Run the jobs on a cluster.

    Args:
        order: the caller's instructions; those for workers are added here.
        address: of the cluster; by default that of ``RAY_ADDRESS``, a cluster that runs on this machine, or a new one
            on this machine.
        jobs, works, stop, progress: as of `clipzoo.labeling.local.label_shards`; the experts are not loaded here.
        fresh: indices of experts on which the first worker runs the quick check.

    Raises:
        EngineError: Ray, a cluster or a suitable machine is missing, or a shard kills its workers.
        Interrupted: after a signal; incomplete shards are discarded.
        DatasetError, ExpertError: too many samples failed, over all workers.
        StoreError: shards cannot be written.
    """
    if not jobs:
        return
    with connected(address) as ray, _prepared(order, jobs, works) as prepared, answering(ray):
        run = _Run(ray, prepared, jobs, works, [i for i in fresh if i in prepared.active], progress)
        try:
            run.go(stop)
        finally:
            run.dismiss()
            for i in prepared.active:
                works[i].column.sweep()
    lost = uncommitted(jobs, [work.column for work in works])
    if lost:
        raise StoreError(
            f"{len(lost)} of {len(jobs)} shards were committed by workers and are not visible here, for example "
            f"{lost[0]!r}. Rerun the command. If this happens again, the file system is not shared by all machines"
        )


@contextmanager
def _prepared(order: Order, jobs: Sequence[Job], works: Sequence[Work]) -> Iterator[Order]:
    """Yield the complete order; its witness file exists during the block."""
    columns = [p.resolve() if isinstance(p, Path) else p for p in (work.column.path for work in works)]
    active = sorted({i for job in jobs for i in job.columns})
    path = columns[active[0]] / f".{uuid4().hex}.tmp"  # `Column.lock` removes what a killed driver left
    with writing(path):
        files.write(path, b"")
    try:
        yield replace(
            order, columns=columns, active=active, dataset=works[0].column.manifest.dataset, folder=Path.cwd(),
            witness=path,
        )  # fmt: skip
    finally:
        path.unlink(missing_ok=True)


class _Node(TypedDict):
    """The fields of ``ray.nodes()`` that are read."""

    NodeID: str
    NodeManagerHostname: str
    Alive: bool
    Resources: Mapping[str, float]


@dataclass(eq=False)
class _Worker:
    """The driver's record of a worker."""

    actor: ActorHandle
    node: str
    host: str
    ready: bool = False
    job: Job | None = None


class _Run:
    """The driver's state of a run."""

    def __init__(
        self,
        ray: ModuleType,
        order: Order,
        jobs: Sequence[Job],
        works: Sequence[Work],
        fresh: Sequence[int],
        progress: Progress,
    ) -> None:
        self.ray, self.works, self.fresh, self.progress = ray, works, fresh, progress
        self.queue = deque(jobs)
        self.first = [job.shard for job in jobs[:FIRST]]
        self.uncounted = Counter(i for job in jobs for i in job.columns)
        self.counted: set[str] = set()
        self.workers: list[_Worker] = []
        self.checking: _Worker | None = None  # it runs the quick check, whose warnings the run waits for
        self.steps: dict[ObjectRef, tuple[_Worker, Callable[[_Worker, Any], None]]] = {}
        self.losses: defaultdict[str, list[str]] = defaultdict(list)  # shard, or node -> nodes of workers it lost
        self.given_up: dict[str, str] = {}  # shard -> how its last worker was lost
        self.refused: dict[str, str] = {}  # node -> why it cannot take part
        self._kind, self._versions = ray.remote(Worker), software()
        self._polled, self._worked = 0.0, time.monotonic()
        order = _placed(order, self._nodes())
        self.need = _need(order)
        self.order = _sent(ray, order)

    def go(self, stop: Stop) -> None:
        """Run until every shard is committed or given up."""
        self._start_workers()
        if not self.workers:
            raise EngineError(self._no_room())
        while self.queue or any(worker.job or worker is self.checking for worker in self.workers):
            stop.check()
            self._start_workers()
            for worker in self.workers:
                self._give(worker)
            if not self.steps:
                time.sleep(POLL)
                continue
            done, _ = self.ray.wait(list(self.steps), timeout=POLL)
            for reference in done:
                self._take(reference)
        if self.given_up:
            shard, why = next(iter(self.given_up.items()))
            raise EngineError(
                f"{counted(len(self.given_up), 'shard')} cannot be labeled: {LOSSES} workers died at each. The first "
                f"is {shard!r}: {why}\nIf memory ran out, use a smaller batch or fewer workers per machine "
                "(--threads). Otherwise find the sample with --engine local"
            )

    def dismiss(self) -> None:
        """Kill all workers, and wait until they have ended."""
        for worker in self.workers:
            self._kill(worker)
        if self.steps:
            self.ray.wait(list(self.steps), num_returns=len(self.steps), timeout=10)

    # Workers ------------------------------------------------------------------------------------------------------

    def _nodes(self) -> list[_Node]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _start_workers(self) -> None:
        """Start workers on free machines while shards are waiting; at most once in `POLL` seconds."""
        if time.monotonic() - self._polled < POLL:
            return
        self._polled = time.monotonic()
        nodes = {node["NodeID"]: node for node in self._nodes() if node["NodeID"] not in self.refused}
        at = Counter(worker.node for worker in self.workers)
        places = [(k, node) for node in nodes for k in range(at[node], self._room(nodes[node]))]
        idle = sum(worker.job is None for worker in self.workers)
        for _, node in sorted(places)[: max(0, len(self.queue) - idle)]:  # a second one where all have one
            self._start(nodes[node])
        ready = [worker for worker in self.workers if worker.ready]
        self.progress.note = (
            f"{counted(len(ready), 'worker')} on {counted(len({worker.node for worker in ready}), 'machine')}"
        )
        if ready:
            self._worked = time.monotonic()
        elif time.monotonic() - self._worked > PATIENCE:
            self._worked = float("inf")
            log.warning("no worker for %.0f s: waiting for %s, or for experts to load", PATIENCE, _resources(self.need))

    def _room(self, node: _Node) -> int:
        """Return how many workers fit on an otherwise free machine."""
        return min(int(node["Resources"].get(name, 0) // count) for name, count in self.need.items())

    def _no_room(self) -> str:
        if self.refused:
            return "; ".join(dict.fromkeys(self.refused.values()))
        most = [max((int(node["Resources"].get(name, 0)) for node in self._nodes()), default=0) for name in self.need]
        return (
            f"no machine of the cluster has {_resources(self.need)}. The largest has "
            f"{_resources(dict(zip(self.need, most, strict=True)))}. Use fewer --threads or another --device"
        )

    def _start(self, node: _Node) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        limit = {"env_vars": {LIMIT: os.environ[LIMIT]}} if LIMIT in os.environ else None
        actor = self._kind.options(
            num_cpus=self.need["CPU"], num_gpus=self.need.get("GPU", 0), scheduling_strategy=there, runtime_env=limit
        ).remote(self.order)
        worker = _Worker(actor, node["NodeID"], node["NodeManagerHostname"])
        self.workers.append(worker)
        self.steps[worker.actor.setup.remote()] = worker, self._begin

    def _begin(self, worker: _Worker, versions: Mapping[str, str]) -> None:
        if self.fresh:
            self.steps[worker.actor.quick_check.remote(self.fresh, self.first)] = worker, self._checked
            self.fresh, self.checking = (), worker
        else:
            worker.ready = True
        if versions != self._versions:
            other = {name: have for name, have in versions.items() if have != self._versions.get(name)}
            log.warning("%s has other software, %s: its labels may differ in their last bits", worker.host, other)

    def _checked(self, worker: _Worker, warnings: Sequence[str]) -> None:
        warn(warnings)
        worker.ready, self.checking = True, None

    def _lost(self, worker: _Worker, why: str) -> None:
        """Requeue the shard of a worker that has died or cannot be reached."""
        self._kill(worker)
        self.workers.remove(worker)
        what = worker.job.shard if worker.job else worker.node
        doing = f"at the shard {worker.job.shard}" if worker.job else "while it started"
        log.warning("lost a worker on %s, %s: %s", worker.host, doing, why.strip().splitlines()[-1])
        self.losses[what].append(worker.node)
        alive = {node["NodeID"] for node in self._nodes()}
        if sum(node in alive for node in self.losses[what]) < LOSSES:
            self.queue.extendleft([worker.job] if worker.job else [])
        elif worker.job:
            self.given_up[what] = why
        else:
            self._refuse(worker, f"{LOSSES} workers were lost while they started: {why}")

    def _kill(self, worker: _Worker) -> None:
        with suppress(Exception):  # Ray raises if it has ended already
            self.ray.kill(worker.actor)

    def _refuse(self, worker: _Worker, why: str) -> None:
        """Exclude a machine; the run ends if none remains."""
        self.refused[worker.node] = f"{worker.host} cannot be used: {why}"
        log.warning(self.refused[worker.node])
        for other in [one for one in self.workers if one.node == worker.node and not one.ready]:
            self._kill(other)
            self.workers.remove(other)
        if not self.workers and not [n for n in self._nodes() if n["NodeID"] not in self.refused and self._room(n)]:
            raise EngineError(self._no_room())

    # Shards -------------------------------------------------------------------------------------------------------

    def _take(self, reference: ObjectRef) -> None:
        """Process the result of a worker's call, or its loss."""
        errors = self.ray.exceptions
        worker, step = self.steps.pop(reference)
        if worker not in self.workers:
            return
        try:
            answer = self.ray.get(reference)
        except errors.RayTaskError as error:
            if not worker.ready:
                self._refuse(worker, str(error.cause))
            elif isinstance(error.cause, DeviceError):  # a new process may be able to use the GPU
                self._lost(worker, str(error.cause))
            elif isinstance(error.cause, ClipzooError):
                raise error.cause from None
            else:
                raise
        except errors.RayError as error:
            self._lost(worker, str(error))
        else:
            step(worker, answer)

    def _give(self, worker: _Worker) -> None:
        if worker.ready and worker.job is None and self.queue:
            worker.job = self.queue.popleft()
            budgets = [work.budget for work in self.works]
            self.steps[worker.actor.label.remote(worker.job, budgets)] = worker, self._judge

    def _judge(self, worker: _Worker, budgets: Mapping[int, Budget]) -> None:
        """Count a shard, only once if it was labeled twice, and order its commit if the budgets allow."""
        assert worker.job is not None
        if worker.job.shard not in self.counted:
            self.counted.add(worker.job.shard)
            self.uncounted.subtract(list(budgets))
            for i, counts in budgets.items():
                budget = self.works[i].budget
                budget.add(counts)
                if budget.samples >= EARLIEST or not self.uncounted[i]:
                    budget.judge()
        self.steps[worker.actor.commit.remote()] = worker, self._committed

    def _committed(self, worker: _Worker, done: Done) -> None:
        assert worker.job is not None
        for i, lines in done.lines.items():
            self.works[i].labeled += done.labeled[i]
            for line in lines:
                self.works[i].note(**line)
        self.progress.shard(worker.job.shard, done.meter)
        worker.job = None


def _placed(order: Order, nodes: Sequence[_Node]) -> Order:
    """Return the order with its device resolved: "auto" becomes cuda if the cluster has GPUs."""
    if order.device == "auto":
        return replace(order, device="cuda" if any(node["Resources"].get("GPU") for node in nodes) else "cpu")
    if order.device not in ("cpu", "cuda"):
        raise EngineError(f"device={order.device!r}: on a cluster, Ray assigns devices. Use cuda, cpu or auto")
    return order


def _need(order: Order) -> dict[str, int]:
    """Return the Ray resources of a worker: one GPU, or the CPUs of its threads."""
    return {"CPU": 1, "GPU": 1} if order.device == "cuda" else {"CPU": order.threads}


def _resources(resources: Mapping[str, int]) -> str:
    return " and ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in resources.items())


def _sent(ray: ModuleType, order: Order) -> ObjectRef:
    try:
        return ray.put(order)
    except TypeError as error:
        raise EngineError(f"an expert cannot be sent to other machines ({error}). Name it by its URI") from error
