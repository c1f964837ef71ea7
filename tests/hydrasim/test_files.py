"""The door: workload and cluster files, whole, malformed and hostile."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.hostile.mutations import mutate
from hydrasim import Cluster, Device, HydraError, Link, Plan, Profile, Shard, Timeline, TrainingJob
from hydrasim.disk import read_text, write_text
from hydrasim.errors import ClusterError, PlanError, ProfileError, TimelineError, WorkloadError
from hydrasim.files import cluster_fields, read_cluster, read_workload, workload_fields
from hydrasim.planning import make_plan
from tests.worlds import devices, fig6, workload

WORKLOAD = """\
version: 1
jobs:
  - name: A
    shards: [{forward_s: 1, backward_s: 2.5, parameter_bytes: 64}]
    repeat: 3
    minibatches: 2
    epochs: 4
    fused: false
    activation_mode: keep
"""
CLUSTER = """\
devices:
  - {memory_bytes: 1024, count: 2, h2d: {bytes_per_s: 8, latency_s: 0.5}}
  - {memory_bytes: 2048, speed: 2, kind: big}
"""


def write(tmp_path: Path, text: str | bytes, name: str = "it.yaml") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_workload_file(tmp_path: Path):
    job = TrainingJob("A", (Shard(1.0, 2.5, 64),) * 3, 2, 4, fused=False, activation_mode="keep")
    assert read_workload(write(tmp_path, WORKLOAD)) == workload(job)


def test_a_cluster_file(tmp_path: Path):
    small = Device(1024, h2d=Link(8.0, 0.5))
    assert read_cluster(write(tmp_path, CLUSTER)) == Cluster((small, small, Device(2048, speed=2.0, kind="big")))


@pytest.mark.parametrize("name", ["it.json", "it.yaml"])
def test_workloads_and_clusters_survive_their_files(tmp_path: Path, name: str):
    cluster = Cluster((Device(64, 2.0, Link(8.0, 0.5), Link(), "x"),))
    assert read_workload(write(tmp_path, json.dumps(workload_fields(fig6())), name)) == fig6()
    assert read_cluster(write(tmp_path, json.dumps(cluster_fields(cluster)), name)) == cluster
    assert read_cluster(write(tmp_path, json.dumps(cluster_fields(cluster)), name)).digest == cluster.digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 2", "version: Input should be 1"),
        ("name: A", "name: a b", "job name 'a b': use letters, digits"),
        ("forward_s: 1", "forward_s: -1", r"jobs\.0\.shards\.0\.forward_s: "),
        ("forward_s: 1", "forward_s: .inf", r"jobs\.0\.shards\.0\.forward_s: .*finite"),
        ("forward_s: 1", "forward_s: .nan", r"jobs\.0\.shards\.0\.forward_s: "),
        ("forward_s: 1", "forward_s: soon", r"jobs\.0\.shards\.0\.forward_s: "),
        ("forward_s: 1, ", "", r"jobs\.0\.shards\.0\.forward_s: Field required"),
        ("parameter_bytes: 64", "parameter_bytes: 1.5", r"jobs\.0\.shards\.0\.parameter_bytes: "),
        ("parameter_bytes: 64", f"parameter_bytes: {10**400}", r"jobs\.0\.shards\.0\.parameter_bytes: "),
        ("parameter_bytes: 64", "parameter_byte: 64", r"jobs\.0\.shards\.0\.parameter_byte: Extra inputs"),
        ("repeat: 3", "repeat: 1000000000000", r"jobs\.0\.repeat: "),
        ("repeat: 3", "repeat: 0", r"jobs\.0\.repeat: "),
        ("minibatches: 2", "minibatches: 0", r"jobs\.0\.minibatches: "),
        ("minibatches: 2", "minibatches: 2024-13-45", "neither YAML nor JSON"),
        ("activation_mode: keep", "activation_mode: guess", r"jobs\.0\.activation_mode: "),
        ("fused: false", "fused: perhaps", r"jobs\.0\.fused: "),
        ("jobs:", "job:", "jobs: Field required"),
        ("jobs:", "7: seven\njobs:", "7"),
    ],
)
def test_a_malformed_workload_is_refused_with_the_field(tmp_path: Path, old: str, new: str, message: str):
    assert old in WORKLOAD
    with pytest.raises(WorkloadError, match=r"it\.yaml.*" + message):
        read_workload(write(tmp_path, WORKLOAD.replace(old, new)))


def test_two_jobs_of_one_name_are_refused_with_the_file(tmp_path: Path):
    twice = WORKLOAD + WORKLOAD[WORKLOAD.index("  - name") :]
    with pytest.raises(WorkloadError, match=r"it\.yaml: two jobs are named 'A'"):
        read_workload(write(tmp_path, twice))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_bytes: 1024", "memory_bytes: 0", r"devices\.0\.memory_bytes: "),
        ("memory_bytes: 1024", "memory_bytes: 16 GiB", r"devices\.0\.memory_bytes: "),
        ("count: 2", "count: 99999999999", r"devices\.0\.count: "),
        ("speed: 2", "speed: 0", r"devices\.1\.speed: "),
        ("speed: 2", "speed: .inf", "speed is inf"),
        ("bytes_per_s: 8", "bytes_per_s: -8", r"devices\.0\.h2d\.bytes_per_s: "),
        ("bytes_per_s: 8", "bytes_per_s: .nan", r"devices\.0\.h2d\.bytes_per_s: "),
        ("latency_s: 0.5", "latency_s: -1", r"devices\.0\.h2d\.latency_s: "),
        ("kind: big", "kind: [big]", r"devices\.1\.kind: "),
        ("devices:", "version: 3\ndevices:", "version: Input should be 1"),
        (CLUSTER, "devices: []", "devices: List should have at least 1 item"),
        (CLUSTER, "", "the file: "),
    ],
)
def test_a_malformed_cluster_is_refused_with_the_field(tmp_path: Path, old: str, new: str, message: str):
    assert old in CLUSTER
    with pytest.raises(ClusterError, match=r"it\.yaml: .*" + message):
        read_cluster(write(tmp_path, CLUSTER.replace(old, new)))


@pytest.mark.parametrize("read", [read_workload, read_cluster])
def test_aliases_are_refused(tmp_path: Path, read: object):
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    with pytest.raises(HydraError, match=r"uses a YAML alias .*, which is not supported; write the value out"):
        read(write(tmp_path, bomb))  # type: ignore[operator]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"{" * 100_000,
        b"a: b: c",
        b"\t",
        b"!!python/object:os.system {}",
        b"--- 1\n--- 2\n",
        b"? [a]\n: b",
        b"x: 0b",
        b"x: " + b"9" * 5000,
        b"null",
        b"\x00",
    ],
)
@pytest.mark.parametrize("name", ["it.yaml", "it.json"])
def test_hostile_files_are_one_clear_error(tmp_path: Path, content: bytes, name: str):
    path = write(tmp_path, content, name)
    for read, error in ((read_workload, WorkloadError), (read_cluster, ClusterError)):
        with pytest.raises(error, match=r"it\.(yaml|json)"):
            read(path)


@pytest.mark.parametrize("text", [json.dumps(workload_fields(fig6())), WORKLOAD])
def test_a_truncated_workload_is_refused_or_still_a_workload(tmp_path: Path, text: str):
    path = tmp_path / "it.yaml"
    for length in range(0, len(text), 7):
        path.write_text(text[:length])
        with suppress(WorkloadError):  # anything else fails the test
            read_workload(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    field=st.sampled_from(["name", "shards", "minibatches", "epochs", "fetch_s", "input_bytes", "jobs", "version"]),
    value=VALUES,
)
def test_any_value_in_any_field_is_a_workload_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
):
    content = workload_fields(fig6())
    (content if field in content else content["jobs"][0])[field] = value
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content))
    with suppress(WorkloadError):  # anything else fails the test
        assert all(math.isfinite(job.fetch_s) for job in read_workload(path).jobs)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path):
    with pytest.raises(WorkloadError, match="cannot read .*nowhere: No such file"):
        read_text(tmp_path / "nowhere", WorkloadError)
    with pytest.raises(WorkloadError, match="cannot read .*: Is a directory"):
        read_text(tmp_path, WorkloadError)


TWICE = {
    "it.yaml": WORKLOAD.replace("minibatches: 2", "minibatches: 2\n    minibatches: 3"),
    "it.json": json.dumps(workload_fields(fig6())).replace('"version": 1', '"version": 1, "version": 1'),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_field_that_is_there_twice_is_refused(tmp_path: Path, name: str):
    # Readers keep one of them, and it once was silently the last.
    with pytest.raises(WorkloadError, match=r"it\..*(minibatches|version)' is there twice; keep one of the two"):
        read_workload(write(tmp_path, TWICE[name], name))


@pytest.mark.parametrize(
    "value", ["!!bool 7", "!!int ''", "!!timestamp x", "!!float x", "!!binary x", "!unknown x", "1:"]
)
def test_yaml_that_its_parser_fails_on_is_refused(tmp_path: Path, value: str):
    # It lets KeyError, IndexError and AttributeError through.
    with pytest.raises(WorkloadError, match=r"it\.yaml"):
        read_workload(write(tmp_path, WORKLOAD.replace("minibatches: 2", f"minibatches: {value}")))


@pytest.mark.parametrize("seconds", ["1.0e+308", "1.0e+13"])
def test_seconds_whose_sums_would_overflow_are_refused(tmp_path: Path, seconds: str):
    with pytest.raises(WorkloadError, match=r"jobs\.0\.shards\.0\.forward_s: .*less than or equal to 1000000000000"):
        read_workload(write(tmp_path, WORKLOAD.replace("forward_s: 1", f"forward_s: {seconds}")))


def test_lists_that_multiply_are_refused(tmp_path: Path):
    jobs = [
        f"  - {{name: j{i}, minibatches: 1, repeat: 65536, shards: [{{forward_s: 1, backward_s: 1}}]}}"
        for i in range(17)
    ]
    with pytest.raises(WorkloadError, match=r"it\.yaml: jobs: they have 1,114,112 shards together; at most 1,048,576"):
        read_workload(write(tmp_path, "jobs:\n" + "\n".join(jobs)))
    with pytest.raises(ClusterError, match=r"it\.yaml: devices: there are 131,072; at most 65,536"):
        read_cluster(write(tmp_path, "devices:\n" + "  - {memory_bytes: 1, count: 65536}\n" * 2))


def test_yaml_has_a_lower_limit_than_json(tmp_path: Path):
    with pytest.raises(WorkloadError, match=r"it\.yaml holds more than 4 MiB"):
        read_workload(write(tmp_path, WORKLOAD + "#" * (5 << 20)))


def test_a_thousand_jobs_are_read_at_once(tmp_path: Path):
    job = workload_fields(fig6())["jobs"][0]
    path = write(tmp_path, json.dumps({"jobs": [job | {"name": f"j{i}"} for i in range(1000)]}), "it.json")
    assert len(read_workload(path).jobs) == 1000


DEMO = Path(__file__).parents[2] / "results" / "demo"
KINDS: dict[str, tuple[Callable[[], bytes], Callable[[Path], object], type[HydraError]]] = {
    "workload.json": (lambda: json.dumps(workload_fields(fig6())).encode(), read_workload, WorkloadError),
    "workload.yaml": (WORKLOAD.encode, read_workload, WorkloadError),
    "cluster.yaml": (CLUSTER.encode, read_cluster, ClusterError),
    "profile.json": ((DEMO / "profile.json").read_bytes, Profile.read, ProfileError),
    "plan.json": (lambda: made_plan()[0].to_json().encode(), Plan.read, PlanError),
    "timeline.jsonl": (lambda: made_plan()[1].to_lines().encode(), Timeline.read, TimelineError),
}


def made_plan() -> tuple[Plan, Timeline]:
    return make_plan(fig6(), devices(2), "sharded-lrtf")


@pytest.mark.parametrize("name", KINDS)
@given(seed=st.integers(0, 1 << 32))
def test_a_spoilt_file_is_read_or_one_clear_error(tmp_path_factory: pytest.TempPathFactory, name: str, seed: int):
    good, read, error = KINDS[name]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(mutate(good(), Random(seed)))
    message = str(path)
    try:
        read(path)
    except error as reason:  # anything else fails the test
        message = str(reason)
    assert str(path) in message
    assert len(message) < 1000


@pytest.mark.parametrize("name", KINDS)
def test_a_good_file_is_read(tmp_path: Path, name: str):
    good, read, _ = KINDS[name]
    assert read(write(tmp_path, good(), name))


def test_no_pickle_lies_on_a_path_that_a_file_can_reach():
    programs = [path.read_text() for path in (DEMO.parents[1] / "hydrasim").rglob("*.py")]
    for word in ("pickle", "marshal", "shelve", "unsafe_load", "full_load", "yaml.load(", "eval("):
        assert not any(word in program for program in programs)


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path: Path):
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "two"
