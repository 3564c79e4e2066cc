"""The engine for a Ray cluster: workers label shards, the driver says when they are committed.

The driver alone holds the columns' locks, plans, counts the budgets and writes manifests and ``runs.jsonl``. A worker
runs the local engine on one shard at a time, with the same threads, so that its files have the same bytes. Another one
does the shard of a worker that is lost; should that one come to and commit after all, it writes the same bytes.
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
from typing import Any
from uuid import uuid4

from clipzoo import files
from clipzoo.errors import ClipzooError, EngineError, StoreError
from clipzoo.labeling._budget import EARLIEST
from clipzoo.labeling._cluster import answering, connected
from clipzoo.labeling._progress import Progress
from clipzoo.labeling._quick_check import warn
from clipzoo.labeling._worker import Done, Order, Worker
from clipzoo.labeling.local import Work
from clipzoo.labeling.plan import Job, uncommitted
from clipzoo.stopping import Stop
from clipzoo.store.manifest import software, writing
from clipzoo.types import LIMIT

__all__ = ["Order", "label_shards"]

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks at which machines there are."""

LOSSES = 3
"""A shard that has lost so many workers is given up, as is a machine that has while they started; those that died with
their machine do not count."""

FIRST = 8
"""Shards whose pictures a short look may see."""

PATIENCE = 120.0
"""Seconds without a worker after which the run says that it waits."""


def label_shards(
    order: Order,
    address: str | None,
    jobs: Sequence[Job],
    works: Sequence[Work],
    fresh: Sequence[int],
    stop: Stop,
    progress: Progress,
) -> None:
    """Do the jobs on a cluster.

    Args:
        order: what the caller wants; what workers have to know beside it is added here.
        address: of the cluster; by default that of ``RAY_ADDRESS``, or one that was started on this machine, or a new
            one of this machine alone.
        jobs, works, stop, progress: as of `clipzoo.labeling.local.label_shards`; the experts are not loaded here.
        fresh: places of experts at which the first worker has a short look.

    Raises:
        EngineError: there is no Ray, no cluster, no machine that can do it; or a shard kills its workers.
        Interrupted: a signal came; what was in work is dropped.
        DatasetError, ExpertError: too many samples failed, over all workers.
        StoreError: shards cannot be written.
    """
    if not jobs:
        return
    with connected(address) as ray, _told(order, jobs, works) as told, answering(ray):
        run = _Run(ray, told, jobs, works, [i for i in fresh if i in told.active], progress)
        try:
            run.go(stop)
        finally:
            run.dismiss()
            for i in told.active:
                works[i].column.sweep()
    lost = uncommitted(jobs, [work.column for work in works])
    if lost:
        raise StoreError(
            f"{len(lost)} of {len(jobs)} shards were committed where they were labeled and are not to be seen here, "
            f"as {lost[0]!r}: run the same again; if it comes again, the file system is not shared as it should be"
        )


@contextmanager
def _told(order: Order, jobs: Sequence[Job], works: Sequence[Work]) -> Iterator[Order]:
    """The whole order, and the witness that it speaks of while the block lasts."""
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


@dataclass(eq=False)
class _Hand:
    """A worker as the driver sees it."""

    actor: Any
    node: str
    host: str
    ready: bool = False
    job: Job | None = None


