"""``report``: what runs showed, in one HTML file that needs nothing else: words, tables, pictures, and where it came from.

The sentences and tables are those of the terminal, printed on a ``Page`` that keeps them; the pictures are those of ``plot``.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rhotrace.analysis.analyze import Analysis, analyze
from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.findings import Claim, audit_claims
from rhotrace.analysis.claims.findings import cautions as audit_cautions
from rhotrace.analysis.fluctuation.comparison import MOST_RUNS, Comparison, alone, compare
from rhotrace.analysis.fluctuation.verdict import verdicts
from rhotrace.analysis.member_bands import run_names
from rhotrace.analysis.run_series import RunSeries, require_steps
from rhotrace.analysis.scaling_with_start import Scaling, scaling
from rhotrace.display.figures import transient as plots
from rhotrace.display.figures.claims import audit_figure
from rhotrace.display.figures.comparison import comparison_figure
from rhotrace.display.figures.runs import layers_figure, loss_figure, margins_figure, rho_figure
from rhotrace.display.formatting import cells, headline, plain, row, table, to_json
from rhotrace.display.html.pages import embedded, rendered
from rhotrace.display.terminal.analysis import pool_words, print_findings
from rhotrace.display.terminal.claims import print_errata, print_statements
from rhotrace.display.terminal.comparison import as_plain, print_contrasts
from rhotrace.display.terminal.runs import provenance_table
from rhotrace.display.terminal.scaling import print_laws
from rhotrace.errors import AnalysisError, RhoTraceError
from rhotrace.runfile import provenance
from rhotrace.runfile.hdf5_io import refuse_to_replace_a_run
from rhotrace.runfile.reader import Trace
from rhotrace.theory import paper
from rhotrace.theory.norm_dynamics import THETA

MARK = '<meta name="generator" content="RhoTrace'


@dataclass(frozen=True)
class Block:
    """A paragraph, a table or a picture of the report, by ``kind``."""

    kind: str
    text: str = ""
    names: tuple[str, ...] = ()
    numeric: tuple[bool, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; ``within`` where it belongs to the section before."""

    key: str
    title: str
    blocks: tuple[Block, ...]
    within: bool = False


class Page(Console):
    """A console that keeps paragraphs and tables, as blocks, instead of printing them."""

    def __init__(self) -> None:
        super().__init__(file=StringIO(), width=120)
        self.blocks: list[Block] = []

    def print(self, *objects: Any, **how: Any) -> None:  # noqa: ANN401 - as rich has it
        """As ``rich.console.Console.print``."""
        for each in objects:
            if isinstance(each, Table):
                names, rows = cells(each)
                numeric = tuple(column.justify == "right" for column in each.columns)
                title = str(each.title or "")
                self.blocks.append(Block("table", title, tuple(names), numeric, tuple(map(tuple, rows))))
            else:
                kind = "lead" if how.get("style") == "bold" else "text"
                self.blocks += [Block(kind, line) for line in str(each).split("\n") if line]


@dataclass(frozen=True)
class Found:
    """What is told of one run."""

    name: str
    trace: Trace
    evidence: Evidence
    analysis: Analysis
    claims: tuple[Claim, ...]


def _picture(caption: str, draw: Callable[[Path], None]) -> Block:
    source, text = embedded(draw)
    return Block("picture", caption, names=(text,), source=source)


def write_report(
    traces: Sequence[Trace], path: Path, *, theta: float = THETA, command: str = "", force: bool = False
) -> list[str]:
    """Writes the report of one or several runs.

    Args:
        traces: 1 to 20 runs.
        path: of the new file, which may replace an older report.
        theta: the transient ends at rho = theta rho_eq.
        command: with which it was made, for the record.
        force: replace a file that is no report.

    Returns:
        The titles of its sections.

    Raises:
        AnalysisError: too many runs, or one without steps.
        RhoTraceError: the file cannot be written, or another one is there.
    """
    if len(traces) > MOST_RUNS:
        raise AnalysisError(f"got {len(traces)} runs, expected at most {MOST_RUNS} in a report")
    refuse_to_replace(path, force=force)
    names = run_names([trace.path for trace in traces])
    found = [_examined(name, trace, theta) for name, trace in zip(names, traces, strict=True)]
    together = _together(found)
    sections = list(_sections(found, together, theta))
    _write(path, _rendered(found, together, sections, command))
    return [section.title for section in sections]


