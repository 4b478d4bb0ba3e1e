"""The house rules that a reader relies on, held by reading the code itself."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

import rhotrace
from rhotrace import memo
from rhotrace.quantities import QUANTITIES
from rhotrace.report_runs import quantities_markdown

PACKAGE = Path(rhotrace.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.glob("*.py"))

LAYERS = [
    {"errors", "memo", "provenance", "stop", "lock", "strict_yaml"},
    {
        "data",
        "networks",
        "distributed",
        "optimizers",
        "quantities",
        "theory",
        "intervals",
        "autocorrelation",
        "envelope",
        "fluctuation",
        "noise_scale",
        "linearised",
        "closed_form",
        "transient",
        "audit",
    },
    {
        "recipe",
        "hdf5_files",
        "trace_layout",
        "trace_checks",
        "trace",
        "labelled",
        "trace_writer",
        "sealing",
        "sweep_plan",
        "sweep_index",
        "shipped",
    },
    {
        "recorder",
        "continuation",
        "train",
        "analyze",
        "prediction",
        "bands",
        "watch",
        "run_fluctuation",
        "comparison",
        "verdict",
        "verify",
        "repair",
        "simulate",
        "scaling",
        "endpoint",
        "memory",
        "engines",
        "sweep",
        "sweep_result",
        "export",
        "export_loggers",
        "export_wandb",
        "claims",
    },
    {
        "report",
        "report_analysis",
        "report_claims",
        "report_compare",
        "report_runs",
        "report_scaling",
        "report_simulate",
        "plot_style",
        "plots",
        "plots_compare",
        "plots_audit",
        "plots_run",
        "plot_kinds",
        "pages",
        "html_report",
        "watch_view",
        "watch_web",
        "report_sweep",
        "plots_sweep",
        "sweep_command",
        "progress",
    },
    {
        "cli",
        "cli_export",
        "cli_options",
        "cli_plot",
        "cli_recipe",
        "cli_report",
        "cli_simulate",
        "cli_sweep",
        "cli_watch",
        "__main__",
        "__init__",
    },
]
LAYER = {name: number for number, layer in enumerate(LAYERS) for name in layer}
HEAVY = {"torch", "torchvision", "matplotlib", "ray", "tensorboard", "wandb"}


def imports(tree: ast.AST) -> list[tuple[str, ast.stmt]]:
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "rhotrace":
            found += [(f"rhotrace.{alias.name}", node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, node))
    return found


def type_checking_only(tree: ast.Module) -> set[ast.stmt]:
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
        if isinstance(inner, ast.stmt)
    }


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_imports_go_one_way(file):
    for name, _ in imports(ast.parse(file.read_text())):
        parts = name.split(".")
        if parts[0] == "rhotrace" and len(parts) > 1:
            assert LAYER[parts[1]] <= LAYER[file.stem], f"{file.stem} imports {parts[1]} from a layer above it"


def test_no_two_modules_import_each_other():
    graph = {
        f.stem: {n.split(".")[1] for n, _ in imports(ast.parse(f.read_text())) if n.startswith("rhotrace.")}
        for f in FILES
    }
    seen: set[str] = set()
    done: set[str] = set()

    def visit(name: str) -> None:
        assert name not in seen - done, f"a circle of imports through {name}"
        if name in done:
            return
        seen.add(name)
        for below in graph[name]:
            visit(below)
        done.add(name)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_heavy_packages_are_imported_inside_functions(file):
    tree = ast.parse(file.read_text())
    top_level = set(tree.body) - type_checking_only(tree)
    for name, node in imports(tree):
        assert not (node in top_level and name.split(".")[0] in HEAVY), f"{file.stem} imports {name} at its top"


def test_only_the_trace_modules_know_hdf5_and_only_the_cli_knows_typer():
    users = {
        p: {f.stem for f in FILES if any(n.split(".")[0] == p for n, _ in imports(ast.parse(f.read_text())))}
        for p in ("h5py", "typer", "yaml")
    }
    assert users == {
        "h5py": {"hdf5_files", "trace_checks", "trace", "trace_writer", "sealing"},
        "typer": {
            "cli",
            "cli_export",
            "cli_options",
            "cli_plot",
            "cli_recipe",
            "cli_report",
            "cli_simulate",
            "cli_sweep",
            "cli_watch",
        },
        "yaml": {"strict_yaml"},
    }


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_files_and_functions_stay_small(file):
    text = file.read_text()
    assert text.count("\n") <= 420, "a file past about 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 62, f"{node.name} is past about 60 lines"


def test_every_citation_exists_and_every_quantity_has_a_unique_row():
    names = [q.name for q in QUANTITIES]
    assert len(set(names)) == len(names)
    for quantity in QUANTITIES:
        assert quantity.equation is None or quantity.equation in memo.STATEMENTS
        assert (quantity.measure is None) != (quantity.derive is None)
    keys = {m for f in FILES if f.stem != "memo" for m in re.findall(r'cite\(["\'](\w+)["\']\)', f.read_text())}
    assert keys <= set(memo.STATEMENTS)


def test_result_types_are_frozen():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                decorators = [ast.unparse(d) for d in node.decorator_list]
                assert all("frozen=True" in d for d in decorators if d.startswith("dataclass")), node.name
    assert dataclasses.is_dataclass(QUANTITIES[0])


def test_the_readme_has_the_quantities_table_of_the_code():
    assert quantities_markdown() in (ROOT / "README.md").read_text()


def test_numbered_equations_stay_out_of_identifiers():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node, "name", "") or getattr(node, "id", "") or ""
            assert not re.fullmatch(r".*(eq|equation)_?\d+.*", str(name)), name
