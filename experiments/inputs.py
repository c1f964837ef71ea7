"""From what was typed to what is to be simulated: workload, cluster, costs and effects."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from experiments.options import one_of
from hydrasim.cluster import GIB, Cluster, Device
from hydrasim.disk import read_text
from hydrasim.errors import ClusterError, HydraError, WorkloadError
from hydrasim.files import read_cluster, read_workload
from hydrasim.machines import MACHINES
from hydrasim.mechanism import DEFAULT_EFFECTS, EFFECTS, MECHANISMS, Effects, Mechanism
from hydrasim.presets import PRESETS, Preset, make_preset
from hydrasim.profile import CostModel, Profile, StatedCosts
from hydrasim.schemas import MAX_COPIES
from hydrasim.workload import Workload

_FACTORS = {"": 1} | {
    unit + i: base**power for i, base in (("", 1000), ("i", 1024)) for power, unit in enumerate("kmgt", 1)
}
_QUANTITY = re.compile(r"([0-9.]+)\s*([kmgt]i?|)b?", re.IGNORECASE)

EVERY_RUNG = "all"  # of the ladder of effects, one after the other
MAX_WORKERS = 64  # each emulated device is a process with torch in it

Result = TypeVar("Result")


@dataclass(frozen=True)
class Inputs:
    """A world to run in. profile_digest: names the measured costs; empty when costs are stated."""

    workload: Workload
    cluster: Cluster
    costs: CostModel
    effects: Effects
    mechanism: Mechanism
    seed: int
    profile_digest: str = ""


WorkloadFile = Annotated[
    Path | None,
    typer.Argument(metavar="WORKLOAD", help="A workload (.yaml, .json), a profile (.json), or file.py:function."),
]
PresetName = Annotated[
    str | None, typer.Option(help=f"A ready-made world instead of WORKLOAD: {', '.join(PRESETS)}.", metavar="NAME")
]
Models = Annotated[
    int | None, typer.Option(min=1, max=MAX_COPIES, help="How many models; goes with --preset paper-fig7.")
]
Kind = Annotated[str | None, typer.Option(help="homogeneous or heterogeneous; goes with --preset paper-fig7.")]
Scale = Annotated[float | None, typer.Option(help="Share of the unit counts kept; goes with --preset paper-fig7.")]
ClusterFile = Annotated[Path | None, typer.Option("--cluster", metavar="FILE", help="A cluster (.yaml, .json).")]
MachineName = Annotated[
    str | None,
    typer.Option("--machine", callback=one_of("machines", MACHINES), help=f"A real one: {', '.join(MACHINES)}."),
]
Devices = Annotated[
    int | None, typer.Option(min=1, max=MAX_COPIES, help="How many equal devices, or how many of --machine.")
]
Memory = Annotated[str | None, typer.Option(metavar="SIZE", help="Memory of each device, such as 2GiB.")]
LinkRate = Annotated[
    str | None,
    typer.Option("--link", metavar="RATE", help="Copy speed of each device, such as 12GB/s; else copies take no time."),
]
EffectsName = Annotated[
    str | None,
    typer.Option(
        "--effects",
        callback=one_of("effects", (*EFFECTS, EVERY_RUNG)),
        help=f"What is simulated, each with those before it: {', '.join(EFFECTS)}; {EVERY_RUNG} for compare.",
    ),
]
MechanismName = Annotated[
    str,
    typer.Option("--mechanism", callback=one_of("mechanisms", MECHANISMS), help=f"{', '.join(MECHANISMS)}."),
]
Prefetch = Annotated[bool | None, typer.Option("--prefetch/--no-prefetch", help="Load the next unit meanwhile.")]
LoadingZone = Annotated[
    float | None, typer.Option(metavar="FRACTION", help="Share of device memory kept for prefetched bytes.")
]
Seed = Annotated[int, typer.Option(help="Of random presets and random policies.")]


def read_inputs(
    workload: WorkloadFile = None,
    preset: PresetName = None,
    models: Models = None,
    devices: Devices = None,
    kind: Kind = None,
    scale: Scale = None,
    cluster: ClusterFile = None,
    machine: MachineName = None,
    memory: Memory = None,
    link: LinkRate = None,
    effects: EffectsName = None,
    mechanism: MechanismName = "ours",
    prefetch: Prefetch = None,
    loading_zone: LoadingZone = None,
    seed: Seed = 0,
) -> Inputs:
    """Read and check what the command line names; the parameters are the options of the same names.

    Raises:
        HydraError: options contradict each other, or a file is wrong; the message says what to do.
    """
    if (workload is None) == (preset is None):
        raise WorkloadError(f"name either a WORKLOAD file or a --preset; the presets are {', '.join(PRESETS)}.")
    switches = _mechanism(mechanism, prefetch, loading_zone)
    if preset is not None:
        elsewhere = cluster is not None or machine is not None
        options = {"--models": models, "--devices": None if elsewhere else devices, "--kind": kind, "--scale": scale}
        world = _preset(preset, options, seed)
        if elsewhere or memory is not None or link is not None:
            left_over = devices if elsewhere else None
            world = replace(world, cluster=_cluster(cluster, machine, left_over, memory, link, base=world.cluster))
        costs = StatedCosts(world.workload, world.cluster, pinned=switches.pinned)
        return Inputs(world.workload, world.cluster, costs, _effects(effects) or world.effects, switches, seed)
    assert workload is not None
    if ".py:" in str(workload):
        chosen = _effects(effects) or DEFAULT_EFFECTS
        return _from_jobs(str(workload), cluster or machine, devices, memory, link, chosen, switches, seed)
    for option, value in (("--models", models), ("--kind", kind), ("--scale", scale)):
        if value is not None:
            raise WorkloadError(f"{option} goes with --preset; {workload} says itself what it holds.")
    ladder = _effects(effects) or DEFAULT_EFFECTS
    theory = ladder == "theory"
    if _is_profile(workload):
        profile = Profile.read(workload)
        if link is not None:
            raise ClusterError("--link does not go with a profile, which brings its measured copy times; leave it out.")
        where = _cluster(
            cluster, machine, devices, memory, None, base=profile.cluster, kinds=tuple(profile.kinds), theory=theory
        )
        return Inputs(profile.workload, where, profile.costs(where), ladder, switches, seed, profile.digest)
    jobs = read_workload(workload)
    where = _cluster(cluster, machine, devices, memory, link, theory=theory)
    return Inputs(jobs, where, StatedCosts(jobs, where, pinned=switches.pinned), ladder, switches, seed)


def takes_inputs(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command the options of `read_inputs`; what they come to reaches it as its `inputs`.

    With `--effects all` a command that has a parameter `every_rung` gets it as true, and others refuse.
    """
    shared = inspect.signature(read_inputs, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @wraps(command)
    def wrapped(**values: Any) -> Result:
        every_rung = values["effects"] == EVERY_RUNG
        if every_rung and "every_rung" not in own:
            raise HydraError(f"--effects {EVERY_RUNG} goes with compare; name one of {', '.join(EFFECTS)}.")
        inputs = read_inputs(**{name: values.pop(name) for name in shared})
        return command(inputs=inputs, **values, **({"every_rung": every_rung} if "every_rung" in own else {}))

    merged = [*shared.values(), *(value for name, value in own.items() if name not in ("inputs", "every_rung"))]
    merged = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in merged]
    wrapped.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]  # typer reads it
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
    return wrapped


