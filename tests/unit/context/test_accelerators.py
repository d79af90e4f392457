"""Accelerators: what a machine offers, what the environment allows, and what calls are shown. Machines are folders with the files that a kernel would show."""

from pathlib import Path

import pytest

from ray._core.cluster import accelerators
from ray._core.cluster.accelerators import RESOURCES, Shown, offered

CARD = "sys/class/drm/card0"
MACHINES = {
    # name: (files with their texts, what is offered)
    "nothing": ({}, {}),
    "nvidia": ({"dev/nvidia0": "", "dev/nvidia1": "", "dev/nvidiactl": ""}, {"GPU": 2}),
    "nvidia with a known model": (
        {"dev/nvidia0": "", "proc/driver/nvidia/gpus/0000:00:04.0/information": "Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ: 1\n"},
        {"GPU": 1, "accelerator_type:A100": 1},
    ),
    "nvidia for games": (
        {"dev/nvidia0": "", "proc/driver/nvidia/gpus/0/information": "Model: NVIDIA GeForce RTX 3090\n"},
        {"GPU": 1, "accelerator_type:GeForce-RTX-3090": 1},
    ),
    "nvidia of old": ({"dev/nvidia0": "", "proc/driver/nvidia/gpus/0/information": "Model: Tesla T4\n"}, {"GPU": 1, "accelerator_type:T4": 1}),
    "amd": (
        {f"sys/class/kfd/kfd/topology/nodes/{n}/gpu_id": text for n, text in enumerate(["0\n", "51234\n", "51235\n"])},
        {"GPU": 2},
    ),
    "intel max": ({f"{CARD}/device/vendor": "0x8086\n", f"{CARD}/device/device": "0x0bd5\n"}, {"GPU": 1}),
    "intel in the processor": ({f"{CARD}/device/vendor": "0x8086\n", f"{CARD}/device/device": "0x9a49\n"}, {}),
    "metax": ({f"{CARD}/device/vendor": "0x9999\n", f"{CARD}/device/device": "0x4001\n"}, {"GPU": 1}),
    "tpu": ({f"dev/accel{n}": "" for n in range(4)}, {"TPU": 4}),
    "tpu on vfio": (
        {f"sys/kernel/iommu_groups/{n}/devices/0000:00:0{n}.0/{name}": text for n in (3, 4) for name, text in (("vendor", "0x1ae0"), ("device", "0x0063"))},
        {"TPU": 2},
    ),
    "neuron": (
        {f"sys/devices/virtual/neuron_device/neuron{n}/core_count": "2\n" for n in range(2)},
        {"neuron_cores": 4, "accelerator_type:aws-neuron-core": 1},
    ),
    "ascend": ({"dev/davinci0": "", "dev/davinci_manager": ""}, {"NPU": 1}),
    "habana": (
        {f"sys/class/accel/accel0/device/{name}": text for name, text in (("vendor", "0x1da3"), ("device", "0x1020"))},
        {"HPU": 1, "accelerator_type:Intel-GAUDI": 1},
    ),
    "rebellions": ({"dev/rbln0": "", "dev/rbln1": ""}, {"RBLN": 2}),
    "furiosa": ({"dev/rngd/npu0": "", "dev/rngd/npu0bar0": ""}, {"FURIOSA": 1}),
    "tenstorrent": ({"dev/tenstorrent/0": "", "dev/tenstorrent/1": ""}, {"TTNPU": 2}),
    "mobilint": ({"dev/aries0": "", "dev/regulus0": ""}, {"MBLT": 2}),
    "two makers": ({"dev/nvidia0": "", "dev/rbln0": "", "sys/class/kfd/kfd/topology/nodes/1/gpu_id": "5"}, {"GPU": 1, "RBLN": 1}),
}


