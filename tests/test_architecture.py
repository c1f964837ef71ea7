"""Who may import whom, how large things may grow, and that tests mirror what they test."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("hydrasim", "executor", "experiments")
HEAVY = ("torch", "ortools", "pyarrow", "pandas", "matplotlib", "networkx", "simpy", "pydantic", "numpy")


def modules(*packages: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for package in packages for path in (ROOT / package).rglob("*.py"))


def tree(module: Path) -> ast.Module:
    return ast.parse((ROOT / module).read_text())


def imported(module: Path) -> set[str]:
    """Return the top-level packages that a module imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names.add((node.module or "").partition(".")[0])
    return names


def functions(module: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("module", modules("hydrasim"), ids=str)
def test_hydrasim_knows_nothing_of_its_users_nor_of_torch(module: Path):
    assert not imported(module) & {"executor", "experiments", "tests", "torch"}


@pytest.mark.parametrize("module", modules("executor"), ids=str)
def test_the_executor_knows_nothing_of_the_experiments(module: Path):
    assert not imported(module) & {"experiments", "tests"}


@pytest.mark.parametrize("module", modules("experiments"), ids=str)
def test_nothing_that_ships_imports_the_tests(module: Path):
    assert "tests" not in imported(module)


def loaded_by(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_hydrasim_loads_nothing_heavy():
    assert not loaded_by("import hydrasim, hydrasim.policies; hydrasim.policies.policies()") & set(HEAVY)


def test_simulating_never_loads_torch():
    statement = (
        "from hydrasim import *; "
        "simulate(Workload((TrainingJob('A', (Shard(1, 1),), 1),)), Cluster.of(1, Device(64)), 'fifo')"
    )
    assert not loaded_by(statement) & {"torch", "pandas", "matplotlib"}


@pytest.mark.parametrize("module", modules(*PACKAGES), ids=str)
def test_a_module_is_read_in_one_sitting(module: Path):
    assert len((ROOT / module).read_text().splitlines()) <= 320
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(module) if (f.end_lineno or 0) - f.lineno >= 60}
    assert not long


@pytest.mark.parametrize("module", modules(*PACKAGES), ids=str)
def test_a_module_says_in_its_first_line_what_it_is(module: Path):
    docstring = ast.get_docstring(tree(module))
    assert docstring
    assert docstring.splitlines()[0].endswith(".")


def test_the_reference_is_short_and_needs_only_torch():
    reference = Path("executor/reference.py")
    if not (ROOT / reference).exists():
        pytest.skip("executor/reference.py does not exist yet")
    assert len((ROOT / reference).read_text().splitlines()) < 68
    assert imported(reference) - {"torch"} <= sys.stdlib_module_names


@pytest.mark.parametrize("test", [path for path in modules("tests/hydrasim") if path.name.startswith("test_")], ids=str)
def test_every_test_file_mirrors_a_module(test: Path):
    mirrored = test.relative_to("tests").with_name(test.name.removeprefix("test_"))
    assert (ROOT / mirrored).exists() or test.name == "test_contract.py", f"{mirrored} does not exist"


def test_every_module_of_hydrasim_has_its_test_file():
    silent = {"__init__.py", "errors.py", "view.py", "schemas.py", "base.py", "registry.py"}  # tested through others
    for module in modules("hydrasim"):
        if module.name not in silent:
            test = ROOT / "tests" / module.with_name(f"test_{module.name}")
            assert test.exists(), f"{module} has no {test.relative_to(ROOT)}"
