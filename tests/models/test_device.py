"""What torch is set to before training on a GPU; needs none."""

from __future__ import annotations

import pytest
import torch

from rhotrace.models.device import without_tf32


@pytest.fixture
def products():
    """Those that TF32 would round, with TF32 on; afterwards as before."""
    both = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in both]
    for one in both:
        one.allow_tf32 = True
    yield both
    for one, value in zip(both, before, strict=True):
        one.allow_tf32 = value


def test_no_product_on_a_gpu_is_rounded_to_tf32(products):
    assert all(one.allow_tf32 for one in products)
    without_tf32()
    assert not any(one.allow_tf32 for one in products)
