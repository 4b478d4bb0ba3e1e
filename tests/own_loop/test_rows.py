"""The rows of a recording that is resumed where no full-set sum is due."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import rhotrace


def trained(path, model, first, last, resume=None):
    x = torch.ones(4, 3)
    descent = torch.optim.SGD(model.parameters(), lr=0.01)
    with rhotrace.record(path, model, descent, data=(x, x[:, :1]), test=(x, x[:, :1]), resume=resume) as trace:
        for _ in range(first, last):
            descent.zero_grad()
            outputs = model(x)
            (outputs - x[:, :1]).square().mean().backward()
            descent.step()
            trace.step(outputs, x[:, :1])


def test_a_recording_resumed_between_full_set_sums_has_the_quantities_of_its_file(tmp_path):
    torch.manual_seed(0)
    cut, whole = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
    whole.load_state_dict(cut.state_dict())
    trained(tmp_path / "cut.h5", cut, 0, 7)
    trained(tmp_path / "cut.h5", cut, 7, 20, resume=7)  # full-set and test sums are due at multiples of 100
    trained(tmp_path / "whole.h5", whole, 0, 20)
    with rhotrace.open(tmp_path / "cut.h5") as a, rhotrace.open(tmp_path / "whole.h5") as b:
        assert [q.name for q in a.quantities] == [q.name for q in b.quantities]
        for quantity in b.quantities:
            np.testing.assert_array_equal(a[quantity.name], b[quantity.name], err_msg=quantity.name)
