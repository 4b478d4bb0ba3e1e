"""The pages of the commands on run files: ``info``, ``verify`` and ``repair``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rhotrace.display.as_json import plain
from rhotrace.display.blocks import Block, Code, Data, Heading, Paragraph, Table, table
from rhotrace.display.numbers import count
from rhotrace.display.pages.headline import headline, title
from rhotrace.models.own_code import texts

if TYPE_CHECKING:
    from rhotrace.runfile.integrity import Verification
    from rhotrace.runfile.reader import Trace
    from rhotrace.runfile.repair import Repair

_PROVENANCE = (
    *("started", "finished", "command", "folder", "host", "versions", "python", "platform"),
    *("device", "dtype", "threads", "products", "network_says"),
    *("git_revision", "recipe_file", "recipe_git_revision", "recipe_digest", "data_digest", "data_md5"),
    *("repaired_from", "repaired", "repaired_text"),
)
_DIFFS = ("git_diff", "recipe_git_diff")


def info_page(trace: Trace, summary: dict[str, Any]) -> list[Block]:
    """What a run file contains and where it came from."""
    return [
        Data({**summary, "attributes": trace.attributes, "sessions": trace.sessions}),
        *title(f"{trace.path}, {summary['bytes'] / 1e6:.2f} MB", headline(summary)),
        provenance(trace),
        Heading("Description of the training" if trace.own_loop else "Recipe"),
        Code(str(trace.attributes["recipe"])),
        *(part for file, text in texts(trace.attributes).items() for part in (Heading(f"Code: {file}"), Code(text))),
    ]


def provenance(trace: Trace) -> Table:
    """Where a run came from: versions, machine, code, data, sessions, members."""
    attributes, snapshots = trace.attributes, trace.snapshot_steps()
    rows = [
        (key.replace("_", " "), str(attributes[key])) for key in _PROVENANCE if attributes.get(key) not in (None, "")
    ]
    for key in _DIFFS:
        diff = str(attributes.get(key, ""))
        if diff or attributes.get(key.replace("diff", "revision")):
            found = f"{len(diff.splitlines())} lines, kept in the attribute {key}" if diff else "none"
            rows.append((key.replace("_", " "), found))
    for number, session in enumerate(trace.sessions, 2):
        where = f"from step {session.get('from_step')}, {session.get('started')} on {session.get('host')}"
        differs = [
            str(session[key])
            for key in ("versions", "device", "threads", "products", "git_revision")
            if key in session and session[key] != attributes.get(key)
        ]
        rows.append((f"session {number}", "; ".join([where, *differs])))
    rows += [(name.replace("_", " "), _listed(trace[name].tolist())) for name in trace.per_member]
    rows.append(("snapshots", "at steps " + ", ".join(map(str, snapshots)) if snapshots else "none"))
    rows.append(("quantities", ", ".join(q.name for q in trace.quantities)))
    return table("<key | <value", rows)


def _listed(values: list[Any]) -> str:
    shown = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values[:12])
    return shown if len(values) <= 12 else f"{shown}, … ({len(values)} in all)"


def verification_page(result: Verification) -> list[Block]:
    """Every check with what it found, and the verdict."""
    left = sum(check.outcome == "not checked" for check in result.checks)
    unchecked = f"; {left} of {len(result.checks)} checks could not be made" if left else ""
    if result.sound:
        kind = "finished" if result.complete else "live"
        verdict = f"sound: a {kind} run file of {result.steps} steps{unchecked}"
    else:
        wrong = ", ".join(check.name for check in result.checks if check.outcome == "wrong")
        remedy = (
            "each byte is as it was written, so there is nothing to repair"
            if result.whole
            else f"`rhotrace repair {result.path}` saves what is sound"
        )
        verdict = f"{'WRONG' if result.whole else 'DAMAGED'} ({wrong}){unchecked}; {remedy}"
    return [
        Data({**plain(result), "sound": result.sound}),
        table("<check | <outcome | <found", [(check.name, check.outcome, check.says) for check in result.checks]),
        Paragraph(f"{result.path}: {verdict}", strong=True),
    ]


def repair_page(result: Repair) -> list[Block]:
    """What was saved, and what can be done with it."""
    lost = f" ({result.snapshots_lost} lost)" if result.snapshots_lost else ""
    saved = f"{result.steps} of {result.steps_before} steps and {count(len(result.snapshots), 'snapshot')}{lost} saved"
    page: list[Block] = [Data(result), Paragraph(f"{result.target}: {saved}; {result.path} is unchanged")]
    if result.text_lost:
        page.append(
            Paragraph(
                "caution: some text attributes (recipe, provenance) were damaged and are saved as they were found"
            )
        )
    after = (
        f"to resume the run: rhotrace train RECIPE --steps N -o {result.target}"
        if result.resumable
        else "the optimizer's state after the last of these steps is lost, so the run cannot be resumed"
    )
    return [*page, Paragraph(after)]
