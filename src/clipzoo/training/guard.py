"""The guard: measurements of the student while it is trained, and the action after a loss of zero-shot recognition.

The measure is taken on a fixed set of images, before the first step and every ``training.guard.every`` steps. The state
after a measurement within the limit is kept as ``good.pt``. A rollback restores that state, lowers the learning rates
and writes it as the checkpoint, with the event; so a training that is killed at any moment repeats the same steps.
"""

from __future__ import annotations

import json
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from clipzoo import files
from clipzoo.errors import DivergedError, RecipeError
from clipzoo.recipe import GuardRecipe
from clipzoo.training import checkpoint
from clipzoo.training.checkpoint import Checkpoints
from clipzoo.training.job import Recognition, Training
from clipzoo.training.processes import ranks
from clipzoo.training.processes.sharding import Sharding
from clipzoo.training.records import Records
from clipzoo.training.updates.average import Average

GOOD, RECORD = "good.pt", "guard.json"


def early_end(out: Path) -> tuple[int, int] | None:
    """Return the step at which the guard ended the training in a folder and that of its student; None if it did not."""
    path = out / RECORD
    events = json.loads(path.read_text(encoding="utf-8"))["events"] if path.is_file() else []
    if not events or events[-1]["event"] != "end":
        return None
    return events[-1]["step"] + 1, events[-1]["returned_to"]


def measure(training: Training, sharding: Sharding, records: Records, step: int) -> None:
    """Log what ``training.evaluate`` yields, if it is given. Leaves the student in evaluation mode.

    The main process measures; the others encode pictures and texts for it.
    """
    training.student.eval()
    if evaluate := training.evaluate:
        records.write(step, sharding.measured(lambda student: dict(evaluate(student))), {})


def build(
    training: Training, sharding: Sharding, checkpoints: Checkpoints, average: Average | None = None
) -> Guard | None:
    """Return the guard of a training, None without ``training.guard``; its state is a part of the checkpoints."""
    settings = training.job.settings.guard
    if settings is None:
        return None
    if training.recognition is None:
        raise RecipeError(
            "training.guard is set, but Training.recognition is missing: the guard has no images to measure on. Give "
            "recognition, or set training.guard to null"
        )
    guard = Guard(training, settings, training.recognition, sharding, checkpoints, average)
    checkpoints.parts["guard"] = weakref.proxy(guard)  # a cycle would keep the optimizer on the GPU after the training
    return guard


