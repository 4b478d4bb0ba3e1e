"""The house rules that a reader relies on, checked by reading the code itself."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

import rhotrace
from rhotrace.display.pages.quantities import quantities_markdown
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.theory import paper

PACKAGE = Path(rhotrace.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


HEAVY = {"torch", "llvmlite", "torchvision", "matplotlib", "ray", "tensorboard", "wandb"}


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


def test_imports_go_one_way_and_in_no_circle(monkeypatch, capsys):
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)  # the contracts are in pyproject.toml
    assert lint_imports() == 0, capsys.readouterr().out


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_inside_functions(file):
    tree = ast.parse(file.read_text())
    top_level = set(tree.body) - type_checking_only(tree)
    for name, node in imports(tree):
        assert not (node in top_level and name.split(".")[0] in HEAVY), f"{file.stem} imports {name} at its top"


def test_only_the_trace_modules_know_hdf5_and_only_the_cli_knows_typer():
    users = {
        p: {
            str(f.relative_to(PACKAGE))
            for f in FILES
            if any(n.split(".")[0] == p for n, _ in imports(ast.parse(f.read_text())))
        }
        for p in ("h5py", "typer", "yaml")
    }
    files = ("chunks", "hdf5_io", "untrusted", "reader", "writer", "sealing")
    assert users["h5py"] <= {f"runfile/{name}.py" for name in files}
    assert all(user.startswith("cli/") for user in users["typer"])
    assert users["yaml"] == {"config/strict_yaml.py"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(file):
    text = file.read_text()
    assert text.count("\n") <= 500, "a file past about 500 lines: is it one idea?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 62, f"{node.name} is past about 60 lines"


def test_every_citation_exists_and_every_quantity_is_measured_or_derived():
    for quantity in QUANTITIES.values():
        assert quantity.equation is None or quantity.equation in paper.STATEMENTS
        assert (quantity.measure is None) != (quantity.derive is None)
    keys = {m for f in FILES if f.stem != "memo" for m in re.findall(r'cite\(["\'](\w+)["\']\)', f.read_text())}
    assert keys <= set(paper.STATEMENTS)


def test_result_types_are_frozen():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                decorators = [ast.unparse(d) for d in node.decorator_list]
                assert all("frozen=True" in d for d in decorators if d.startswith("dataclass")), node.name
    assert dataclasses.is_dataclass(QUANTITIES["rho_k"])


def test_the_page_of_the_run_file_has_the_quantities_table_of_the_code():
    assert quantities_markdown() in (ROOT / "docs" / "run-file.md").read_text(encoding="utf-8")


def test_numbered_equations_stay_out_of_identifiers():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node, "name", "") or getattr(node, "id", "") or ""
            assert not re.fullmatch(r".*(eq|equation)_?\d+.*", str(name)), name


# --- the tests themselves ------------------------------------------------------------------------------------


NOT_YET_PUBLIC = {"_ROWS"}  # to become parameters


def test_a_test_file_is_named_after_what_it_tests():
    """``tests/<package>/test_<module>.py``, or ``test_<module>_<aspect>.py`` where a module has several."""
    for file in TESTS:
        package = PACKAGE / file.relative_to(ROOT / "tests").parent
        if file.name.startswith("test_") and package != PACKAGE and package.is_dir():
            names = [path.stem for path in package.rglob("*")]
            aspect = file.stem.removeprefix("test_")
            assert any(aspect == name or aspect.startswith(f"{name}_") for name in names), file


def test_no_verdict_of_a_test_depends_on_a_clock():
    """``time.monotonic`` bounds how long a test waits; it measures nothing."""
    clocks = {"perf_counter", "perf_counter_ns", "process_time", "process_time_ns", "thread_time", "time", "time_ns"}
    for file in TESTS:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time":
                assert node.attr not in clocks, f"{file.name}:{node.lineno} reads time.{node.attr}"


def replaced(tree: ast.AST) -> list[tuple[str, int]]:
    """What a test file puts something else in the place of: (dotted name, line)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr") and node.args:
            first, *more = node.args
            whole = isinstance(first, ast.Constant)
            words = (
                [first.value] if whole else [ast.unparse(first), *(ast.unparse(name).strip("'") for name in more[:1])]
            )
            found.append((".".join(map(str, words)), node.lineno))
        if isinstance(node, ast.Assign):
            found += [(ast.unparse(to), node.lineno) for to in node.targets if isinstance(to, ast.Attribute)]
    return [(name, line) for name, line in found if not name.startswith("self.")]


def test_private_names_are_replaced_in_one_support_module_alone():
    for file in TESTS:
        for name, line in replaced(ast.parse(file.read_text())):
            private = re.search(r"(^|\.)_(?!_)", name) and name.rpartition(".")[2] not in NOT_YET_PUBLIC
            assert not private or file.name == "inside.py", f"{file.name}:{line} replaces {name}; see support/inside.py"
