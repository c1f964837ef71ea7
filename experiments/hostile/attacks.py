"""The attacks on the command line: what is drawn, how often, and on which files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import safetensors

from experiments.hostile.mutations import IMPOSTORS, mutate
from experiments.hostile.policies import BAD_POLICIES
from experiments.hostile.processes import Attack, interrupt, kill
from hydrasim import Cluster, Device, Link, Plan, Profile, Shard, Timeline, TrainingJob, Workload
from hydrasim.files import cluster_fields, profile_fields, read_profile, workload_fields
from hydrasim.planning import make_plan
from hydrasim.profile import KindProfile, Measurement
from hydrasim.workload import Phase

_HERE = Path(__file__).parent
_RUN_S = 6.0  # what the good jobs take, start of torch included, on a slow machine
WORLD = ("workload.yaml", "--cluster", "cluster.yaml")
TRAIN = ("--memory", "200KB", "--devices", "2")
OUTPUTS = {
    "out.jsonl": Timeline.read,
    "plan-out.json": Plan.read,
    "profile-out.json": Profile.read,
    "trace.json": lambda path: json.loads(path.read_text()),
    "gantt.png": lambda path: path.read_bytes().index(b"IEND"),
    "weights/A.safetensors": lambda path: safetensors.safe_open(path, "pt").keys(),
    "weights/B.safetensors": lambda path: safetensors.safe_open(path, "pt").keys(),
}
_ALLOWED_JOBS = ("negative_seed",)  # generators take it
_ALLOWED_POLICIES = ("NoneAtTimes", "Twice")  # which may choose well


def write_files(folder: Path) -> None:
    """Write one good file of every kind, and the users' Python files."""
    shards = (Shard(1.0, 2.0, 1000, 2000, 100, 500), Shard(0.5, 0.5, 3000, 0, 0, 64))
    workload = Workload(tuple(TrainingJob(name, shards, 2, 2, input_bytes=64, fetch_s=0.1) for name in "ABC"))
    cluster = Cluster.of(2, Device(8192, h2d=Link(4096.0, 0.01), d2h=Link(4096.0), kind="k"))
    plan, timeline = make_plan(workload, cluster, "resident-lrtf")
    once = Measurement(1.0, 1.0, 0.0, 3)
    units = {(job.name, phase, shard): once for job in workload.jobs for phase in map(Phase, "FLB") for shard in (0, 1)}
    kind = KindProfile(units, {"h2d": {64: once, 4096: once}, "d2h": {64: once}})
    profile = Profile(workload, {"k": kind}, {job.name: once for job in workload.jobs}, {"host": "x"}, cluster)
    for suffix in ("yaml", "json"):  # JSON is YAML
        (folder / f"workload.{suffix}").write_text(json.dumps(workload_fields(workload), indent=1))
        (folder / f"cluster.{suffix}").write_text(json.dumps(cluster_fields(cluster), indent=1))
    (folder / "workload.yaml").write_text(_yaml(workload_fields(workload)))
    (folder / "cluster.yaml").write_text(_yaml(cluster_fields(cluster)))
    plan.write(folder / "plan.json")
    timeline.write(folder / "timeline.jsonl")
    (folder / "profile.json").write_text(json.dumps(profile_fields(profile), indent=1))
    assert read_profile(folder / "profile.json") == profile
    shutil.copy(_HERE / "policies.py", folder / "bad_policies.py")
    shutil.copy(_HERE / "jobs.py", folder / "my_jobs.py")
    for name in ("out.jsonl", "plan-out.json"):
        (folder / name).write_text("what was there before\n")


def draw(kind: str, folder: Path, rng: Random) -> Attack:
    """Make a random attack of that kind, and the files that it takes."""
    return KINDS[kind][1](folder, rng)


def _yaml(fields: object) -> str:
    import yaml

    return yaml.safe_dump(json.loads(json.dumps(fields)), sort_keys=False)


