"""What the emulated figures share: plans executed on emulated devices, each beside its simulation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from experiments.paper.drawing import COLOURS, new_figure
from hydrasim.mechanism import OURS, Mechanism
from hydrasim.planning import make_plan

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from executor import DevicePool, Prepared, TorchJob
    from executor.devices import Device
    from hydrasim.plan import Plan
    from hydrasim.profile import Profile
    from hydrasim.timeline import Timeline

SHARP = "sharded-lrtf"
MIB = 1 << 20
# A block's 3 and 9 MB take about the 15 and 37 ms of its forward and backward (results/validation/gpt5-half-slow-link).
SLOW_LINK_BYTES_PER_S = 200.0 * MIB
NOTE = (
    "Small models, trained for real by processes that emulate devices: the paper's question, not its size. Simulated "
    "seconds follow from the profile measured just before, so no column is the same on every run."
)
_REPEATS = 3  # of every plan
_PROFILE, _SMOKE_PROFILE = {"rounds": 3, "minibatches": 3}, {"rounds": 1, "minibatches": 2}
_NAMES = "ABCDEFGH"
_STATE_FRACTION = 0.5  # of one model's state, in a device's arena

Key = tuple[Hashable, ...]


@dataclass(frozen=True)
class Variant:
    """What a row is executed with: jobs cut for their devices, a policy and a mechanism."""

    prepared: Prepared
    policy: str = SHARP
    mechanism: Mechanism = OURS

    def plan(self, profile: Profile) -> tuple[Plan, Timeline]:
        """Return the plan and its simulation at the profile's costs, which may be from other devices of their kind."""
        assert profile.cluster is not None  # the profiler says what it measured on
        cluster = replace(self.prepared.cluster, core_copy_bytes_per_s=profile.cluster.core_copy_bytes_per_s)
        costs = profile.costs(cluster)
        return make_plan(self.prepared.workload, cluster, self.policy, costs=costs, mechanism=self.mechanism)

    def execute(self, plan: Plan, pool: DevicePool) -> float:
        """Follow the plan for real; return the makespan in seconds. Weights stay as they are."""
        from executor import train

        return train(
            self.prepared, plan=plan, mechanism=self.mechanism, pool=pool, update_models=False, strict=True
        ).makespan_s


