"""The package's metadata: what dependents pin and what users install."""

import re
from typing import Any

import tree

RAY = "2.60.0"
RAY_EXTRAS = {"default", "client", "cgraph", "data", "train", "tune", "serve", "rllib", "llm", "all"}
MOST_DEPENDENCIES = 4


def project() -> dict[str, Any]:
    return tree.toml("pyproject.toml")["project"]


def own_release() -> str:
    return tree.toml("Cargo.toml")["workspace"]["package"]["version"]


def test_version_is_rays_and_our_own_release() -> None:
    assert project()["version"] == f"{RAY}+{own_release()}"


def test_hard_dependencies_are_few() -> None:
    assert len(project()["dependencies"]) <= MOST_DEPENDENCIES


def test_extras_are_rays() -> None:
    assert project()["optional-dependencies"].keys() == RAY_EXTRAS


def test_extra_all_names_every_other_extra() -> None:
    (everything,) = project()["optional-dependencies"]["all"]
    assert set(re.findall(r"\w+", everything)) == (RAY_EXTRAS - {"all"}) | {"ray"}


def test_rust_release_is_pinned_once() -> None:
    channel = tree.toml("rust-toolchain.toml")["toolchain"]["channel"]
    oldest = tree.toml("Cargo.toml")["workspace"]["package"]["rust-version"]
    assert [int(part) for part in channel.split(".")] >= [int(part) for part in oldest.split(".")]
