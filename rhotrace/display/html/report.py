"""The HTML report: what was found in runs, in one file that needs nothing else: words, tables, figures, and provenance.

Its blocks are those of the other commands' pages, and its figures those of ``plot``.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rhotrace.analysis.analyze import Analysis, analyze
from rhotrace.analysis.applicability import no_balance, no_sums
from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.findings import Claim, audit_claims, cautions
from rhotrace.analysis.fluctuation.comparison import MOST_RUNS, Comparison, alone, compare
from rhotrace.analysis.fluctuation.verdict import verdicts
from rhotrace.analysis.member_bands import run_names
from rhotrace.analysis.run_series import RunSeries, require_steps
from rhotrace.analysis.scaling.with_start import Scaling, scaling
from rhotrace.display.as_json import plain
from rhotrace.display.blocks import Block, Code, Data, Figure, Heading, Paragraph, Table, table
from rhotrace.display.figures import transient as plots
from rhotrace.display.figures.claims import audit_figure
from rhotrace.display.figures.comparison import comparison_figure
from rhotrace.display.figures.runs import layers_figure, loss_figure, margins_figure, rho_figure
from rhotrace.display.html.renderer import report_page
from rhotrace.display.pages.analysis import findings, pool_words
from rhotrace.display.pages.claims import errata, statements
from rhotrace.display.pages.comparison import answers, as_plain, measured
from rhotrace.display.pages.headline import headline
from rhotrace.display.pages.run_files import provenance
from rhotrace.display.pages.scaling import laws
from rhotrace.errors import AnalysisError, RhoTraceError
from rhotrace.runfile.hdf5_io import refuse_to_replace_a_run
from rhotrace.runfile.provenance import now, versions
from rhotrace.runfile.reader import Trace
from rhotrace.theory import paper
from rhotrace.theory.norm_dynamics import THETA

MARK = '<meta name="generator" content="RhoTrace'


@dataclass(frozen=True)
class Found:
    """All that was found in one run."""

    name: str
    trace: Trace
    evidence: Evidence
    analysis: Analysis
    claims: tuple[Claim, ...]


def write_report(
    traces: Sequence[Trace], path: Path, *, theta: float = THETA, command: str = "", force: bool = False
) -> list[str]:
    """Writes the report of one or several runs.

    Args:
        traces: 1 to 20 runs.
        path: of the new file, which may replace an older report.
        theta: the transient ends at rho = theta rho_eq.
        command: that makes the report, for the record.
        force: replace a file that is not a report.

    Returns:
        The titles of its sections.

    Raises:
        AnalysisError: there are too many runs, or one has no steps.
        RhoTraceError: the file cannot be written, or the path is taken.
    """
    if len(traces) > MOST_RUNS:
        raise AnalysisError(f"got {len(traces)} runs, expected at most {MOST_RUNS} in a report")
    refuse_to_replace(path, force=force)
    names = run_names([trace.path for trace in traces])
    found = [_examined(name, trace, theta) for name, trace in zip(names, traces, strict=True)]
    together = _together(found)
    if together.comparison and len(found) > 1:
        found = [replace(one, claims=_decided(one.claims, together.comparison)) for one in found]
    blocks = [_results(found, together), *_blocks(found, together, theta)]
    page = report_page(
        blocks,
        title=", ".join(names),
        made=now(),
        version=versions(),
        command=command,
        citation=paper.CITATION,
    )
    write_page(path, page)
    return [block.text for block in blocks if isinstance(block, Heading) and block.anchor]


def _examined(name: str, trace: Trace, theta: float) -> Found:
    require_steps(trace)
    evidence = Evidence(RunSeries(trace, theta))
    return Found(name, trace, evidence, analyze(evidence.run, fit=True), audit_claims(evidence))


def _decided(claims: tuple[Claim, ...], comparison: Comparison) -> tuple[Claim, ...]:
    """The claims of a run; what one run cannot show, and GD and SGD here show together, refers to where they do."""
    batches = {side.letter: side.batch for side in comparison.sides}
    pairs = [(batches[c.base], batches[c.run]) for c in comparison.contrasts if math.isfinite(c.ratio.value)]
    if not any((base is None) != (run is None) for base, run in pairs):
        return claims
    words = "not on one run; this report compares GD and SGD under Fluctuation around rho_eq"
    return tuple(
        replace(claim, finding=replace(claim.finding, measured=words))
        if claim.key == "sgd" and claim.finding.outcome == "not testable here"
        else claim
        for claim in claims
    )


def refuse_to_replace(path: Path, *, force: bool) -> None:
    """Raises RhoTraceError if the path is taken by a file that is not a report."""
    if path.is_dir():
        raise RhoTraceError(f"{path}: got a folder, expected a name for the report, such as {path / 'report.html'}")
    refuse_to_replace_a_run(path)
    if path.exists() and not force and MARK not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise RhoTraceError(f"{path}: exists and is not a report; choose another name with -o, or --force")


@dataclass(frozen=True)
class _Together:
    """What the runs show together.

    Attributes:
        comparison: of the runs; None if they cannot be compared.
        laws: T against the start; None unless a depth has several starts.
        why: there is no comparison.
        no_laws: why T cannot be fitted against the start, where runs differ in it.
    """

    comparison: Comparison | None
    laws: Scaling | None
    why: str
    no_laws: str


def _together(found: Sequence[Found]) -> _Together:
    traces, runs = [one.trace for one in found], [one.evidence.run for one in found]
    comparison, laws, why, no_laws = None, None, "", ""
    try:
        comparison = compare(runs) if len(runs) > 1 else alone(runs[0])
    except AnalysisError as reason:
        why = str(reason)
    starts = {(t.depth, float(start)) for t in traces if "init_rho_k" in t for start in t["init_rho_k"]}
    if len(starts) > len({depth for depth, _ in starts}):  # several at a depth
        try:
            laws = scaling(runs)
        except AnalysisError as reason:
            no_laws = str(reason)
    return _Together(comparison, laws, why, no_laws)


# --- its blocks --------------------------------------------------------------------------------------------


def _blocks(found: Sequence[Found], together: _Together, theta: float) -> Iterator[Block]:
    runs = [one.evidence.run for one in found]
    yield Heading("What was found", 2, "found")
    yield from _summary(found, together)
    yield Heading("What was run", 2, "run")
    yield _what_was_run(found)
    balanced = any("log_rho_eq" in run.trace for run in runs)  # of no loss but the square loss
    yield Heading("Norm, equilibrium norm and loss" if balanced else "Norm and loss", 2, "norms")
    yield Figure(
        "rho (solid) and rho_eq (dashed): lines show the network of median T, bands all networks. T is the first step from "
        f"which rho stays at or above {theta:g} rho_eq; shaded, its 95 % interval over networks."
        if balanced
        else "rho: lines show one network of each run, bands all networks.",
        lambda path: rho_figure(runs, path, theta),
    )
    if all("loss" in run.trace for run in runs):
        yield Figure("Loss and error on training and test set.", lambda path: loss_figure(runs, path, theta))
    for number, one in enumerate(found, 1):
        yield from _of_run(one, f"run{number}", theta)
    yield from _of_several(found, together)
    yield Heading("Where the memo contradicts itself", 2, "errata", folded=True)
    yield from errata()
    yield Heading("How to reproduce it", 2, "again", folded=True)
    yield from _reproduce(found)


def _summary(found: Sequence[Found], together: _Together) -> Iterator[Block]:
    for one in found:
        name = f"{one.name}: " if len(found) > 1 else ""
        for words in pool_words(one.analysis.transient):
            yield Paragraph(name + words, strong=True)
        outcomes = [claim.finding.outcome for claim in one.claims]
        yield Paragraph(
            f"{name}of {len(outcomes)} statements of the memo, {outcomes.count('holds')} hold in this run, "
            f"{outcomes.count('fails')} fail, and {outcomes.count('not testable here')} cannot be tested on this run alone."
        )
        if not one.trace.complete:
            state = one.analysis.summary["state"]
            yield Paragraph(f"{name}the run is not finished ({state}): all of this may change.")
    if together.comparison and len(found) > 1:
        for verdict in verdicts(together.comparison):
            yield Paragraph(verdict, strong=True)


def _what_was_run(found: Sequence[Found]) -> Table:
    rows = [(one.name, *headline(one.analysis.summary).split("\n")) for one in found]
    return table("<run | <state and size | <network, optimizer, data", rows)


def _of_run(one: Found, key: str, theta: float) -> Iterator[Block]:
    yield Heading(f"Run {one.name}", 2, key)
    claim = str(one.trace.recipe.get("claim") or "")
    yield Paragraph("\n".join(line for line in (claim, headline(one.analysis.summary)) if line))

    yield Heading("Transient time, fits and audit of the steps", 3, f"{key}-T", folded=True)
    if not no_sums(one.trace):
        yield Figure(
            "Equation (5) driven by the measured sums (dotted), and the measurement; below, the difference.",
            lambda path: plots.transient_figure(
                {"": (one.evidence.run.members, one.analysis.transient)}, path, one.evidence.run.kept
            ),
        )
    yield from findings(one.analysis, fits=True)

    yield Heading("Layers and margins", 3, f"{key}-layers", folded=True)
    unlike = no_balance(one.trace)
    yield Figure(
        f"Norm of each layer. That squared norms move alike, Lemma 1, {unlike}."
        if unlike
        else "Norm of each layer, and how far its square moves from the mean over layers.",
        lambda path: layers_figure([one.evidence.run], path, theta),
    )
    if "margin_min" in one.trace:
        yield Figure(
            "Margins over the training set; a label is met where y f = 1/rho.",
            lambda path: margins_figure([one.evidence.run], path, theta),
        )

    yield Heading("The memo, statement by statement", 3, f"{key}-claims", folded=True)
    yield from statements(one.claims, cautions(one.evidence))
    yield Figure(
        "What the audit measured along the run, in the worst network, and the tolerances.",
        lambda path: audit_figure(one.evidence, one.claims, path),
    )

    yield Heading("Where it came from", 3, f"{key}-origin", folded=True)
    yield provenance(one.trace)
    recipe = "" if one.trace.own_loop else f"{one.name.replace('/', '-')}.yaml"
    yield Code(str(one.trace.attributes["recipe"]), recipe)


def _of_several(found: Sequence[Found], together: _Together) -> Iterator[Block]:
    """The fluctuation, of a single run too, and T against the start."""
    comparison, fitted = together.comparison, together.laws
    if comparison and any(side.each for side in comparison.sides):
        title = "Fluctuation around rho_eq" + (", run against run" if len(found) > 1 else "")
        yield Heading(title, 2, "fluctuation")
        yield from answers(comparison)
        yield Figure(
            "log(rho/rho_eq) after the transient, its spectrum and size.",
            lambda path: comparison_figure(comparison, [one.evidence.run for one in found], path),
        )
        yield Heading("What was measured after the transient", 3, "fluctuation-measured", folded=True)
        yield from measured(comparison)
    elif together.why:
        yield Heading("Run against run", 2, "fluctuation")
        yield Paragraph(f"Not compared: {together.why}.")
    if fitted:
        yield Heading("T against the start", 2, "scaling")
        yield from laws(fitted)
        yield Figure("T against rho_k(0).", lambda path: plots.scaling_figure(fitted, path))
    elif together.no_laws:
        yield Heading("T against the start", 2, "scaling")
        yield Paragraph(f"Not fitted: {together.no_laws}.")


def _reproduce(found: Sequence[Found]) -> Iterator[Block]:
    recorded = [one.name for one in found if one.trace.own_loop]
    if len(recorded) < len(found):
        yield Paragraph(
            "The recipe of each run is above, with every default spelled out. Save the recipes under the names used here; "
            "these commands then produce the runs and this report again. On the machine that trained them the numbers are "
            "the same to the last bit."
        )
    if recorded:
        yield Paragraph(
            f"Recorded in a training loop of your own: {', '.join(recorded)}. What is above is a "
            "description and not a recipe, so only the script that is named there trains again."
        )
    names = {one.name: one.name.replace("/", "-") for one in found}
    files = [str(one.trace.path) if one.name in recorded else f"runs/{names[one.name]}.h5" for one in found]
    lines = [
        f"rhotrace train {shlex.quote(f'{names[one.name]}.yaml')} -o {shlex.quote(file)}"
        for one, file in zip(found, files, strict=True)
        if one.name not in recorded
    ]
    yield Code("\n".join([*lines, f"rhotrace report {shlex.join(files)} -o report.html"]))
    yield table("<run file | <SHA-256 | bytes", [_file(one.trace) for one in found])


def _file(trace: Trace) -> tuple[str, str, str]:
    with trace.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if trace.complete else "not finished"
    return str(trace.path), digest, f"{trace.path.stat().st_size}"


def _results(found: Sequence[Found], together: _Together) -> Data:
    return Data(
        {
            "runs": [{**plain(one.analysis), "claims": [plain(claim) for claim in one.claims]} for one in found],
            "comparison": as_plain(together.comparison) if together.comparison else None,
            "scaling": plain(together.laws),
        }
    )


# --- the file ----------------------------------------------------------------------------------------------


def write_page(path: Path, text: str) -> None:
    """Writes an HTML page; a reader never sees half of it.

    Raises:
        RhoTraceError: it cannot be written.
    """
    half = path.with_name(f".{path.name}.half")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as problem:
        raise RhoTraceError(f"{path}: cannot be written ({problem.strerror or problem})") from None
    finally:
        half.unlink(missing_ok=True)
