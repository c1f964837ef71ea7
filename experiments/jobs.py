"""From what was typed to real jobs on real devices: `file.py:function`, cut and ready to run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.inputs import parse_bytes, parse_rate
from hydrasim.errors import HydraError, WorkloadError, told
from hydrasim.mechanism import Mechanism

if TYPE_CHECKING:
    from executor import Prepared
    from executor.devices import Device


_MARK = "_is_hydrasim_jobs_file"  # another file may take its place


def load_jobs(location: str) -> list[Any]:
    """Call a user's function, given as `path/to/file.py:function`, and return the TorchJobs that it makes.

    Raises:
        WorkloadError: the file or function is missing, or fails, or returns something else.
    """
    from executor import TorchJob

    path, _, name = location.rpartition(":")
    if not Path(path).is_file() or not path.endswith(".py"):
        raise WorkloadError(f"{location!r} is not file.py:function; there is no Python file {path!r}.")
    stem = Path(path).stem
    there = sys.modules.get(stem)
    if stem in sys.stdlib_module_names or (there is not None and not hasattr(there, _MARK)):
        raise WorkloadError(f"{path!r} is called like the module {stem!r}, which is in use; give it another name.")
    spec = importlib.util.spec_from_file_location(stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, _MARK, True)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(Path(path).resolve().parent))  # workers import what the user's file defines
    try:
        spec.loader.exec_module(module)
        if not callable(function := getattr(module, name, None)):
            raise WorkloadError(f"{path} has no function {name!r}; name the one that returns the TorchJobs.")
        jobs = function()
    except HydraError:
        raise
    except (Exception, SystemExit) as error:
        raise WorkloadError(f"{location} failed: {told(error)}") from error
    if not isinstance(jobs, (list, tuple)) or not jobs or not all(isinstance(job, TorchJob) for job in jobs):
        raise WorkloadError(f"{location} must return a list of executor.TorchJob; it returned {type(jobs).__name__}.")
    return list(jobs)


def prepare_jobs(
    location: str, device: str, count: int, memory: str, link: str | None, mechanism: Mechanism, unfused: bool = False
) -> Prepared:
    """Cut the jobs of `file.py:function` for `count` equal devices of kind cpu or cuda.

    Raises:
        HydraError: something typed is wrong, a job is unsupported, or a layer fits no device.
    """
    from executor import CpuDevice, CudaDevice, prepare

    check_cuda(device)
    memory_bytes = parse_bytes(memory)
    made: list[Device]
    if device == "cuda":
        if link is not None:
            raise HydraError("--link emulates links of CPU devices; leave it out with --device cuda.")
        made = [CudaDevice(index, memory_bytes) for index in range(count)]
    else:
        made = [CpuDevice(memory_bytes, None if link is None else float(parse_rate(link)))] * count
    return prepare(load_jobs(location), made, loading_zone_fraction=mechanism.loading_zone_fraction, fused=not unfused)


def check_cuda(device: str) -> None:
    """Say in one line when CUDA is asked for and not there.

    Raises:
        DeviceError: no CUDA device.
    """
    if device == "cuda":
        from executor import CudaDevice

        CudaDevice(0).describe()
