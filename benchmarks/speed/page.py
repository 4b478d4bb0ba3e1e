"""The result as tables."""

from __future__ import annotations

from collections.abc import Callable

from .measure import Row

HEADS = {
    "training": "RhoTrace beside the loop that records nothing",
    "recorders": "Beside loops that record the same numbers by other tools",
    "members": "Members",
    "growth": "How the cost grows",
    "whole": "Whole trainings, from the start of the process to its end",
    "starts": "Start of each command",
    "reading": "A long run: analysis, figures, report",
    "pictures": "Pictures of ten million steps",
    "size": "File size",
    "memory": "Memory",
}


def met(row: Row) -> bool | None:
    """Whether a row reaches its goal; None where it has none."""
    goal = row.get("goal")
    if goal is None or goal == {} or "missing" in row:
        return None
    if isinstance(goal, dict):
        return all(row[what] <= most for what, most in goal.items())
    return row.get("ratio", row.get("exponent")) <= goal


def judged(result: Row) -> list[tuple[str, Row]]:
    """The rows that have goals, with their parts."""
    return [(part, row) for part in HEADS for row in result.get(part, []) if met(row) is not None]


def markdown(result: Row) -> str:
    """The page."""
    of = result["machine"]
    packages = ", ".join(f"{name} {which}" for name, which in of["packages"].items())
    goals = judged(result)
    missed = [(part, row) for part, row in goals if not met(row)]
    lines = [
        "# Speed\n",
        f"Written by `python benchmarks/run.py` on {of['date']}: {of['processor']}, {of['cores']} cores, one thread, load "
        f"{of['load_at_start']:.1f} at the start and {of.get('load_at_end', 0):.1f} at the end, {of.get('minutes', 0):.1f} minutes ({of.get('processor_minutes', 0):.1f} of the processor); "
        f"Python {of['python']}, {packages}.\n",
        "Ratios are of processor time, median (range), RhoTrace over the other; below 1, RhoTrace is faster. *Of the limit* is the least time "
        "that the products (at the product peak) or the memory allow, over the time taken; for whole commands, the time of a process that "
        "only reads the file, or does nothing, over the time taken.\n",
        f"**{len(goals) - len(missed)} of {len(goals)} goals are reached.**\n",
    ]
    if result.get("quick"):
        lines.insert(1, "**A quick trial: no figure here means anything.**\n")
    if result.get("cut_short"):
        lines.append(f"Out of time in: {', '.join(result['cut_short'])}. `--minutes` gives it more.\n")
    if limit := result.get("limits"):
        lines += table(("limit of one core", ""), [(name, f"{value:.1f}") for name, value in limit.items()])
    for part, head in HEADS.items():
        if rows := result.get(part):
            columns, cells = LAYOUTS[part]
            lines += [f"## {head}\n", *table(columns, [cells(row) for row in rows])]
    if missed:
        lines += ["## Goals that are missed, and why\n"]
        starts = [row for part, row in missed if part == "starts"]
        lines += [f"- **{HEADS[part]}: {row['what']}**: {row['why']}" for part, row in missed if part != "starts"]
        if starts:
            slowest = max(starts, key=lambda row: row["seconds"])
            lines.append(f"- **Start of {len(starts)} commands**; the slowest is `{slowest['what']}`: {slowest['why']}")
        lines.append("")
    return "\n".join(lines)


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A Markdown table."""
    return [
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
        *("| " + " | ".join(r) + " |" for r in rows),
        "",
    ]


def goal_of(row: Row) -> str:
    """The goal, and whether it is reached."""
    if met(row) is None:
        return ""
    goal = row["goal"]
    words = (
        ", ".join(f"{most:g} {'s' if what == 'seconds' else 'MB'}" for what, most in goal.items())
        if isinstance(goal, dict)
        else f"{goal:.3g}"
    )
    return words + (" ✓" if met(row) else " ✗")


def pair(row: Row) -> tuple[str, ...]:
    if "missing" in row:
        return row["what"], row["beside"], "", row["missing"], "", "", ""
    return (
        row["what"],
        row["beside"],
        goal_of(row),
        f"{row['ratio']:.2f} ({row['low']:.2f}–{row['high']:.2f})",
        f"{row['us']:.0f}",
        f"{row['us_other']:.0f}",
        f"{100 * row['limit_us'] / row['us']:.0f} %" if "limit_us" in row else "",
    )


def command(row: Row) -> tuple[str, ...]:
    share = f"{100 * row['limit_seconds'] / row['seconds']:.0f} %" if "limit_seconds" in row else ""
    return (row["what"], goal_of(row), *process(row), share)


def process(row: Row) -> tuple[str, ...]:
    if "missing" in row:
        return row["missing"], "", ""
    return f"{row['seconds']:.2f}", f"{row['processor_seconds']:.2f}", f"{row['peak_MB']:.0f}"


def power(row: Row) -> tuple[str, ...]:
    other = f"{row['exponent_other']:.2f}" if "exponent_other" in row else ""
    return (
        row["what"],
        goal_of(row),
        f"{row['exponent']:.2f}",
        f"{row['arithmetic']:.2f}",
        other,
        ", ".join(map(str, row["values"])),
    )


def plain(row: Row) -> tuple[str, ...]:
    return row["what"], row["beside"], goal_of(row), f"{row['ratio']:.2f}", f"{row['MB']:.1f}"


_PAIR = (("RhoTrace, everything recorded", "beside", "goal", "ratio", "µs a step", "the other's", "of the limit"), pair)
_COMMAND = (("command", "goal", "seconds", "processor seconds", "peak MB", "of the limit"), command)
_PLAIN = (("what", "beside", "goal", "ratio", "MB"), plain)
LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[Row], tuple[str, ...]]]] = {
    "training": _PAIR,
    "recorders": _PAIR,
    "members": _PAIR,
    "growth": (
        ("time of a step against", "goal", "exponent", "of its products", "of the bare loop", "measured at"),
        power,
    ),
    "whole": (
        ("training", "by", "seconds", "processor seconds", "peak MB"),
        lambda r: (r["what"], r["beside"], *process(r)),
    ),
    "starts": _COMMAND,
    "reading": _COMMAND,
    "pictures": _COMMAND,
    "size": _PLAIN,
    "memory": _PLAIN,
}
