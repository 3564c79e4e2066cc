"""trackio: a database on this machine, shown by ``trackio show --project clipzoo``; ``TRACKIO_DIR`` sets its folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from clipzoo.training.tracking.base import PROJECT, TrackedRun, Tracker
from clipzoo.types import ImageArray

REQUIRES = "trackio"


class _Trackio:
    def __init__(self, trackio: Any, run: Any) -> None:
        self.trackio, self.run = trackio, run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: ImageArray) -> None:
        self.run.log({name: self.trackio.Image(image)}, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self.trackio.finish()  # the run's own method would be called again at exit


def open(run: TrackedRun) -> Tracker:
    """Return the tracker of a run, which a resumed training continues; repeated steps are listed twice."""
    import trackio

    with redirect_stdout(sys.stderr):  # trackio 0.43 prints
        name = f"{run.name}-{run.identity()}"  # trackio knows runs by their names
        started = trackio.init(project=PROJECT, name=name, config=dict(run.config), resume="allow", embed=False)
    return _Trackio(trackio, started)
