"""Kinds of device, each with the same lanes behind it."""

from executor.devices.base import Device, DeviceMemory
from executor.devices.cpu import CpuDevice
from executor.devices.cuda import CudaDevice

__all__ = ["CpuDevice", "CudaDevice", "Device", "DeviceMemory"]
