"""The bootstrap of PASCAL VOC's average precision computes some sets at a time."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from clipzoo.tasks import _average_precision
from clipzoo.tasks._metrics.objects import MOST, VocMetric


def test_memory_does_not_grow_with_the_number_of_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    N, R, K = 40, 800, 2
    table = np.zeros((N, MOST, 4))
    table[..., 0], table[..., 1] = rng.integers(1, K + 1, (N, MOST)), rng.random((N, MOST))
    table[..., 2] = rng.random((N, MOST)) < 0.3
    table[..., 3] = (table[..., 2] == 0) & (rng.random((N, MOST)) < 0.1)
    rows = np.concatenate([table.reshape(N, -1), rng.integers(10, 60, (N, K))], 1).astype(np.float64)
    weights = rng.multinomial(N, np.full(N, 1 / N), R).astype(np.float64)
    tracemalloc.start()
    found = VocMetric(K).resampled(rows, weights)["ap50"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * _average_precision.CELLS * 8 < R * N * MOST * 8 * 5  # bytes; the right one: without chunks
    monkeypatch.setattr(_average_precision, "CELLS", 1 << 40)
    np.testing.assert_allclose(found, VocMetric(K).resampled(rows, weights)["ap50"], rtol=1e-12)
    assert 0 < found.min() < found.max() < 1