class _Run:
    """The driver's view of a run."""

    def __init__(
        self,
        ray: Any,
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
        self.hands: list[_Hand] = []
        self.steps: dict[Any, tuple[_Hand, Callable[[_Hand, Any], None]]] = {}
        self.losses: defaultdict[str, list[str]] = defaultdict(list)  # shard, or node -> nodes of workers it lost
        self.given_up: dict[str, str] = {}  # shard -> how its last worker was lost
        self.refused: dict[str, str] = {}  # node -> why it cannot take part
        self._kind, self._versions = ray.remote(Worker), software()
        self._seen, self._worked = 0.0, time.monotonic()
        order = _placed(order, self._nodes())
        self.need = _need(order)
        self.order = _sent(ray, order)

    def go(self, stop: Stop) -> None:
        """Until every shard is committed or given up."""
        self._hire()
        if not self.hands:
            raise EngineError(self._no_room())
        while self.queue or any(hand.job for hand in self.hands):
            stop.check()
            self._hire()
            for hand in self.hands:
                self._give(hand)
            if not self.steps:
                time.sleep(POLL)
                continue
            done, _ = self.ray.wait(list(self.steps), timeout=POLL)
            for reference in done:
                self._take(reference)
        if self.given_up:
            shard, why = next(iter(self.given_up.items()))
            raise EngineError(
                f"{len(self.given_up)} shards are not labeled, since {LOSSES} workers were lost over each. The first "
                f"is {shard!r}: {why}\nIf it was for memory, take a smaller batch or fewer workers a machine "
                "(--threads); else find the sample by --engine local"
            )

    def dismiss(self) -> None:
        """Kill all workers, and wait until they are dead."""
        for hand in self.hands:
            self._kill(hand)
        if self.steps:
            self.ray.wait(list(self.steps), num_returns=len(self.steps), timeout=10)

    # Workers ------------------------------------------------------------------------------------------------------

    def _nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _hire(self) -> None:
        """A worker wherever there is room, as long as there are shards for it; at most once in `POLL` seconds."""
        if time.monotonic() - self._seen < POLL:
            return
        self._seen = time.monotonic()
        nodes = {node["NodeID"]: node for node in self._nodes() if node["NodeID"] not in self.refused}
        at = Counter(hand.node for hand in self.hands)
        places = [(k, node) for node in nodes for k in range(at[node], self._room(nodes[node]))]
        idle = sum(hand.job is None for hand in self.hands)
        for _, node in sorted(places)[: max(0, len(self.queue) - idle)]:  # a second one where all have one
            self._start(nodes[node])
        ready = [hand for hand in self.hands if hand.ready]
        self.progress.note = f"{len(ready)} workers on {len({hand.node for hand in ready})} machines"
        if ready:
            self._worked = time.monotonic()
        elif time.monotonic() - self._worked > PATIENCE:
            self._worked = float("inf")
            log.warning("no worker for %.0f s: waiting for %s, or for experts to load", PATIENCE, _said(self.need))

    def _room(self, node: Mapping[str, Any]) -> int:
        """How many workers a machine can have, were it ours alone."""
        return min(int(node["Resources"].get(name, 0) // count) for name, count in self.need.items())

    def _no_room(self) -> str:
        if self.refused:
            return "; ".join(dict.fromkeys(self.refused.values()))
        most = [max((int(node["Resources"].get(name, 0)) for node in self._nodes()), default=0) for name in self.need]
        return (
            f"no machine of the cluster has {_said(self.need)}; the most there are is "
            f"{_said(dict(zip(self.need, most, strict=True)))}. Give fewer --threads or another --device"
        )

    def _start(self, node: Mapping[str, Any]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        limit = {"env_vars": {LIMIT: os.environ[LIMIT]}} if LIMIT in os.environ else None
        actor = self._kind.options(
            num_cpus=self.need["CPU"], num_gpus=self.need.get("GPU", 0), scheduling_strategy=there, runtime_env=limit
        ).remote(self.order)
        hand = _Hand(actor, node["NodeID"], node["NodeManagerHostname"])
        self.hands.append(hand)
        self.steps[hand.actor.setup.remote()] = hand, self._begin

    def _begin(self, hand: _Hand, versions: Mapping[str, str]) -> None:
        if self.fresh:
            self.steps[hand.actor.look.remote(self.fresh, self.first)] = hand, self._looked
            self.fresh = ()
        else:
            hand.ready = True
        if versions != self._versions:
            other = {name: have for name, have in versions.items() if have != self._versions.get(name)}
            log.warning("%s has %s: labels made there may differ in their last bits", hand.host, other)

    def _looked(self, hand: _Hand, found: Sequence[str]) -> None:
        warn(found)
        hand.ready = True

    def _lost(self, hand: _Hand, why: str) -> None:
        """A worker is dead, or cannot be reached: what it was at is for another one."""
        self._kill(hand)
        self.hands.remove(hand)
        what = hand.job.shard if hand.job else hand.node
        doing = f"at the shard {hand.job.shard}" if hand.job else "while it started"
        log.warning("lost a worker on %s, %s: %s", hand.host, doing, why.strip().splitlines()[-1])
        self.losses[what].append(hand.node)
        alive = {node["NodeID"] for node in self._nodes()}
        if sum(node in alive for node in self.losses[what]) < LOSSES:
            self.queue.extendleft([hand.job] if hand.job else [])
        elif hand.job:
            self.given_up[what] = why
        else:
            self._refuse(hand, f"{LOSSES} workers were lost while they started: {why}")

    def _kill(self, hand: _Hand) -> None:
        with suppress(Exception):  # Ray's, if it is dead already
            self.ray.kill(hand.actor)

    def _refuse(self, hand: _Hand, why: str) -> None:
        """A machine cannot take part; the run ends if none can."""
        self.refused[hand.node] = f"{hand.host} cannot take part: {why}"
        log.warning(self.refused[hand.node])
        for other in [one for one in self.hands if one.node == hand.node and not one.ready]:
            self._kill(other)
            self.hands.remove(other)
        if not self.hands and not [n for n in self._nodes() if n["NodeID"] not in self.refused and self._room(n)]:
            raise EngineError(self._no_room())

    # Shards -------------------------------------------------------------------------------------------------------

    def _take(self, reference: Any) -> None:
        """What a worker answers, or that it does not."""
        errors = self.ray.exceptions
        hand, step = self.steps.pop(reference)
        if hand not in self.hands:
            return
        try:
            answer = self.ray.get(reference)
        except errors.RayTaskError as error:
            if not hand.ready:
                self._refuse(hand, str(error.cause))
            elif isinstance(error.cause, ClipzooError):
                raise error.cause from None
            else:
                raise
        except errors.RayError as error:
            self._lost(hand, str(error))
        else:
            step(hand, answer)

    def _give(self, hand: _Hand) -> None:
        if hand.ready and hand.job is None and self.queue:
            hand.job = self.queue.popleft()
            budgets = [work.budget for work in self.works]
            self.steps[hand.actor.label.remote(hand.job, budgets)] = hand, self._judge

    def _judge(self, hand: _Hand, budgets: Mapping[int, Any]) -> None:
        """Count a shard, once however often it is done, and let it be committed if the budgets allow."""
        assert hand.job is not None
        if hand.job.shard not in self.counted:
            self.counted.add(hand.job.shard)
            self.uncounted.subtract(list(budgets))
            for i, counts in budgets.items():
                budget = self.works[i].budget
                budget.add(counts)
                if budget.seen >= EARLIEST or not self.uncounted[i]:
                    budget.judge()
        self.steps[hand.actor.commit.remote()] = hand, self._committed

    def _committed(self, hand: _Hand, done: Done) -> None:
        assert hand.job is not None
        for i, lines in done.lines.items():
            self.works[i].labeled += done.labeled[i]
            for line in lines:
                self.works[i].note(**line)
        self.progress.shard(hand.job.shard, done.meter)
        hand.job = None


def _placed(order: Order, nodes: Sequence[Mapping[str, Any]]) -> Order:
    """The order for one kind of device: that of most use, if any may be taken."""
    if order.device == "auto":
        return replace(order, device="cuda" if any(node["Resources"].get("GPU") for node in nodes) else "cpu")
    if order.device not in ("cpu", "cuda"):
        raise EngineError(f"device={order.device!r}: on a cluster Ray gives each worker its own; say cuda, cpu or auto")
    return order


def _need(order: Order) -> dict[str, int]:
    """What Ray keeps for a worker: a GPU, or the CPUs of its threads."""
    return {"CPU": 1, "GPU": 1} if order.device == "cuda" else {"CPU": order.threads}


def _said(resources: Mapping[str, int]) -> str:
    return " and ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in resources.items())


def _sent(ray: Any, order: Order) -> Any:
    try:
        return ray.put(order)
    except TypeError as error:
        raise EngineError(f"an expert cannot be sent to other machines ({error}); name it by its URI") from error
