"""What parent and worker processes say to each other; pickled over a private socket pair."""

from __future__ import annotations

from dataclasses import dataclass, field

from executor.devices import Device
from executor.evaluation import Score
from executor.host_store import Place
from executor.layout import ShardLayout
from executor.saving import SavingSetup
from executor.step import Rates, StepOptions
from executor.tensors import TreeSpec
from executor.ties import Ties
from hydrasim.command import Command
from hydrasim.schedule import Schedule


@dataclass(frozen=True)
class JobSetup:
    """One job for a worker. payload: layers by shard, loss, metric and optimizer makers, without weights.

    activation_bytes: room that a shard's kept activations have. separate_updates: steps are apart from backwards; then
    gradients says how a shard's lie in their block, and order the place of each of its parameters in the model.
    host_updates: they are in host memory, and a device's block of state holds parameters only. schedule: which
    mini-batch is which.
    """

    name: str
    payload: bytes
    seed: int
    fused: bool
    layouts: tuple[ShardLayout, ...]
    has_gradient: tuple[tuple[bool, ...], ...]
    output_bytes: tuple[int, ...]
    activation_bytes: tuple[int, ...]
    gradients: tuple[TreeSpec, ...]
    order: tuple[tuple[int, ...], ...]
    options: StepOptions
    separate_updates: bool
    host_updates: bool
    rates: Rates
    schedule: Schedule
    ties: Ties | None = None


@dataclass(frozen=True)
class Setup:
    """Everything a device worker needs for one run; the store's and the link's descriptors follow."""

    device: Device
    arena_bytes: int
    working_bytes: int
    store_bytes: int
    places: dict[Place, int]
    jobs: tuple[JobSetup, ...]
    chaos_seed: int | None = None
    has_link: bool = False


@dataclass(frozen=True)
class Addition:
    """One more job in the middle of a run, for a worker or the updater.

    places: of what it has in the host store. constant_bytes: what its constant tensors take of a device.
    """

    job: JobSetup
    places: dict[Place, int]
    constant_bytes: int


@dataclass(frozen=True)
class Skip:
    """Commands that a worker has, and is not to begin any more."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class UpdaterSetup:
    """Everything that the process needs which updates in host memory; the store's descriptor follows."""

    jobs: tuple[JobSetup, ...]
    store_bytes: int
    places: dict[Place, int]


@dataclass(frozen=True)
class LoaderSetup:
    """Everything a loader process needs; the store's descriptor follows.

    payload: the dataloaders to train and to evaluate on. saving: of a job that has checkpoints.
    """

    job: str
    payload: bytes
    seed: int
    schedule: Schedule
    num_slots: int
    last_shard: int
    input_bytes: int
    target_bytes: int
    store_bytes: int
    places: dict[Place, int]
    saving: SavingSetup | None = None


@dataclass(frozen=True)
class Fetch:
    """A loader is to produce a mini-batch."""

    number: int
    minibatch: int


@dataclass(frozen=True)
class Save:
    """A loader is to save its job as it is after a mini-batch. regions: where the state of each shard lies.

    losses, metrics: up to then. is_stopped: the job ends here, and is not to go on.
    """

    number: int
    minibatch: int
    regions: tuple[int, ...]
    losses: tuple[float, ...]
    metrics: tuple[float, ...]
    is_stopped: bool


@dataclass(frozen=True)
class Restore:
    """A loader is to have its job's state be that of its checkpoint at a mini-batch; it has fetched nothing yet."""

    number: int
    minibatch: int
    regions: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """A command as a worker gets it. region: where state lies, or is to go, in the host store.

    source: for an update in host memory, where the state lies that it updates. after: commands of this worker; foreign:
    unfinished commands elsewhere, of which it will be told.
    """

    command: Command
    region: int = 0
    source: int = 0
    after: tuple[int, ...] = ()
    foreign: tuple[int, ...] = ()


@dataclass(frozen=True)
class Done:
    """A command ended; times by time.monotonic(), which all processes share.

    result: of a mini-batch's last forward: its loss, or how it was evaluated.
    """

    number: int
    start_s: float
    end_s: float
    result: float | Score | None = None


@dataclass(frozen=True)
class Used:
    """What a device's worker took of a run. peak_bytes: the most alive at once outside the arena.

    core_s: CPU seconds of "units", "copies", and "rest": taking orders and reporting.
    """

    peak_bytes: int
    core_s: dict[str, float]


@dataclass(frozen=True)
class Broken:
    """A command raised; of its job the process does nothing more."""

    number: int
    kind: str
    text: str
    trace: str = field(repr=False, default="")
