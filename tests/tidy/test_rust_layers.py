"""ray-proto <- ray-logic <- {ray-worker, ray-node} <- ray-py, with ray-shm below worker and node, and ray-sim for development only."""

import re
from pathlib import Path
from typing import Any

import rust_code
import tree

ALLOWED = {
    "ray-proto": set(),
    "ray-shm": {"ray-proto"},
    "ray-logic": {"ray-proto"},
    "ray-worker": {"ray-proto", "ray-logic", "ray-shm"},
    "ray-node": {"ray-proto", "ray-logic", "ray-shm"},
    "ray-py": {"ray-proto", "ray-logic", "ray-shm", "ray-worker", "ray-node"},
    "ray-sim": {"ray-proto", "ray-logic"},
}
PURE = {"ray-proto", "ray-logic"}
MAY_BE_UNSAFE = {"ray-shm", "ray-py"}
# Crates that pure code may use besides the standard library: data structures only.
PURE_DEPENDENCIES = {"rustc-hash"}


def manifests() -> dict[str, dict[str, Any]]:
    paths = [path for path in tree.under("crates", ".toml") if path.name == "Cargo.toml"]
    return {path.parent.name: tree.toml(path) for path in paths}


def sources(crate: str) -> list[Path]:
    return tree.under(f"crates/{crate}", ".rs")


def test_crates_are_the_known_ones() -> None:
    assert manifests().keys() == ALLOWED.keys()


def test_crates_depend_only_on_lower_layers() -> None:
    ours = {crate: {name for name in manifest.get("dependencies", {}) if name in ALLOWED} for crate, manifest in manifests().items()}
    assert {crate: extra for crate, names in ours.items() if (extra := names - ALLOWED[crate])} == {}


def test_simulator_is_a_development_dependency_only() -> None:
    assert [crate for crate, manifest in manifests().items() if "ray-sim" in manifest.get("dependencies", {})] == []


def test_only_ray_py_knows_pyo3() -> None:
    assert [crate for crate, manifest in manifests().items() if crate != "ray-py" and any("pyo3" in name for name in manifest.get("dependencies", {}))] == []


def test_pure_crates_use_data_structures_only() -> None:
    found = {crate: set(manifests()[crate].get("dependencies", {})) - ALLOWED[crate] - PURE_DEPENDENCIES for crate in PURE}
    assert found == {crate: set() for crate in PURE}


def test_pure_crates_have_a_purity_file() -> None:
    assert all((tree.ROOT / "crates" / crate / "clippy.toml").is_file() for crate in PURE)


def test_unsafe_lives_in_two_crates() -> None:
    unsafe = re.compile(r"\bunsafe\b")
    found = [str(path) for crate in ALLOWED.keys() - MAY_BE_UNSAFE for path in sources(crate) if unsafe.search(rust_code.strip(tree.text(path)))]
    assert found == []


def test_sources_name_no_crate_above_them() -> None:
    found = []
    for crate, allowed in ALLOWED.items():
        above = {name.replace("-", "_") for name in ALLOWED.keys() - allowed - {crate, "ray-sim"}}
        found += [
            f"{path}: {match[0]}" for path in sources(crate) for match in re.finditer(r"\bray_\w+(?=::)", rust_code.strip(tree.text(path))) if match[0] in above
        ]
    assert found == []
