"""The headline of a run: what was run, in two lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rhotrace.display.blocks import Block, Heading, Paragraph
from rhotrace.display.numbers import count


def title(name: str, about: str) -> list[Block]:
    """What a page is about: a name, and a line or two on it."""
    return [Heading(name, level=1), Paragraph(about)]


def headline(summary: dict[str, Any]) -> str:
    """The state and size of a run, and below it its network, optimizer and data."""
    each, optimizer = summary["per_member"], summary["optimizer_options"]
    options = ", ".join(
        f"{name.replace('_', ' ')} {_value(each.get(name, value))}"
        for name, value in optimizer.items()
        if value is not None and (name != "sampling" or optimizer["batch_size"])
    )
    optimized = ", ".join(filter(None, (summary["optimizer"], options)))
    noise = f", label noise {summary['label_noise']:g}" if summary["label_noise"] else ""
    network = "".join(f", {words}" for words in _network(summary["network"], summary["depth"]))
    loss = "" if summary["loss"] == "square" else f"{summary['loss']} loss, "
    planned = "" if summary["planned_steps"] is None else f" of {summary['planned_steps']}"
    data = " ".join(filter(None, (summary["dataset"], summary["classes"])))
    size = f", N = {summary['samples']}" if summary["samples"] else ""  # not known of some recordings
    return (
        f"{summary['state']}: {summary['steps']}{planned} steps, "
        f"{count(summary['members'], 'member')}, {summary['wall_seconds']:.0f} s on {summary['device']}\n"
        f"L = {summary['depth']}{network}, {summary['dtype']}; {loss}{optimized}; "
        f"{data}{size}{noise}"
    )


def _network(options: dict[str, Any], depth: int) -> Iterator[str]:
    """What a network is beside its depth."""
    if options.get("kind", "mlp") != "mlp":
        yield options["kind"]
    if depth > 1 and options.get("width"):
        yield f"width {options['width']}"
    if channels := options.get("channels"):
        yield f"channels {'-'.join(map(str, channels)) if isinstance(channels, list) else channels}"
    if options.get("batch_norm"):
        yield "batch normalisation"


def _value(value: str | float | Sequence[float]) -> str:
    """A value of the optimizer's options; of one that differs between members, the range."""
    if isinstance(value, str):
        return value
    if isinstance(value, float | int):
        return f"{value:g}"
    low, high = min(value), max(value)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