def parse_bytes(text: str) -> int:
    """Read a size: `2GiB` is 2**31 bytes, `2GB` or `2G` 2 * 10**9, `2` is 2 bytes.

    Raises:
        HydraError: it is not a size.
    """
    match = _QUANTITY.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        return int(float(match[1]) * _FACTORS[match[2].lower()])
    except (ValueError, KeyError, OverflowError):
        raise HydraError(f"{text!r} is not a size; write a number and a unit, such as 2GiB or 500MB.") from None


def parse_rate(text: str) -> int:
    """Read a rate in bytes per second, such as `12GB/s`.

    Raises:
        HydraError: it is not a rate.
    """
    size, slash, per = text.strip().rpartition("/")
    if not slash or per != "s":
        raise HydraError(f"{text!r} is not a rate; write a size per second, such as 12GB/s.")
    return parse_bytes(size)


def _from_jobs(
    location: str,
    elsewhere: Path | str | None,
    devices: int | None,
    memory: str | None,
    link: str | None,
    effects: Effects,
    mechanism: Mechanism,
    seed: int,
) -> Inputs:
    """Cut real jobs for emulated devices; their costs are the pilot's, rough until they are profiled."""
    from experiments.jobs import prepare_jobs

    if elsewhere is not None or devices is None or memory is None:
        raise ClusterError("real jobs are cut for emulated devices: say --devices N --memory SIZE, and no other place.")
    if devices > MAX_WORKERS:
        raise ClusterError(f"real jobs are cut for up to {MAX_WORKERS} devices, not {devices}.")
    prepared = prepare_jobs(location, "cpu", devices, memory, link, mechanism)
    costs = StatedCosts(prepared.workload, prepared.cluster, pinned=mechanism.pinned)
    return Inputs(prepared.workload, prepared.cluster, costs, effects, mechanism, seed)


