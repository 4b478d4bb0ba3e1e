"""The ratios as a figure."""

from __future__ import annotations

from pathlib import Path

from .measure import Row


def picture(result: Row, path: Path) -> None:
    """Every ratio with its range and its goal, on a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [r for part in ("training", "recorders", "members") for r in result.get(part, []) if "ratio" in r]
    if not rows:
        return
    drawn, axis = plt.subplots(figsize=(7.5, 0.8 + 0.2 * len(rows)), layout="constrained")
    places = range(len(rows), 0, -1)
    ends = [[r["ratio"] - r["low"] for r in rows], [r["high"] - r["ratio"] for r in rows]]
    axis.errorbar([r["ratio"] for r in rows], places, xerr=ends, fmt="o", markersize=4, capsize=2, label="measured")
    goals = [(r["goal"], place) for r, place in zip(rows, places, strict=True) if r.get("goal")]
    if goals:
        axis.plot(*zip(*goals, strict=True), "|", color="tab:red", markersize=9, label="goal")
    axis.axvline(1, color="0.5", linewidth=0.8)
    axis.set_yticks(list(places), [f"{r['what']}, beside: {r['beside']}" for r in rows], fontsize=6)
    axis.set(xscale="log", xlabel="processor time of RhoTrace / of the other", ylim=(0, len(rows) + 1))
    axis.set_xticks(
        [0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5], labels=["0.2", "0.3", "0.5", "0.7", "1", "1.5", "2", "3", "5"]
    )
    axis.minorticks_off()
    axis.legend(fontsize=7)
    drawn.savefig(path, dpi=150)
    plt.close(drawn)
