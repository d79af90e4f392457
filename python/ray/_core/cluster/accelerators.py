"""Accelerators, one row per family: how they are found on a machine, and how a process is told which of them it may use.

A resource is counted in whole devices, or parts of one. Which devices a call gets is decided by the node (crates/ray-proto/src/devices.rs has the names of
the resources); what their numbers mean to the libraries that use them is decided here. "GPU" has several makers: the first one with devices is the machine's.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping
    from typing import Any

OVERRIDE_ON_ZERO = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"
"""Set to 0: what asks for no device keeps the variable as it is."""
_KEEP = "RAY_EXPERIMENTAL_NOSET_"


class Family:
    """One row of the table.

    Attributes:
        resource: Name of the resource.
        maker: Whose devices they are.
        variable: The environment variable that lists the devices a process may use; "" if there is none.
        keep: Set to anything but 0 or "", this variable of the user's keeps `variable` as it is.
        folder: Where the system shows the devices.
        pattern: What their names there match.
        pci: Where the numbers of vendor and product on the PCI bus are, and what "vendor:product" matches; "{}" is the device's path. Empty: not looked at.
        present_if: A file that is not "0" where there is a device; "" if it always is one.
        counts_as: A file with the number of units of a device; "" for one.
        kind: Name for `accelerator_type` where all are of one kind, else "".
        prefix: What stands before each number in `variable`.
        is_shared: Whether calls may ask for a part of a device.
        choices: Numbers of devices that a call may ask for; empty: any.
    """

    __slots__ = ("choices", "counts_as", "folder", "is_shared", "keep", "kind", "maker", "pattern", "pci", "prefix", "present_if", "resource", "variable")

    def __init__(self, resource: str, maker: str, variable: str, keep: str, folder: str, pattern: str, **more: Any) -> None:
        self.resource = resource
        self.maker = maker
        self.variable = variable
        self.keep = _KEEP + keep if keep else ""
        self.folder = folder
        self.pattern = pattern
        self.pci: tuple[str, ...] = more.get("pci", ())
        self.present_if: str = more.get("present_if", "")
        self.counts_as: str = more.get("counts_as", "")
        self.kind: str = more.get("kind", "")
        self.prefix: str = more.get("prefix", "")
        self.is_shared: bool = resource in _SHARED
        self.choices: tuple[int, ...] = _CHOICES.get(resource, ())

    def units(self, root: str = "/") -> int:
        """Count what the machine has of it.

        Args:
            root: Where /dev, /sys and /proc are.
        """
        folder = os.path.join(root, self.folder)
        try:
            names = os.listdir(folder)
        except OSError:
            return 0
        return sum(self._units_of(os.path.join(folder, name)) for name in names if re.fullmatch(self.pattern, name))

    def _units_of(self, device: str) -> int:
        if self.pci:
            import glob

            places, wanted = self.pci
            ids = (f"{_read(f'{place}/vendor')}:{_read(f'{place}/device')}" for place in glob.glob(places.format(glob.escape(device))))
            if not any(re.fullmatch(wanted, one) for one in ids):
                return 0
        if self.present_if and _read(f"{device}/{self.present_if}") in ("", "0"):
            return 0
        units = _read(f"{device}/{self.counts_as}") if self.counts_as else "1"
        return int(units) if units.isdigit() else 0


_SHARED = ("GPU", "NPU")
_CHOICES = {"TPU": (1, 2, 4, 8)}
_CARD = "{}/device"
TABLE: tuple[Family, ...] = (
    #      resource        maker          variable                     RAY_EXPERIMENTAL_NOSET_...      devices
    Family("GPU", "NVIDIA", "CUDA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "dev", r"nvidia\d+"),
    Family("GPU", "AMD", "HIP_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "sys/class/kfd/kfd/topology/nodes", r"\d+", present_if="gpu_id"),
    Family("GPU", "Intel", "ZE_AFFINITY_MASK", "ZE_AFFINITY_MASK", "sys/class/drm", r"card\d+", pci=(_CARD, "0x8086:0x0b[de].")),
    Family("GPU", "MetaX", "CUDA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "sys/class/drm", r"card\d+", pci=(_CARD, "0x9999:.*")),
    Family("GPU", "Apple", "", "", "dev", r"agx\d+", kind="Apple-Silicon"),
    Family("TPU", "Google", "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_CHIPS", "dev", r"accel\d+"),
    Family("TPU", "Google", "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_CHIPS", "sys/kernel/iommu_groups", r"\d+", pci=("{}/devices/*", "0x1ae0:0x006.")),
    Family(
        "neuron_cores",
        "AWS",
        "NEURON_RT_VISIBLE_CORES",
        "NEURON_RT_VISIBLE_CORES",
        "sys/devices/virtual/neuron_device",
        r"neuron\d+",
        counts_as="core_count",
        kind="aws-neuron-core",
    ),
    Family("NPU", "Huawei", "ASCEND_RT_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "dev", r"davinci\d+"),
    Family("HPU", "Habana", "HABANA_VISIBLE_MODULES", "HABANA_VISIBLE_MODULES", "sys/class/accel", r"accel\d+", pci=(_CARD, "0x1da3:.*"), kind="Intel-GAUDI"),
    Family("RBLN", "Rebellions", "RBLN_DEVICES", "RBLN_RT_VISIBLE_DEVICES", "dev", r"rbln\d+"),
    Family("FURIOSA", "Furiosa", "FURIOSA_DEVICES", "FURIOSA_DEVICES", "dev/rngd", r"npu\d+", prefix="npu:"),
    Family("TTNPU", "Tenstorrent", "TT_VISIBLE_DEVICES", "TENSTORRENT_VISIBLE_DEVICES", "dev/tenstorrent", r"\d+"),
    Family("MBLT", "Mobilint", "QBRUNTIME_VISIBLE_DEVICES", "MBLT_RT_VISIBLE_DEVICES", "dev", r"(aries|regulus)\d+"),
)
"""In the order in which the makers of one resource are looked for."""

RESOURCES: tuple[str, ...] = tuple(dict.fromkeys(family.resource for family in TABLE))
"""Names of the resources whose units are devices."""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def families_here(root: str = "/") -> dict[str, tuple[Family, int]]:
    """Look for devices.

    Args:
        root: Where /dev, /sys and /proc are.

    Returns:
        For each resource that the machine has: whose devices they are, and how many units.
    """
    found: dict[str, tuple[Family, int]] = {}
    for family in TABLE:
        units = 0 if family.resource in found else family.units(root)
        if units:
            found[family.resource] = (family, units)
    return found


def visible(family: Family, environment: Mapping[str, str]) -> list[str] | None:
    """Read which devices a process may use.

    Args:
        family: Of which family.
        environment: Its environment.

    Returns:
        Their names; None: all.
    """
    text = environment.get(family.variable) if family.variable else None
    if text is None:
        return None
    if text in ("", "NoDevFiles"):
        return []
    names = [name.strip() for name in text.split(",")]
    return names[: names.index("-1")] if "-1" in names else names  # CUDA ignores what follows a -1


def offered(environment: Mapping[str, str], root: str = "/") -> dict[str, float]:
    """Put together what a node of this machine offers by itself.

    Args:
        environment: Of the process that starts the node: devices that it may not use are not offered.
        root: Where /dev, /sys and /proc are.

    Returns:
        Units by resource name, and what is known of their kind as "accelerator_type:...".
    """
    found: dict[str, float] = {}
    for resource, (family, units) in families_here(root).items():
        names = visible(family, environment)
        amount = units if names is None else min(units, len(names))
        if amount:
            found[resource] = float(amount)
            kind = kind_of(family, environment, root)
            if kind:
                found[f"accelerator_type:{kind}"] = 1.0
    return found


def check_offer(resource: str, amount: float, environment: Mapping[str, str]) -> None:
    """Refuse to offer more devices than the environment lets processes use.

    Args:
        resource: Name of the resource.
        amount: How many are to be offered.
        environment: Of the process that starts the node.

    Raises:
        ValueError: They are too many.
    """
    family = current_family(resource, environment)
    names = visible(family, environment)
    if names is not None and amount > len(names):
        raise ValueError(
            f"{amount:g} {resource} can't be offered: {family.variable} lists {len(names)} ({', '.join(names) or 'none'})\nhint: change {family.variable}, or offer fewer"
        )


def check_amount(resource: str, amount: float) -> None:
    """Refuse an amount that no call can get of a family.

    Args:
        resource: Name of a resource of the table.
        amount: How much a call asks for.

    Raises:
        ValueError: The devices can't be shared, or not in such numbers.
    """
    family = next(family for family in TABLE if family.resource == resource)
    is_whole = amount == int(amount)
    if amount and family.choices and amount not in family.choices:
        choices = ", ".join(map(str, family.choices))
        raise ValueError(f"the quantity of {resource} is {amount!r}, which is not a supported configuration of chips\nhint: ask for {choices}")
    if not is_whole and (amount > 1 or not family.is_shared):
        raise ValueError(f"the quantity of {resource} must be a whole number{' above 1' if family.is_shared else ''}, got {amount!r}")


def current_family(resource: str, environment: Mapping[str, str], root: str = "/") -> Family:
    """Say whose devices a resource means here: those that are found, else those that the environment speaks of, else those of the first maker in the table.

    Args:
        resource: Name of the resource.
        environment: Of this process.
        root: Where /dev, /sys and /proc are.
    """
    rows = [family for family in TABLE if family.resource == resource]
    for family in rows:
        if len(rows) > 1 and family.units(root):
            return family
    return next((family for family in rows if family.variable in environment), rows[0])


def kind_of(family: Family, environment: Mapping[str, str], root: str = "/") -> str:
    """Name the kind of a family's devices here, as `accelerator_type` names it.

    Args:
        family: A family with devices.
        environment: Of this process.
        root: Where /proc is.

    Returns:
        The name, "" if it is not known.
    """
    if family.maker == "NVIDIA":
        import glob

        return _nvidia_kind(glob.glob(os.path.join(root, "proc/driver/nvidia/gpus/*/information")))
    if family.resource == "TPU":
        version = environment.get("TPU_ACCELERATOR_TYPE", "").partition("-")[0]
        return f"TPU-{version.upper()}" if version else ""
    return family.kind


def _nvidia_kind(files: Iterable[str]) -> str:
    """The model without its size of memory: "NVIDIA A100-SXM4-40GB" is an A100, "NVIDIA GeForce RTX 3090" a GeForce-RTX-3090, "Tesla T4" a T4."""
    for file in sorted(files):
        model = next((line.partition(":")[2] for line in _read(file).splitlines() if line.startswith("Model:")), "")
        found = re.match(r"(?:NVIDIA |Tesla )*((?:[A-Za-z]+ )*[A-Za-z]*\d\w*)", model.strip())
        if found:
            return found[1].replace(" ", "-")
    return ""


_TPU_BOUNDS = ("TPU_CHIPS_PER_HOST_BOUNDS", "TPU_HOST_BOUNDS")
"""How the chips that a process sees are arranged. A process that sees only some of a host's has to be told."""
_BOUNDS_OF_CHIPS = {1: ("1,1,1", "1,1,1"), 2: ("1,2,1", "1,1,1")}


