from __future__ import annotations

import pytest

SGD = ("optimizer={kind: sgd, lr: 0.05, batch_size: 8}", "record={full_every: 3, test_every: 10, snapshots: 2}")


@pytest.fixture
def run(train):
    return train(*SGD)