class Guard:
    """Zero-shot measurements of one training, and what they caused.

    Attributes:
        factor: factor of the learning rates, lowered at each rollback.
        events: the rollbacks and the early end, as lines of the log.
    """

    def __init__(
        self, training: Training, settings: GuardRecipe, recognition: Recognition, sharding: Sharding,
        checkpoints: Checkpoints, average: Average | None = None,
    ) -> None:  # fmt: skip
        self.sharding, self.average = sharding, average
        self.training, self.settings, self.recognition = training, settings, recognition
        self.checkpoints, self.good = checkpoints, training.job.out / GOOD
        self.start: float | None = None
        self.measured: list[dict[str, float]] = []
        self.factor = 1.0
        self.events: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        measured, events = [dict(one) for one in self.measured], [dict(one) for one in self.events]
        return {"start": self.start, "measured": measured, "factor": self.factor, "events": events}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the values of a checkpoint."""
        self.start, self.factor = state["start"], state["factor"]
        self.measured, self.events = list(state["measured"]), list(state["events"])

    def begin(self, step: int, records: Records) -> None:
        """Measure the start before the first step; later calls only log it again where the log was cut.

        A resumed step has no good state if one returned to an earlier checkpoint, by hand: that state is then kept.
        """
        if self.start is None:
            self.start = self._measure()
            self.checkpoints.write(0, self.good)
        elif ranks.agreed(not self.good.exists() or checkpoint.step(self.good) > step):
            self.checkpoints.write(step, self.good)
        if step == 0:
            records.write(0, {f"guard/{self.recognition.name}": self.start}, {})

    def due(self, done: int) -> bool:
        """Return True if the student is measured after ``done`` updates."""
        return done % self.settings.every == 0 or done == self.training.job.steps

    def check(self, done: int, records: Records) -> int:
        """Measure the student after ``done`` updates, and act.

        Returns:
            the number of updates to continue from: ``done``; after a rollback, that of the restored state; at an early
            end, all.
        """
        assert self.start is not None
        value = self._measure()
        loss = self.start - value
        self.measured.append({"step": done, "value": value})
        records.write(done - 1, {f"guard/{self.recognition.name}": value, "guard/loss": loss}, {})
        if loss <= self.settings.max_loss:
            self.checkpoints.write(done, self.good)
            return done
        if self.settings.action == "warn":
            self._say(f"{self._alarm(done, value)}. Training continues, since training.guard.action is warn")
            return done
        if self._rolls_back():
            return self._roll_back(done, value, self._alarm(done, value))
        return self._end(done, value)

    def diverged(self, done: int, error: DivergedError) -> int:
        """Roll back after a gradient that is not finite; return the step to continue from.

        Raises:
            DivergedError: the given error, if there is no rollback left.
        """
        if not self._rolls_back():
            raise error
        return self._roll_back(done, None, str(error).partition("Lower ")[0].rstrip(" ."))

    def _rolls_back(self) -> bool:
        return self.settings.action == "rollback" and self._rollbacks() < self.settings.max_rollbacks

    def _roll_back(self, done: int, value: float | None, reason: str) -> int:
        self.factor *= self.settings.rate_factor
        good = self._restore("rollback", done, value)
        self.checkpoints.write(good)
        self._say(
            f"{reason}. Returned to step {good}; learning rates are now {self.factor:g} of the "
            f"schedule (rollback {self._rollbacks()} of {self.settings.max_rollbacks})"
        )
        return good

    def _end(self, done: int, value: float) -> int:
        """Restore the last good state as the result, and write it as that of the last step."""
        good, steps = self._restore("end", done, value), self.training.job.steps
        self.checkpoints.write(steps)
        reason = "training.guard.action is stop"
        if self.settings.action == "rollback":
            reason = f"{self._rollbacks()} rollbacks did not prevent it"
        self._say(
            f"{self._alarm(done, value)}. Training ends with the student of step {good}, since {reason}. To train "
            "longer, lower training.learning_rates or the weights of columns"
        )
        return steps

    def _restore(self, event: str, done: int, value: float | None) -> int:
        """Restore the last good state, but not this guard's earlier one; record the event and return its step."""
        mine = self.state_dict()
        good = self.checkpoints.restore(self.good)
        self.load_state_dict(mine)
        line = {"step": done - 1, "guard/event": event, "guard/returned_to": good, "guard/value": value}
        self.events.append({**line, "guard/rate_factor": self.factor})
        return good

    def _rollbacks(self) -> int:
        return sum(event["guard/event"] == "rollback" for event in self.events)

    def _alarm(self, done: int, value: float) -> str:
        assert self.start is not None
        return (
            f"step {done}: {self.recognition.name} fell from {self.start:.4f} to {value:.4f} on "
            f"{self.recognition.samples:,} images, more than training.guard.max_loss={self.settings.max_loss:g} allows"
        )

    def _measure(self) -> float:
        """Return the measure of the student, the same value on every process."""
        with self.average.applied() if self.average else nullcontext():
            value = self.sharding.measured(self.recognition.measure)
        self.training.student.train()
        return value

    def _say(self, text: str) -> None:
        if ranks.is_main():
            self.training.say(text)

    def finish(self) -> None:
        """Write ``guard.json``."""
        if ranks.is_main():
            files.write(self.training.job.out / RECORD, json.dumps(self.summary(), indent=1).encode())

    def summary(self) -> dict[str, Any]:
        """Return the measurements and events as plain JSON values."""
        assert self.start is not None
        over = [one for one in self.measured if self.start - one["value"] > self.settings.max_loss]
        return {
            "measure": self.recognition.name,
            "samples": self.recognition.samples,
            "max_loss": self.settings.max_loss,
            "action": self.settings.action,
            "start": self.start,
            "measured": self.measured,
            "alarms": len(over),
            "rate_factor": self.factor,
            "events": [{name.removeprefix("guard/"): value for name, value in one.items()} for one in self.events],
        }
