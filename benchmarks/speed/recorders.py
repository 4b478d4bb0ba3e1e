"""RhoTrace beside loops that record the same numbers at each step by other tools, as far as these are installed."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import torch
from torch import nn

from rhotrace.config import recipe

from .loops import Log, bare, traced
from .measure import Effort, Row, paired
from .workloads import DEEP8

Write = Callable[[int, dict[str, float]], object]


def sums(net: nn.Module, outputs: torch.Tensor, ys: torch.Tensor, loss: torch.Tensor) -> dict[str, float]:
    """What people log at each step, as numbers: norms of weights and gradients, a, q, loss, error and smallest margin."""
    found = {}
    for k, layer in enumerate(layer for layer in net if isinstance(layer, nn.Linear)):
        found[f"rho_{k}"] = layer.weight.detach().double().norm().item()
        found[f"grad_{k}"] = layer.weight.grad.double().norm().item()
    margins = outputs * ys
    found |= {"a": margins.mean().item(), "q": outputs.square().mean().item(), "loss": loss.item()}
    return found | {"error": (margins <= 0).double().mean().item(), "margin": margins.min().item()}


@contextlib.contextmanager
def as_list(_: Path) -> Iterator[Write]:
    kept: list[dict[str, float]] = []
    yield lambda _, row: kept.append(row)


@contextlib.contextmanager
def as_csv(folder: Path) -> Iterator[Write]:
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        yield lambda _, row: (writer.writerow(row.values()), file.flush())


@contextlib.contextmanager
def as_hdf5(folder: Path) -> Iterator[Write]:
    with h5py.File(folder / "log.h5", "w") as log:

        def append(_: int, row: dict[str, float]) -> None:
            for name, value in row.items():
                if name not in log:
                    log.create_dataset(name, (0,), maxshape=(None,), chunks=(1024,), dtype="f8")
                log[name].resize(len(log[name]) + 1, axis=0)
                log[name][-1] = value

        yield append


@contextlib.contextmanager
def as_tensorboard(folder: Path) -> Iterator[Write]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "board")) as board:
        yield lambda step, row: [board.add_scalar(name, value, step) for name, value in row.items()]


@contextlib.contextmanager
def as_lightning_csv(folder: Path) -> Iterator[Write]:
    from lightning.fabric.loggers import CSVLogger

    own = CSVLogger(str(folder), flush_logs_every_n_steps=1)
    yield lambda step, row: own.log_metrics(row, step)
    own.save()


@contextlib.contextmanager
def as_wandb(folder: Path) -> Iterator[Write]:
    """Offline; what its own process does is not counted."""
    import wandb

    own = wandb.init(project="speed", mode="offline", dir=str(folder), settings=wandb.Settings(silent=True))
    yield lambda _, row: own.log(row)
    own.finish()


TOOLS = {
    ".item() loop, numbers in a list": as_list,
    "CSV row per step": as_csv,
    "HDF5 append per step": as_hdf5,
    "TensorBoard per step": as_tensorboard,
    "Lightning CSVLogger per step": as_lightning_csv,
    "W&B offline per step": as_wandb,
}


def logging_with(write: Write) -> Log:
    """What a loop calls at each step."""
    return lambda step, net, outputs, ys, loss: write(step, sums(net, outputs, ys, loss))


def recorders(folder: Path, effort: Effort) -> Iterator[Row]:
    """A row for each tool under GD; one that is not installed says so."""
    content = recipe.parse(DEEP8, ["network.width=16"] if effort.quick else [])
    what = f"GD, L = 8, width {content.network.width}, N = 400"
    ours = traced(content)
    for name, tool in list(TOOLS.items())[: 3 if effort.quick else None]:
        try:
            with tool(folder) as write:
                found = paired(ours, bare(content, logging_with(write)), effort, rounds=3)
        except ImportError:
            found = {"missing": "not installed"}
        yield {"what": what, "beside": name, **found}