def transformers(num_jobs: int, *, width: int = 256, depth: int = 6, minibatches: int = 4) -> list[TorchJob]:
    """Return equal byte-level GPTs, each with its own seed."""
    from experiments.workloads import GptSpec, gpt_jobs

    specs = [GptSpec(name, width, depth, width // 32, minibatches, 1, 1e-3) for name in _NAMES[:num_jobs]]
    return gpt_jobs(tuple(specs))


def small_transformers(num_jobs: int) -> list[TorchJob]:
    """Return what is trained under --smoke."""
    return transformers(num_jobs, width=64, depth=6, minibatches=2)


def on_two_devices(jobs: Sequence[TorchJob], link_bytes_per_s: float | None = None) -> Prepared:
    """Cut jobs for two devices that each hold half of one model's state; without a link speed copies are memory's."""
    from executor import CpuDevice
    from experiments.suite import prepare_within_budget

    return prepare_within_budget(
        jobs, lambda memory_bytes: [CpuDevice(memory_bytes, link_bytes_per_s)] * 2, _STATE_FRACTION
    )


def execute(
    variants: Mapping[Key, Variant], keys: Sequence[str], *, repeats: int = _REPEATS, smoke: bool = False
) -> pd.DataFrame:
    """Profile, plan and simulate all variants, then execute their plans in turn; return a row a variant.

    measured_s: the median of the repeats. spread_fraction: how far the worst of them is from it. error_fraction: how
    far the simulated makespan is. keys: what the parts of a variant's key are called. repeats: of every plan. smoke: a
    single one, and a short profile.
    """
    import pandas as pd

    from executor import DevicePool
    from executor.profiler import host_provenance

    measured: dict[Key, list[float]] = {key: [] for key in variants}
    with ExitStack() as stack:
        all_devices = {variant.prepared.devices for variant in variants.values()}
        pools = {devices: stack.enter_context(DevicePool(devices)) for devices in all_devices}
        profiles = _profiles(variants, pools, **(_SMOKE_PROFILE if smoke else _PROFILE))
        planned = {key: variant.plan(profiles[id(variant.prepared.partitions)]) for key, variant in variants.items()}
        for _ in range(1 if smoke else repeats):
            for key, variant in variants.items():
                measured[key].append(variant.execute(planned[key][0], pools[variant.prepared.devices]))
    host = host_provenance()
    rows = [
        dict(zip(keys, key, strict=True))
        | {"policy": variants[key].policy, "label": "emulated", "costs": "profiled"}
        | _fields(planned[key][1].makespan_s, seconds)
        | {"host": f"{host['num_cores']} cores, {host['cpu']}"}
        for key, seconds in measured.items()
    ]
    return pd.DataFrame(rows)


def with_ratios(frame: pd.DataFrame, ratio: Callable[[pd.Series[float]], pd.Series[float]]) -> pd.DataFrame:
    """Add the ratio that the figure is about, of simulated and of measured makespans, and how far the former is off."""
    simulated, measured = ratio(frame["simulated_s"]), ratio(frame["measured_s"])
    return frame.assign(ratio=simulated, measured_ratio=measured, ratio_error_fraction=simulated / measured - 1)


def beside(frame: pd.DataFrame, names: Sequence[str], ratio_label: str, label: str = "") -> Figure:
    """Draw makespans and ratios, simulated beside measured; whiskers reach from the fastest to the slowest repeat.

    names: of the rows, on the x axis, which `label` names.
    """
    figure = new_figure(1, 2, width=11.0, height=3.8)
    left, right = figure.axes
    whiskers = [frame["measured_s"] - frame["min_s"], frame["max_s"] - frame["measured_s"]]
    _pairs(left, names, frame["simulated_s"], frame["measured_s"], whiskers)
    _pairs(right, names, frame["ratio"], frame["measured_ratio"])
    left.set_ylabel("makespan, s")
    right.set_ylabel(ratio_label)
    for axes in (left, right):
        axes.set_xlabel(label)
    handles, texts = left.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _profiles(
    variants: Mapping[Key, Variant], pools: Mapping[tuple[Device, ...], DevicePool], **length: int
) -> dict[int, Profile]:
    """Measure every set of shards once, on the devices of the first variant that has them."""
    from executor.profiler import profile

    found: dict[int, Profile] = {}
    for prepared in (variant.prepared for variant in variants.values()):
        if id(prepared.partitions) not in found:
            found[id(prepared.partitions)] = profile(prepared, pool=pools[prepared.devices], **length)
    return found


def _fields(simulated_s: float, seconds: Sequence[float]) -> dict[str, float]:
    measured_s = median(seconds)
    return {
        "simulated_s": simulated_s,
        "measured_s": measured_s,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "num_repeats": len(seconds),
        "spread_fraction": max(abs(second / measured_s - 1) for second in seconds),
        "error_fraction": simulated_s / measured_s - 1,
    }


def _pairs(
    axes: Axes,
    names: Sequence[str],
    simulated: pd.Series[float],
    measured: pd.Series[float],
    whiskers: list[pd.Series[float]] | None = None,
) -> None:
    width = 0.4
    places = range(len(names))
    for offset, values, text, colour, error in (
        (-width / 2, simulated, "simulated, from the profile", COLOURS["ours"], None),
        (width / 2, measured, "measured on emulated devices", COLOURS["measured"], whiskers),
    ):
        bars = axes.bar([place + offset for place in places], values, width, yerr=error, capsize=3, label=text,
                        color=colour)  # fmt: skip
        axes.bar_label(bars, [f"{value:.3g}" for value in values], fontsize=7, padding=2)
    axes.set_xticks(places, names, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.12)
