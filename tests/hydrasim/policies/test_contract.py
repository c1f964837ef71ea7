"""What every policy of the registry keeps to, so that a new file in policies/ is tested by itself."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import random
import sys
from pathlib import Path

import pytest

import hydrasim.policies
from hydrasim import Shard, ShardUnit, TrainingJob, simulate
from hydrasim.errors import PolicyError
from hydrasim.mechanism import EFFECTS, MECHANISMS
from hydrasim.policies import Policy, load_policy, make_policy, policies
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.view import View
from hydrasim.workload import Workload
from tests.worlds import BLOCK, BYTE_A_SECOND, devices, units, workload

EVERY_POLICY = pytest.mark.parametrize("name", policies())
OPEN_TO_POLICIES = {"workload", "cluster", "view", "plan", "policies.base", "policies"}


def three_jobs() -> Workload:
    """Return three unequal jobs, fused and not, whose shards just fit 8 blocks."""
    shard = Shard(1.0, 1.0, BLOCK, BLOCK, output_bytes=BLOCK)
    return workload(
        TrainingJob("A", (shard,) * 3, 2, input_bytes=BLOCK, target_bytes=BLOCK),
        TrainingJob("B", (shard,) * 2, 1, 2, fused=False),
        TrainingJob("C", (shard,), 3),
    )


@dataclasses.dataclass(frozen=True)
class ChooseTwice(Policy):
    """Ask another policy twice under the same random state, and compare."""

    inner: Policy

    def choose(self, device: int, view: View) -> ShardUnit | None:
        state = view.rng.getstate()
        eligible, jobs = list(view.eligible(device)), [_facts(job) for job in view.jobs]
        first = self.inner.choose(device, view)
        view.rng.setstate(state)
        assert self.inner.choose(device, view) == first
        assert list(view.eligible(device)) == eligible
        assert [_facts(job) for job in view.jobs] == jobs
        return first


def _facts(job: object) -> tuple[object, ...]:
    names = ("minibatch", "num_done_units", "num_issued_units", "busy_s", "last_issue", "minibatch_left_s")
    return (*(getattr(job, name) for name in names), tuple(job.devices.items()))  # type: ignore[attr-defined]


def test_the_registry_finds_every_file_of_the_folder():
    folder = Path(hydrasim.policies.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "registry"}
    found = {policy.__module__.rpartition(".")[2] for policy in policies().values()}
    assert found == modules - {"follow_plan"}  # which needs a plan
    assert [Policy.name_of(policy) for policy in policies().values()] == list(policies())


@EVERY_POLICY
def test_a_policy_is_a_frozen_dataclass(name: str):
    policy = policies()[name]
    assert "__dataclass_fields__" in vars(policy)
    assert policy.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert make_policy(name) == policy()
    assert make_policy(name).name == name


@EVERY_POLICY
def test_a_policy_is_pure(name: str):
    simulate(three_jobs(), devices(2, 8, BYTE_A_SECOND), ChooseTwice(make_policy(name)))
    simulate(three_jobs(), devices(2, 8, BYTE_A_SECOND), ChooseTwice(make_policy(name)), effects="theory")


@EVERY_POLICY
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_policy_runs_a_workload_to_its_end(name: str, mechanism: str, effects: str, count: int):
    timeline = simulate(
        three_jobs(), devices(count, 8, BYTE_A_SECOND), name, mechanism=MECHANISMS[mechanism], effects=effects
    )  # type: ignore[arg-type]
    assert len(set(units(timeline))) == len(units(timeline)) == three_jobs().num_units


@pytest.mark.parametrize("policy", [*policies().values(), FollowPlan], ids=lambda policy: policy.__name__)
def test_a_policys_docstring_ends_with_its_source(policy: type[Policy]):
    assert policy.__doc__ is not None
    last = inspect.cleandoc(policy.__doc__).split("\n\n")[-1]
    assert last.startswith("Source: ")


@pytest.mark.parametrize("policy", [*policies().values(), FollowPlan], ids=lambda policy: policy.__name__)
def test_a_policy_imports_only_what_it_decides_by(policy: type[Policy]):
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[policy.__module__]))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            assert not node.level, "import absolutely"
        for module in names:
            package, _, rest = module.partition(".")
            another_policy = rest.removeprefix("policies.") in {
                p.__module__.rpartition(".")[2] for p in policies().values()
            }
            assert package in sys.stdlib_module_names or (
                package == "hydrasim" and (rest in OPEN_TO_POLICIES or another_policy)
            )


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(PolicyError, match=r"no policy is named 'best'; there are fifo, .*, or give file\.py:Name"):
        make_policy("best")


USER_FILE = """
from dataclasses import dataclass
from hydrasim.policies import Policy

@dataclass(frozen=True)
class Last(Policy):
    def choose(self, device, view):
        return view.eligible(device)[-1]

@dataclass(frozen=True)
class Needy(Policy):
    what: int
    def choose(self, device, view):
        return None
"""


def test_a_users_file_is_a_policy_like_any_other(tmp_path: Path):
    (tmp_path / "mine.py").write_text(USER_FILE)
    policy = f"{tmp_path}/mine.py:Last"
    timeline = simulate(three_jobs(), devices(1), policy, effects="theory")
    assert units(timeline)[0] == "C/L0#0"
    assert timeline.header["policy"] == "last"


def test_a_users_file_does_not_stand_in_for_a_module_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "random", random)  # put back whatever happens
    (tmp_path / "random.py").write_text(USER_FILE)
    load_policy(f"{tmp_path}/random.py:Last")
    assert sys.modules["random"] is random


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "Last", r"there is no Python file .*mine\.py' to take the policy 'Last' from"),
        (USER_FILE, "First", r"mine\.py has no policy 'First'; it has Last, Needy"),
        (USER_FILE, "dataclass", r"mine\.py has no policy 'dataclass'"),
        (USER_FILE, "Needy", r"mine\.py:Needy cannot be used: TypeError: .*'what'"),
        ("x = 1", "Last", r"mine\.py has no policy 'Last'; it has none"),
        ("x = ", "Last", r"mine\.py:Last cannot be used: SyntaxError"),
        ("1 / 0", "Last", r"mine\.py:Last cannot be used: ZeroDivisionError"),
    ],
)
def test_a_users_file_that_will_not_do_is_refused(tmp_path: Path, content: str | None, name: str, message: str):
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(PolicyError, match=message):
        load_policy(f"{tmp_path}/mine.py:{name}")