def _examined(name: str, trace: Trace, theta: float) -> Found:
    require_steps(trace)
    evidence = Evidence(RunSeries(trace, theta))
    return Found(name, trace, evidence, analyze(evidence.run, fit=True), audit_claims(evidence))


def refuse_to_replace(path: Path, *, force: bool) -> None:
    """Raises RhoTraceError where a file is in the way that is no report."""
    if path.is_dir():
        raise RhoTraceError(f"{path}: got a folder, expected a name for the report, such as {path / 'report.html'}")
    refuse_to_replace_a_run(path)
    if path.exists() and not force and MARK not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise RhoTraceError(f"{path}: is there already and is no report; choose another name with -o, or --force")


@dataclass(frozen=True)
class _Together:
    """What several runs say together; None where they do not."""

    comparison: Comparison | None
    laws: Scaling | None
    why: str  # there is no comparison
    no_laws: str  # why T is not held against the start, where runs differ in it


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


# --- what stands in it -------------------------------------------------------------------------------------


def _sections(found: Sequence[Found], together: _Together, theta: float) -> Iterator[Section]:
    traces, runs = [one.trace for one in found], [one.evidence.run for one in found]
    yield Section("found", "What was found", tuple(_summary(found, together)))
    yield Section("run", "What was run", (_what_was_run(found),))
    yield Section(
        "norms",
        "Norm, equilibrium norm and loss",
        (
            _picture(
                "rho (solid) and rho_eq (dashed): the network of median T, and the band over all. T is the first step from which rho is "
                f"at least {theta:g} rho_eq for good; shaded, its 95 % interval over networks.",
                lambda path: rho_figure(traces, path, theta),
            ),
            _picture("Square loss and error on training and test set.", lambda path: loss_figure(traces, path, theta)),
        ),
    )
    for number, one in enumerate(found, 1):
        yield from _of_run(one, f"run{number}", theta)
    comparison, laws = together.comparison, together.laws
    if comparison and any(side.each for side in comparison.sides):
        drawn = _picture(
            "log(rho/rho_eq) after the transient, its spectrum and size.",
            lambda path: comparison_figure(comparison, runs, path),
        )
        title = "Fluctuation around rho_eq" + (", run against run" if len(found) > 1 else "")
        letters = [
            Block("text", f"{side.letter}: {', '.join(part for part in (one.name, side.group) if part)}")
            for one in found
            for side in comparison.sides
            if side.path == str(one.trace.path)
        ]
        yield Section(
            "fluctuation", title, (*letters, *_printed(lambda page: print_contrasts(page, comparison)), drawn)
        )
    elif together.why:
        yield Section("fluctuation", "Run against run", (Block("text", f"Not compared: {together.why}."),))
    if laws:
        drawn = _picture("T against rho_k(0).", lambda path: plots.scaling_figure(laws, path))
        yield Section("scaling", "T against the start", (*_printed(lambda page: print_laws(page, laws)), drawn))
    elif together.no_laws:
        yield Section("scaling", "T against the start", (Block("text", f"Not fitted: {together.no_laws}."),))
    yield Section("errata", "Where the memo does not agree with itself", _printed(print_errata)[1:])
    yield Section("again", "How to do it again", tuple(_reproduce(found)))


def _printed(print_on: Callable[[Page], None]) -> tuple[Block, ...]:
    page = Page()
    print_on(page)
    return tuple(page.blocks)


def _summary(found: Sequence[Found], together: _Together) -> Iterator[Block]:
    for one in found:
        name = f"{one.name}: " if len(found) > 1 else ""
        for words in pool_words(one.analysis.transient):
            yield Block("lead", name + words)
        outcomes = [claim.finding.outcome for claim in one.claims]
        yield Block(
            "text",
            f"{name}of {len(outcomes)} statements of the memo {outcomes.count('holds')} hold in this run, "
            f"{outcomes.count('fails')} fail, and {outcomes.count('not testable here')} cannot be tested on it alone.",
        )
        if not one.trace.complete:
            yield Block(
                "text", f"{name}the run is not finished ({one.analysis.summary['state']}): all of this may change."
            )
    if together.comparison and len(found) > 1:
        for verdict in verdicts(together.comparison):
            yield Block("lead", verdict)


