"""The page of ``benchmark``: the speeds of a recipe on this machine, and what follows from them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rhotrace.display.blocks import Block, Data, Paragraph, table
from rhotrace.display.numbers import count, number
from rhotrace.display.pages.headline import title

if TYPE_CHECKING:
    from rhotrace.sweeps.benchmark import Benchmark, Reading, Setting

_MUCH = 0.2  # share of the time, from which full-set sums are worth a word

_BUSY = 0.3  # of the cores


def in_words(setting: Setting) -> str:
    """A setting, for a sentence."""
    threads = f", {count(setting.threads, 'thread')}" if setting.device == "cpu" else ""
    return f"{setting.device}{threads}, {count(setting.members, 'member')}"


def benchmark_page(found: Benchmark, recipe: str) -> Iterator[Block]:
    """Every reading, the best settings, and how long the recipe takes.

    Args:
        found: the readings.
        recipe: path of the recipe, for the commands that the page recommends.
    """
    yield Data(found)
    machine = f"{found.processor}, {count(found.cores, 'core')}; {found.gpu or 'no CUDA device measured'}"
    yield from title(f"{found.recipe}: {count(found.members, 'member')}, {found.steps} steps", machine)
    rows = [
        (
            r.setting.device,
            str(r.setting.threads) if r.setting.device == "cpu" else "–",
            str(r.setting.members),
            number(r.steps_per_second),
            number(r.member_steps_per_second),
            f"{r.ratio:.2f}",
        )
        for r in found.readings
    ]
    yield table("<device | threads | members | steps/s | member-steps/s | time / without recording", rows)
    if found.load > _BUSY * found.cores:
        yield Paragraph(f"Other programs were busy (load {found.load:.1f} at the start), so these speeds are too low.")
    for setting, why in found.left_out:
        yield Paragraph(f"not measured: {in_words(setting)}: {why}")
    if found.fastest and found.seconds is not None:
        yield Paragraph(
            f"Best for this recipe: {_with(found.fastest.setting)}. Its {found.steps} steps take about {_time(found.seconds)}.",
            strong=True,
        )
        yield Paragraph(f"  {_command(found.fastest.setting, recipe)}")
    if found.most:
        yield from _many(found, found.most)
    if found.fastest and found.fastest.share_full > _MUCH:
        yield Paragraph(
            f"{100 * found.fastest.share_full:.0f} % of the time goes into sums over the full training set that SGD does not need: "
            "a larger record.full_every takes fewer of them, and record.every.first_layer makes each cheaper."
        )


def _many(found: Benchmark, most: Reading) -> Iterator[Block]:
    """What is best for many networks, beside the best that one network alone reaches."""
    alone = [r.member_steps_per_second for r in found.readings if r.setting.members == 1]
    gain = (
        f", {most.member_steps_per_second / max(alone):.1f} times as many member-steps/s as one alone" if alone else ""
    )
    side_by_side = count(most.setting.members, "member") + (
        " side by side" if most.setting.members > 1 else " at a time"
    )
    yield Paragraph(
        f"Best for many networks: {side_by_side} on {_with(most.setting)}"
        f"{gain if most.setting.members > 1 else ''}. For a sweep: --device {most.setting.device} "
        f"--members-per-run {most.setting.members}."
    )


def _with(setting: Setting) -> str:
    return setting.device + (f" with {count(setting.threads, 'thread')}" if setting.device == "cpu" else "")


def _command(setting: Setting, recipe: str) -> str:
    threads = f"OMP_NUM_THREADS={setting.threads} " if setting.device == "cpu" else ""
    return f"{threads}rhotrace train {shlex.quote(recipe)} --device {setting.device}"


def _time(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{number(seconds / unit, 2)} {name}"
    return f"{number(seconds, 2)} s"
