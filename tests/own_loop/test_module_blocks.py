"""The blocks of a recorded module: wrappers, groups, tensors, and the mistakes that are named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rhotrace.errors import RhoTraceError
from rhotrace.own_loop.module_blocks import module_blocks, plain_module, tensors_of


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3, bias=False))


def test_every_parameter_and_every_buffer_of_numbers_is_a_block():
    found = module_blocks(net())
    assert [(each.block.name, each.block.role, each.block.shape, each.kind) for each in found] == [
        ("layer_0", "weight", (2, 1, 3, 3), "Conv2d"), ("layer_0_bias", "shift", (2,), "Conv2d"),
        ("layer_1", "scale", (2,), "BatchNorm2d"), ("layer_1_bias", "shift", (2,), "BatchNorm2d"),
        ("layer_3", "weight", (3, 8), "Linear"),
        ("layer_1_running_mean", "buffer", (2,), "BatchNorm2d"), ("layer_1_running_var", "buffer", (2,), "BatchNorm2d"),
    ]  # fmt: skip


def test_the_tensors_of_a_block_are_the_module_s_own():
    module = net()
    blocks = module_blocks(module, {"all": "[03].weight"})
    tensors = dict(zip((each.block.name for each in blocks), tensors_of(module, blocks), strict=True))
    assert tensors["all"][0] is module[0].weight
    assert tensors["all"][1] is module[3].weight
    assert tensors["layer_1_running_var"][0] is module[1].running_var


def test_a_parameter_that_is_not_trained_keeps_its_role():
    module = net().requires_grad_(False)
    assert [each.block.role for each in module_blocks(module)] == [each.block.role for each in module_blocks(net())]


def test_wrappers_are_taken_off():
    module = net()
    assert plain_module(nn.DataParallel(module)) is module
    assert plain_module(module) is module


@pytest.mark.parametrize(
    ("module", "groups", "says"),
    [
        (net(), {"a": "9.*"}, r"blocks\['a'\]: got the pattern '9\.\*', which matches no parameter; expected one for 0\.weight"),
        (net(), {"a": "0.*", "b": "*.weight"}, r"blocks: got 0\.weight in 'a' and in 'b', expected each parameter in one block"),
        (nn.BatchNorm1d(3), None, r"model: got BatchNorm1d with no weights \(weight, bias\), expected a module with at least"),
        (nn.ReLU(), None, r"model: got ReLU with no weights \(no parameters\)"),
    ],
)  # fmt: skip
def test_mistakes_are_named(module, groups, says):
    with pytest.raises(RhoTraceError, match=f"rhotrace.record: {says}"):
        module_blocks(module, groups)
