"""Schedule the training of many large models on few devices: simulate, plan, compare."""

from hydrasim.cluster import Bus, Cluster, Device, Disk, Link
from hydrasim.errors import HydraError
from hydrasim.mechanism import HYDRA_RELEASED, OURS, PAPER, Mechanism
from hydrasim.plan import Plan
from hydrasim.profile import Profile
from hydrasim.simulator import simulate
from hydrasim.timeline import Timeline
from hydrasim.workload import Phase, Shard, ShardUnit, TrainingJob, Workload

__all__ = [
    "HYDRA_RELEASED",
    "OURS",
    "PAPER",
    "Bus",
    "Cluster",
    "Device",
    "Disk",
    "HydraError",
    "Link",
    "Mechanism",
    "Phase",
    "Plan",
    "Profile",
    "Shard",
    "ShardUnit",
    "Timeline",
    "TrainingJob",
    "Workload",
    "simulate",
]