class Shown:
    """The variables that tell the calls of one process which devices are theirs."""

    def __init__(self, environment: MutableMapping[str, str], root: str = "/") -> None:
        """Take down what the process was started with.

        Args:
            environment: Its environment, which `show` changes.
            root: Where /dev, /sys and /proc are.
        """
        self._environment = environment
        self._families = {resource: current_family(resource, environment, root) for resource in RESOURCES}
        self._first = {family.variable: environment.get(family.variable) for family in self._families.values()}
        self._bounds = {name: environment.get(name) for name in _TPU_BOUNDS}
        self._names = {resource: visible(family, environment) for resource, family in self._families.items()}

    def names(self, devices: Mapping[str, Iterable[int]]) -> dict[str, list[str]]:
        """Name devices as the libraries that use them do.

        Args:
            devices: Indices by resource name, counted among those that the process may use.

        Returns:
            Names for every family; lists without entries for those of which there are none.
        """
        found: dict[str, list[str]] = {}
        for resource in RESOURCES:
            known = [name.removeprefix(self._families[resource].prefix) for name in self._names[resource] or ()]
            found[resource] = [known[index] if index < len(known) else str(index) for index in devices.get(resource, ())]
        return found

    def show(self, devices: Mapping[str, Iterable[int]]) -> None:
        """Let the call that begins see its devices and no others.

        Args:
            devices: Indices by resource name; without entries for a family, its variable is again what the process was started with.
        """
        for resource, names in self.names(devices).items():
            family = self._families[resource]
            if not family.variable or self._environment.get(family.keep, "0") not in ("", "0"):
                continue
            self._set(family.variable, ",".join(family.prefix + name for name in names) if names else self._first[family.variable])
            if resource == "TPU":
                for variable, bounds in zip(_TPU_BOUNDS, _BOUNDS_OF_CHIPS.get(len(names), self._bounds.values()), strict=True):
                    self._set(variable, bounds)

    def _set(self, variable: str, value: str | None) -> None:
        if value is None:
            self._environment.pop(variable, None)
        else:
            self._environment[variable] = value