def _what_was_run(found: Sequence[Found]) -> Block:
    grid = table("<run | <state and size | <network, optimizer, data")
    for one in found:
        first, second = headline(one.analysis.summary).split("\n")
        row(grid, one.name, first, second)
    return _printed(lambda page: page.print(grid))[0]


def _of_run(one: Found, key: str, theta: float) -> Iterator[Section]:
    claim = str(one.trace.recipe.get("claim") or "")
    about = [Block("text", line) for line in (claim, *headline(one.analysis.summary).split("\n")) if line]
    transient = _picture(
        "Equation (5) driven by the measured sums (dotted), over the measurement; below, by how much it misses.",
        lambda path: plots.transient_figure({"": (one.evidence.run.members, one.analysis.transient)}, path),
    )
    yield Section(key, f"Run {one.name}", tuple(about))
    fits = _printed(lambda page: print_findings(page, one.analysis, fits=True))
    yield Section(f"{key}-T", "Transient time, fits and audit of the steps", (transient, *fits), within=True)
    layers = _picture(
        "Norm of each layer, and how far its square moves from the mean over layers.",
        lambda path: layers_figure([one.trace], path, theta),
    )
    margins = _picture(
        "Margins over the training set; a label is met where y f = 1/rho.",
        lambda path: margins_figure([one.trace], path, theta),
    )
    yield Section(f"{key}-layers", "Layers and margins", (layers, margins), within=True)
    audited = _picture(
        "What the audit measured along the run, in the worst network, and what it tolerates.",
        lambda path: audit_figure(one.evidence, one.claims, path),
    )
    claims = _printed(lambda page: print_statements(page, one.claims, audit_cautions(one.evidence)))
    yield Section(f"{key}-claims", "The memo, statement by statement", (*claims, audited), within=True)
    origin = _printed(lambda page: page.print(provenance_table(one.trace)))
    recipe = Block("recipe", str(one.trace.attributes["recipe"]), names=(f"{one.name.replace('/', '-')}.yaml",))
    yield Section(f"{key}-origin", "Where it came from", (*origin, recipe), within=True)


def _reproduce(found: Sequence[Found]) -> Iterator[Block]:
    yield Block(
        "text",
        "The recipes stand under each run with every default spelled out; saved under the names used here, these commands "
        "make the runs and this report again. On the machine that trained them the numbers are the same to the last bit.",
    )
    names = [one.name.replace("/", "-") for one in found]
    lines = [f"rhotrace train {shlex.quote(f'{name}.yaml')} -o {shlex.quote(f'runs/{name}.h5')}" for name in names]
    lines.append(f"rhotrace report {shlex.join(f'runs/{name}.h5' for name in names)} -o report.html")
    yield Block("code", "\n".join(lines))
    grid = table("<run file | <SHA-256 | bytes")
    for path, complete in ((one.trace.path, one.trace.complete) for one in found):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if complete else "not finished"
        row(grid, str(path), digest, f"{path.stat().st_size}")
    yield from _printed(lambda page: page.print(grid))


# --- the file ----------------------------------------------------------------------------------------------


def _rendered(found: Sequence[Found], together: _Together, sections: Sequence[Section], command: str) -> str:
    results = {
        "runs": [{**plain(one.analysis), "claims": [plain(claim) for claim in one.claims]} for one in found],
        "comparison": as_plain(together.comparison) if together.comparison else None,
        "scaling": plain(together.laws),
    }
    return rendered(
        "report.html.j2",
        title=", ".join(one.name for one in found),
        sections=sections,
        made=provenance.now(),
        version=provenance.versions(),
        command=command,
        citation=paper.CITATION,
        results=to_json(results).replace("<", "\\u003c"),
    )


def _write(path: Path, text: str) -> None:
    half = path.with_name(f".{path.name}.half")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as problem:
        raise RhoTraceError(f"{path}: cannot be written ({problem.strerror or problem})") from None
    finally:
        half.unlink(missing_ok=True)