def _use(name: str, rng: Random) -> tuple[str, ...]:
    """Return a command that reads a file of this kind, in the place of the good one."""
    if name.startswith("workload"):
        return rng.choice(
            (
                ("simulate", f"bad-{name}", "--cluster", "cluster.yaml", "-o", "out.jsonl"),
                ("compare", f"bad-{name}", "--cluster", "cluster.json", "--policies", "fifo"),
                ("plan", f"bad-{name}", "--devices", "2", "--memory", "64KiB", "-o", "plan-out.json"),
            )
        )
    if name.startswith("cluster"):
        return ("simulate", "workload.json", "--cluster", f"bad-{name}", "--json")
    if name.startswith("profile"):
        return rng.choice((("simulate", f"bad-{name}", "--json"), ("plan", f"bad-{name}", "-o", "plan-out.json")))
    if name.startswith("plan"):
        return ("simulate", *WORLD, "--plan", f"bad-{name}", "-o", "out.jsonl", "--gantt", "gantt.png")
    return ("explain", "A/F0#1", "--timeline", f"bad-{name}", *rng.choice(((), ("--json",))))


_FILES = (
    "workload.yaml",
    "workload.json",
    "cluster.yaml",
    "cluster.json",
    "profile.json",
    "plan.json",
    "timeline.jsonl",
)


def _mutated(folder: Path, rng: Random) -> Attack:
    name = rng.choice(_FILES)
    (folder / f"bad-{name}").write_bytes(mutate((folder / name).read_bytes(), rng))
    return Attack("mutated file", _use(name, rng), outputs=OUTPUTS)


def _impostor(folder: Path, rng: Random) -> Attack:
    name, what = rng.choice(_FILES), rng.choice(sorted(IMPOSTORS))
    IMPOSTORS[what](folder / f"bad-{name}")
    return Attack("no regular file", _use(name, rng), (2,), OUTPUTS)


_WORDS = (
    "",
    " ",
    "nope",
    "-1",
    "0",
    "nan",
    "inf",
    "1e400",
    "9" * 30,
    "\u202e",
    "\udcff",
    "$x^{$",
    "x" * 5000,
    "../..",
    "/",
    "--",
)
_OPTIONS = (
    ("simulate", *WORLD, "--policy", "?"), ("simulate", "--preset", "?"),
    ("simulate", "workload.yaml", "--devices", "?"),
    ("simulate", "workload.yaml", "--devices", "1", "--memory", "?"), ("simulate", *WORLD, "--loading-zone", "?"),
    ("simulate", "workload.yaml", "--devices", "1", "--memory", "1MB", "--link", "?"), ("simulate", "?"),
    ("simulate", "--preset", "paper-fig7", "--scale", "?"), ("simulate", "--preset", "paper-fig7", "--models", "?"),
    ("simulate", *WORLD, "--seed", "?"), ("simulate", *WORLD, "--effects", "?"),
    ("simulate", *WORLD, "--mechanism", "?"),
    ("simulate", *WORLD, "--plan", "?"), ("simulate", *WORLD, "--policy", "bad_policies.py:?"), ("?",),
    ("compare", *WORLD, "--policies", "?"), ("explain", "?", "--timeline", "timeline.jsonl"), ("plan", "?", "?"),
    ("profile", "my_jobs.py:?", "-o", "profile-out.json"), ("execute", "?"),
    ("execute", "my_jobs.py:good", "--memory", "?"),
    ("execute", "my_jobs.py:good", "--policy", "?"), ("execute", "my_jobs.py:good", "--devices", "?"),
)  # fmt: skip


def _option(folder: Path, rng: Random) -> Attack:
    word = rng.choice(_WORDS)
    return Attack("bad option", tuple(part.replace("?", word) for part in rng.choice(_OPTIONS)), outputs=OUTPUTS)


