"""Names and roles of a module's tensors, against names that are spelled out, and the words on tied and random parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rhotrace.models.module_parts import module_parts, random_parts, tied


class Bare(nn.Module):
    """Parameters of given names and shapes, each an attribute of the module or of a module inside."""

    def __init__(self, shapes):
        super().__init__()
        for path, shape in shapes.items():
            *folders, name = path.split(".")
            at = self
            for folder in folders:
                if folder not in at._modules:
                    at.add_module(folder, nn.Module())
                at = at._modules[folder]
            at.register_parameter(name, nn.Parameter(torch.ones(shape)))


def test_a_name_is_that_of_the_tensor_and_each_is_given_once():
    wanted = {
        "weight": "weight", "features.0.weight": "features_0", "features.0.bias": "features_0_bias",
        "0.weight": "layer_0", "layer_0.weight": "layer_0_2", "layer.0.weight": "layer_0_3", "ä.weight": "layer_",
        "head_in.weight": "head_in", "head.weight": "head_2", "a.b_weight": "a_b_weight", "snapshot": "snapshot_2",
        "_x.weight": "layer_x",
    }  # fmt: skip
    module = Bare(dict.fromkeys(wanted, (2, 2)))
    found = {part.names[0]: part.block.name for part in module_parts(module, ())}
    assert found == wanted
    assert len(set(found.values())) == len(found)
    assert all(name.isidentifier() and name.isascii() for name in found.values())


@pytest.mark.parametrize(
    ("module", "roles"),
    [
        (nn.Conv2d(1, 2, 3), {"weight": "weight", "bias": "shift"}),
        (nn.Embedding(5, 2), {"weight": "weight"}),
        (nn.BatchNorm2d(3), {"weight": "scale", "bias": "shift", "running_mean": "buffer", "running_var": "buffer"}),
        (nn.LayerNorm((2, 3, 4)), {"weight": "scale", "bias": "shift"}),
        (nn.RMSNorm((2, 3)), {"weight": "scale"}),
        (nn.PReLU(3), {"weight": "scale"}),
        (nn.GRU(2, 1), {"weight_ih_l0": "weight", "weight_hh_l0": "weight", "bias_ih_l0": "shift", "bias_hh_l0": "shift"}),
        (nn.MultiheadAttention(4, 2), {"in_proj_weight": "weight", "in_proj_bias": "shift", "out_proj": "weight", "out_proj_bias": "shift"}),
        (Bare({"table_bias": (3, 3), "unbiased": (3, 3), "gain": ()}), {"table_bias": "shift", "unbiased": "weight", "gain": "scale"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_roles_follow_from_names_shapes_and_owners(module, roles):
    buffers = {name for name, tensor in module.named_buffers() if tensor.is_floating_point()}
    assert {part.block.name: part.block.role for part in module_parts(module, buffers)} == roles


def test_parameters_come_before_buffers_and_some_of_each_may_be_left_out_or_not_trained():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    found = module_parts(net, {"0.running_var", "1.bias"})
    assert [(part.names, part.block.role, part.kind) for part in found] == [
        (("0.weight",), "scale", "BatchNorm1d"), (("0.bias",), "shift", "BatchNorm1d"), (("1.weight",), "weight", "Linear"),
        (("1.bias",), "buffer", "Linear"), (("0.running_var",), "buffer", "BatchNorm1d"),
    ]  # fmt: skip


def test_a_group_is_one_weight_at_the_place_of_its_first_parameter():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4), nn.Linear(4, 1))
    found = module_parts(net, (), {"ends": ("0.weight", "0.bias", "2.weight")})
    assert [(part.block.name, part.block.shape, part.block.role) for part in found] == [
        ("ends", (6 + 2 + 4,), "weight"), ("layer_1", (4, 2), "weight"), ("layer_1_bias", (4,), "shift"), ("layer_2_bias", (1,), "shift")
    ]  # fmt: skip
    assert found[0].kind == "group"


def test_a_tied_parameter_is_one_block_and_is_said():
    net = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5, bias=False))
    net[1].weight = net[0].weight
    assert [part.names for part in module_parts(net, ())] == [("0.weight",)]
    assert tied(net) == ["1.weight is the same parameter as 0.weight"]


def test_random_parts_are_those_that_drop_numbers():
    parts = nn.ModuleList(
        [nn.Dropout(0.0), nn.Dropout2d(0.5), nn.AlphaDropout(0.1), nn.LSTM(2, 2, 2, dropout=0.25), nn.Linear(2, 2),
         nn.MultiheadAttention(4, 2, dropout=0.2)]
    )  # fmt: skip
    assert random_parts(parts) == [
        "1 (Dropout2d, p=0.5)", "2 (AlphaDropout, p=0.1)", "3 (LSTM, p=0.25)", "5 (MultiheadAttention, p=0.2)"
    ]  # fmt: skip
    assert random_parts(nn.Dropout(0.5)) == ["the module (Dropout, p=0.5)"]