def _preset(name: str, options: dict[str, int | float | str | None], seed: int) -> Preset:
    """Make a preset from the options that it knows, each named after its parameter but --scale."""
    known = inspect.signature(PRESETS[name]).parameters if name in PRESETS else {}
    parameters: dict[str, object] = {"seed": seed} if "seed" in known else {}
    for option, value in options.items():
        parameter = "units_scale" if option == "--scale" else option[2:]
        if value is not None and name in PRESETS and parameter not in known:
            raise WorkloadError(f"{option} does not go with --preset {name}, which is always the same.")
        parameters[parameter] = value
    return make_preset(name, **parameters)


def _cluster(
    file: Path | None,
    machine: str | None,
    devices: int | None,
    memory: str | None,
    link: str | None,
    *,
    base: Cluster | None = None,
    kinds: tuple[str, ...] = ("simulated",),
    theory: bool = False,
) -> Cluster:
    """Read the cluster from its file, or take a machine's or the base, or make one; memory and link change it."""
    if file is not None:
        for option, value in (("--machine", machine), ("--devices", devices), ("--memory", memory), ("--link", link)):
            if value is not None:
                raise ClusterError(f"{option} does not go with --cluster; {file} says it itself.")
        return read_cluster(file)
    if machine is not None:
        base = MACHINES[machine].first(devices)
    elif devices is not None:
        base = _so_many(devices, base, memory, kinds, theory)
    if base is None:
        raise ClusterError("say where to train: --cluster FILE, --machine NAME, or --devices N --memory SIZE.")
    changes: dict[str, Any] = {}
    if memory is not None:
        changes["memory_bytes"] = parse_bytes(memory)
    if link is not None:
        changes |= {"bytes_per_s": parse_rate(link), "pageable_bytes_per_s": None}
    return replace(base, devices=tuple(_changed(device, changes) for device in base.devices))


def _changed(device: Device, changes: dict[str, Any]) -> Device:
    """Return a device of other memory or links; what else is known of them stays."""
    own = {name: value for name, value in changes.items() if name == "memory_bytes"}
    of_links = {name: value for name, value in changes.items() if name not in own}
    return replace(device, h2d=replace(device.h2d, **of_links), d2h=replace(device.d2h, **of_links), **own)


def _so_many(devices: int, base: Cluster | None, memory: str | None, kinds: tuple[str, ...], theory: bool) -> Cluster:
    """Return the first devices of the base, or more of them if they are equal, or ones that are like nothing else."""
    if base is not None and devices <= len(base.devices):
        return replace(base, devices=base.devices[:devices])
    if base is not None and len(set(base.devices)) == 1:
        return replace(base, devices=base.devices[:1] * devices)
    if memory is None and not theory:
        raise ClusterError("say how much memory each device has, such as --memory 2GiB.")
    if len(kinds) != 1:
        raise ClusterError(f"the profile has the kinds {', '.join(kinds)}; say in a --cluster file which is where.")
    return Cluster((Device(GIB, kind=kinds[0]),) * devices)


def _mechanism(name: str, prefetch: bool | None, loading_zone: float | None) -> Mechanism:
    mechanism = MECHANISMS[name]
    if prefetch is not None:
        mechanism = replace(mechanism, prefetch=prefetch)
    return mechanism if loading_zone is None else replace(mechanism, loading_zone_fraction=loading_zone)


def _effects(name: str | None) -> Effects | None:
    return next((effects for effects in EFFECTS if effects == name), None)


def _is_profile(path: Path) -> bool:
    """Tell a profile from a workload, both JSON, by the measurements by kind of device."""
    if path.suffix != ".json":
        return False
    try:
        fields = json.loads(read_text(path, WorkloadError))
    except (json.JSONDecodeError, RecursionError):
        return False  # the workload's reader says what is wrong
    return isinstance(fields, dict) and "kinds" in fields