def _policy(folder: Path, rng: Random) -> Attack:
    name = rng.choice(BAD_POLICIES).__name__
    command = rng.choice(
        (("simulate", *WORLD), ("plan", *WORLD, "-o", "plan-out.json"), ("execute", "my_jobs.py:good", *TRAIN))
    )
    codes = (0, 2) if name in _ALLOWED_POLICIES else (2,)
    return Attack("bad policy", (*command, "--policy", f"bad_policies.py:{name}"), codes, OUTPUTS)


def _jobs(folder: Path, rng: Random) -> Attack:
    from experiments.hostile.jobs import BAD

    name = rng.choice(sorted(BAD))
    command = ("execute", f"my_jobs.py:bad_{name}", *TRAIN, "-o", "out.jsonl", "--json")
    return Attack("bad jobs", command, (0,) if name in _ALLOWED_JOBS else (1, 2), OUTPUTS)


_WRITERS = (
    ("simulate", *WORLD, "-o", "out.jsonl"), ("simulate", *WORLD, "--gantt", "gantt.png"),
    ("plan", *WORLD, "-o", "plan-out.json"),
    ("simulate", *WORLD, "--trace", "trace.json"),
    ("execute", "my_jobs.py:good", *TRAIN, "-o", "out.jsonl", "--weights", "weights"),
    ("profile", "my_jobs.py:good", *TRAIN, "--rounds", "1", "-o", "profile-out.json"),
)  # fmt: skip


def _full_disk(folder: Path, rng: Random) -> Attack:
    limit = rng.choice((0, 1, 100, 4096, rng.randrange(20_000), rng.randrange(1 << 21)))
    return Attack("full disk", rng.choice(_WRITERS), outputs=OUTPUTS, max_file_bytes=limit, stdout="/dev/null")


def _unwritable(folder: Path, rng: Random) -> Attack:
    *command, name = rng.choice(_WRITERS[:4])
    where = rng.choice(
        ("/proc/x", "/dev/full", "there", "plan.json/x", "x" * 300 + Path(name).suffix, "missing/x", "loop")
    )
    (folder / "there").mkdir()
    (folder / "loop").symlink_to("loop")
    if rng.random() < 0.3:
        return Attack("unwritable output", (*command, name), outputs=OUTPUTS, stdout="/dev/full")
    return Attack("unwritable output", (*command, where), (2,), OUTPUTS)


def _busy(rng: Random) -> tuple[str, ...]:
    jobs = f"my_jobs.py:{rng.choice(('good', 'good', 'workers'))}"
    return rng.choice((("execute", jobs, *TRAIN, "-o", "out.jsonl", "--weights", "weights"),
                       ("profile", jobs, *TRAIN, "-o", "profile-out.json")))  # fmt: skip


def _interrupted(folder: Path, rng: Random) -> Attack:
    command, most_s = (_busy(rng), _RUN_S) if rng.random() < 0.7 else (rng.choice(_WRITERS[:4]), 1.0)
    return Attack("Ctrl-C", command, (0, 130), OUTPUTS, interrupt(0.05, most_s))


def _killed(victim: str) -> Callable[[Path, Random], Attack]:
    codes = (-9, 0) if victim == "parent" else (0, 2)
    return lambda folder, rng: Attack(f"{victim} killed", _busy(rng), codes, OUTPUTS, kill(victim, 3.0))


# How many of a hundred, and what makes one.
KINDS: dict[str, tuple[int, Callable[[Path, Random], Attack]]] = {
    "mutated file": (40, _mutated),
    "no regular file": (8, _impostor),
    "bad option": (12, _option),
    "bad policy": (6, _policy),
    "bad jobs": (8, _jobs),
    "full disk": (6, _full_disk),
    "unwritable output": (3, _unwritable),
    "Ctrl-C": (8, _interrupted),
    "worker killed": (3, _killed("executor.worker")),
    "loader killed": (3, _killed("executor.loader")),
    "parent killed": (3, _killed("parent")),
}
