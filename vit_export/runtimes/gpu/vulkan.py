"""Which Vulkan devices a process sees, by the system's Vulkan loader: their names, and whether they are hardware."""

import ctypes
import json
from dataclasses import dataclass

_LIBRARY = "libvulkan.so.1"
_KINDS = {1: "integrated", 2: "discrete", 3: "virtual", 4: "software"}
_ORDER = ("discrete", "integrated", "virtual", "other", "software")
_MOST = 16
_PROPERTIES, _NAME = 4096, slice(20, 276)  # bytes: more than VkPhysicalDeviceProperties has, and its deviceName


@dataclass(frozen=True)
class Device:
    """One Vulkan device; `kind` is 'discrete', 'integrated', 'virtual', 'other', or 'software' (a CPU)."""

    name: str
    kind: str

    @property
    def real(self) -> bool:
        """Whether it is hardware."""
        return self.kind != "software"


class _InstanceInfo(ctypes.Structure):
    """VkInstanceCreateInfo."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32),
        ("extension_names", ctypes.c_void_p),
    )


def devices() -> list[Device]:
    """The Vulkan devices that this process sees, hardware first; none without a loader or a driver.

    It loads the drivers into this process, and a bad one can end it: ask in a process of its own.
    """
    try:
        vulkan = ctypes.CDLL(_LIBRARY)
        instance = ctypes.c_void_p()
        if vulkan.vkCreateInstance(ctypes.byref(_InstanceInfo(type=1)), None, ctypes.byref(instance)):
            return []
        count, handles = ctypes.c_uint32(_MOST), (ctypes.c_void_p * _MOST)()
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
        found = [_device(vulkan, handle) for handle in handles[: count.value] if handle]
        vulkan.vkDestroyInstance(instance, None)
    except (OSError, AttributeError):
        return []
    return sorted(found, key=lambda device: _ORDER.index(device.kind))


def _device(vulkan: ctypes.CDLL, handle: int) -> Device:
    properties = (ctypes.c_uint32 * (_PROPERTIES // 4))()
    vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(handle), properties)
    name = bytes(properties)[_NAME].split(b"\0")[0].decode(errors="replace")
    return Device(name, _KINDS.get(properties[4], "other"))


def tell() -> None:
    """Print what `devices` finds, as JSON."""
    print(json.dumps([[device.name, device.kind] for device in devices()]))
