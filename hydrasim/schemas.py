"""What the fields of every file may hold; `hydrasim.files` reads files through these models."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from hydrasim.profile import MAX_SECONDS, CostLabel
from hydrasim.workload import ActivationMode, HostUpdates, ShardUnit

MAX_COPIES = 1 << 16  # of a list of shards or of a device: more is a slip, and would fill the memory
MAX_SHARDS = 1 << 20  # of all jobs together

Seconds = Annotated[FiniteFloat, Field(ge=0, le=MAX_SECONDS)]
Quantity = Annotated[FiniteFloat, Field(ge=0)]
Whole = Annotated[int, Field(ge=0, lt=1 << 63)]  # beyond it, sums of seconds and bytes overflow
Count = Annotated[int, Field(ge=1, lt=1 << 63)]
Rate = Annotated[float, Field(gt=0)]


def _check_unit(text: str) -> str:
    ShardUnit.parse(text)
    return text


UnitText = Annotated[str, AfterValidator(_check_unit)]


class Strict(BaseModel):
    """Has no fields but those that it names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardFile(Strict):
    """A shard as a file states it; see `hydrasim.workload.Shard` for the meaning of each field."""

    forward_s: Seconds
    backward_s: Seconds
    parameter_bytes: Whole = 0
    optimizer_bytes: Whole = 0
    output_bytes: Whole = 0
    working_bytes: Whole = 0
    activation_bytes: Whole = 0
    update_s: Seconds = 0.0
    gradient_bytes: Whole = 0
    forward_updates: bool = False
    evaluate_s: Seconds = 0.0


class JobFile(Strict):
    """A job as a file states it; `repeat` writes its shard list that many times over."""

    name: str
    shards: list[ShardFile] = Field(min_length=1)
    repeat: Annotated[Count, Field(le=MAX_COPIES)] = 1
    minibatches: Count
    epochs: Count = 1
    fused: bool = True
    activation_mode: ActivationMode = "recompute"
    input_bytes: Whole = 0
    target_bytes: Whole = 0
    fetch_s: Seconds = 0.0
    arrival_s: Seconds = 0.0
    update_units: bool = False
    host_updates: HostUpdates = "no"
    accumulate: Count = 1
    tied_shards: tuple[Whole, ...] = ()
    tied_bytes: Whole = 0
    evaluation_minibatches: Whole = 0
    max_minibatches: Count | None = None
    ends_after: Count | None = None


class WorkloadFile(Strict):
    """The jobs of one run."""

    version: Literal[1] = 1
    jobs: list[JobFile] = Field(min_length=1)


class LinkFile(Strict):
    """One direction between host and device; without a bandwidth it is free."""

    bytes_per_s: Rate = math.inf
    latency_s: Seconds = 0.0
    pageable_bytes_per_s: Rate | None = None
    shared: str = ""


class BusFile(Strict):
    """What several links run over; links name it as `shared`."""

    name: str
    bytes_per_s: Rate
    duplex: Literal["full", "half"] = "full"


class DiskFile(Strict):
    """The tier below host memory."""

    read: LinkFile = LinkFile()
    write: LinkFile = LinkFile()


class DeviceFile(Strict):
    """`count` equal devices."""

    memory_bytes: Count
    count: Annotated[Count, Field(le=MAX_COPIES)] = 1
    speed: float = Field(default=1.0, gt=0)
    h2d: LinkFile = LinkFile()
    d2h: LinkFile = LinkFile()
    kind: str = "simulated"
    duplex: Literal["full", "half"] = "full"
    peer: LinkFile | None = None
    on_host: bool = False


class ClusterFile(Strict):
    """The devices of one host."""

    version: Literal[1] = 1
    devices: list[DeviceFile] = Field(min_length=1)
    host_cores: Annotated[Count, Field(le=MAX_COPIES)] | None = None
    buses: list[BusFile] = []
    host_memory_bytes: Count | None = None
    host_bytes_per_s: Rate = math.inf
    disk: DiskFile | None = None
    compute_slowdown: list[Annotated[FiniteFloat, Field(ge=1, le=1e6)]] = []
    variation: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.0
    dispatch_s: Seconds = 0.0
    restart_s: Seconds = 0.0
    core_copy_bytes_per_s: Rate = math.inf


class StepFile(Strict):
    """One unit of a plan."""

    unit: UnitText
    mode: ActivationMode | None = None
    offset: Whole | None = None
    evict: list[str] = []


class PlanFile(Strict):
    """A plan; the digests name what it was made for."""

    version: Literal[1]
    workload: str
    cluster: str
    profile: str = ""
    policy: str = ""
    makespan_s: Quantity | None = None
    devices: list[list[StepFile]]


class TimelineHeader(BaseModel):
    """The first line of a timeline; further fields are kept as they are."""

    model_config = ConfigDict(extra="allow")
    version: Literal[1]
    num_devices: Annotated[Count, Field(le=MAX_COPIES)] | None = None
    label: str = ""
    policy: str = ""
    planned_by: str = ""


class SpanFile(Strict):
    """One line of a timeline."""

    number: Whole
    kind: Literal["fetch", "load", "compute", "store", "read", "write", "send", "gather", "update", "save", "restore"]
    device: int = Field(ge=-1, lt=MAX_COPIES)
    lane: Literal["h2d", "compute", "d2h", "host", "peer", "disk", "update"]
    unit: UnitText
    start_s: FiniteFloat
    end_s: FiniteFloat
    block: str = ""
    nbytes: Whole = 0
    after: tuple[Whole, ...] = ()
    eligible: tuple[str, ...] = ()
    issued_s: FiniteFloat = 0.0
    cause: int = Field(default=-1, ge=-1, lt=1 << 63)
    live_bytes: Whole = 0
    peer: int = Field(default=-1, ge=-1, lt=MAX_COPIES)


class MeasurementFile(Strict):
    """Repeated measurements of one thing."""

    mean_s: Seconds
    median_s: Seconds
    spread_fraction: Quantity
    num_samples: Count


class UnitFile(MeasurementFile):
    """A measured shard unit."""

    job: str
    phase: Literal["F", "L", "B", "U", "E"]
    shard: Whole


class CopyFile(MeasurementFile):
    """A measured copy of that many bytes."""

    nbytes: Whole


class KindFile(Strict):
    """What was measured on one kind of device."""

    units: list[UnitFile]
    first_units: list[UnitFile] = []
    copies: dict[Literal["h2d", "d2h"], list[CopyFile]]


class ProfileFile(Strict):
    """A profile, with the workload and cluster that were measured."""

    version: Literal[1]
    label: CostLabel = "measured"
    workload: WorkloadFile
    kinds: dict[str, KindFile]
    fetches: dict[str, MeasurementFile]
    updates: list[UnitFile] = []
    dispatch: MeasurementFile | None = None
    slowdowns: dict[str, Annotated[FiniteFloat, Field(ge=1, le=1e6)]] = {}
    provenance: dict[str, Any] = {}
    cluster: ClusterFile | None = None