def machine(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize("name", MACHINES)
def test_machine_offers_its_devices(name, tmp_path):
    files, expected = MACHINES[name]
    assert offered({}, machine(tmp_path, files)) == expected


def test_every_family_of_the_table_is_found_on_some_machine(tmp_path):
    """A row without a machine above would be untested."""
    seen = set()
    for number, (files, _) in enumerate(MACHINES.values()):
        root = machine(tmp_path / str(number), files)
        seen |= {(family.resource, family.maker, family.folder) for family in accelerators.TABLE if family.units(root)}
    unseen = {(family.resource, family.maker, family.folder) for family in accelerators.TABLE} - seen
    assert unseen == {("GPU", "Apple", "dev")}, "the engine does not run on Apple's systems"


@pytest.mark.parametrize(("text", "count"), [("0", 1), ("0,1", 2), ("", 0), ("NoDevFiles", 0), ("1,-1,2", 1), ("GPU-8932f937,MIG-1", 2), ("0,1,2,3", 2)])
def test_devices_that_the_environment_hides_are_not_offered(text, count, tmp_path):
    root = machine(tmp_path, {"dev/nvidia0": "", "dev/nvidia1": ""})
    assert offered({"CUDA_VISIBLE_DEVICES": text}, root).get("GPU", 0) == count


def test_tpu_kind_comes_from_its_environment(tmp_path):
    root = machine(tmp_path, {"dev/accel0": ""})
    assert offered({"TPU_ACCELERATOR_TYPE": "v5litepod-16"}, root) == {"TPU": 1, "accelerator_type:TPU-V5LITEPOD": 1}


def test_more_than_the_environment_lists_is_refused():
    with pytest.raises(ValueError, match=r"3 GPU can't be offered: CUDA_VISIBLE_DEVICES lists 2 \(4, 5\)"):
        accelerators.check_offer("GPU", 3, {"CUDA_VISIBLE_DEVICES": "4,5"})
    accelerators.check_offer("GPU", 2, {"CUDA_VISIBLE_DEVICES": "4,5"})
    accelerators.check_offer("GPU", 8, {})


VARIABLES = {
    "GPU": "CUDA_VISIBLE_DEVICES",
    "TPU": "TPU_VISIBLE_CHIPS",
    "neuron_cores": "NEURON_RT_VISIBLE_CORES",
    "NPU": "ASCEND_RT_VISIBLE_DEVICES",
    "HPU": "HABANA_VISIBLE_MODULES",
    "RBLN": "RBLN_DEVICES",
    "FURIOSA": "FURIOSA_DEVICES",
    "TTNPU": "TT_VISIBLE_DEVICES",
    "MBLT": "QBRUNTIME_VISIBLE_DEVICES",
}


def test_each_resource_has_a_variable():
    assert set(VARIABLES) == set(RESOURCES)


@pytest.mark.parametrize(("resource", "variable"), VARIABLES.items())
def test_call_sees_its_devices_and_no_others(resource, variable, tmp_path):
    environment: dict[str, str] = {}
    shown = Shown(environment, str(tmp_path))
    shown.show({resource: [1, 2, 3]})
    assert environment == {variable: "npu:1,npu:2,npu:3" if resource == "FURIOSA" else "1,2,3"}
    shown.show({})
    assert environment == {}


def test_some_of_a_hosts_chips_are_told_how_they_are_arranged(tmp_path):
    environment = {"TPU_HOST_BOUNDS": "2,2,1"}
    shown = Shown(environment, str(tmp_path))
    shown.show({"TPU": [0, 1]})
    assert environment == {"TPU_VISIBLE_CHIPS": "0,1", "TPU_CHIPS_PER_HOST_BOUNDS": "1,2,1", "TPU_HOST_BOUNDS": "1,1,1"}
    shown.show({"TPU": [0, 1, 2, 3]})
    assert environment == {"TPU_VISIBLE_CHIPS": "0,1,2,3", "TPU_HOST_BOUNDS": "2,2,1"}
    shown.show({})
    assert environment == {"TPU_HOST_BOUNDS": "2,2,1"}


@pytest.mark.parametrize(("resource", "amount"), [("TPU", 0.5), ("TPU", 3), ("neuron_cores", 0.5), ("NPU", 1.5), ("HPU", 1.5), ("MBLT", 0.1)])
def test_amount_that_no_call_can_get_is_refused(resource, amount):
    with pytest.raises(ValueError, match=resource):
        accelerators.check_amount(resource, amount)


@pytest.mark.parametrize(("resource", "amount"), [("TPU", 4), ("neuron_cores", 3), ("NPU", 0.5), ("GPU", 0.1), ("HPU", 2), ("TPU", 0)])
def test_amount_that_calls_can_get_is_accepted(resource, amount):
    accelerators.check_amount(resource, amount)


def test_devices_are_named_as_the_node_was_told(tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": "4,GPU-8932f937"}
    shown = Shown(environment, str(tmp_path))
    assert shown.names({"GPU": [1]})["GPU"] == ["GPU-8932f937"]
    shown.show({"GPU": [0]})
    assert environment["CUDA_VISIBLE_DEVICES"] == "4"
    shown.show({})
    assert environment["CUDA_VISIBLE_DEVICES"] == "4,GPU-8932f937"


def test_variable_that_the_user_keeps_stays(tmp_path):
    environment = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0,1"}
    Shown(environment, str(tmp_path)).show({"GPU": [1]})
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_gpu_of_another_maker_has_its_variable(tmp_path):
    root = machine(tmp_path, {"sys/class/kfd/kfd/topology/nodes/1/gpu_id": "51234"})
    environment: dict[str, str] = {}
    Shown(environment, root).show({"GPU": [0]})
    assert environment == {"HIP_VISIBLE_DEVICES": "0"}
