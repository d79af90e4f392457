"""The maps show the tree as it is."""

import re
from pathlib import Path

import pytest
import tree

MAPS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "crates/README.md", "docs/STATUS.md"]
# Backticked words with a slash that start at the root, or name a file beside the map.
PATHS = re.compile(r"`((?:[\w.*-]+/)+[\w.*-]*|[\w-]+\.(?:py|rs|toml|md|pyi))`")
LINKS = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("name", MAPS)
def test_paths_and_links_exist(name: str) -> None:
    text = tree.text(Path(name))
    found = {*PATHS.findall(text), *LINKS.findall(text)}
    missing = [
        path for path in found if "NNN" not in path and not any(list(base.glob(path.rstrip("/"))) for base in (tree.ROOT, tree.ROOT / Path(name).parent))
    ]
    assert [path for path in missing if not any(known.name == path for known in tree.files())] == []


def test_crates_readme_has_a_sentence_for_every_crate() -> None:
    crates = {path.parent.name for path in tree.under("crates", ".toml") if path.name == "Cargo.toml"}
    assert set(re.findall(r"^- \*\*(ray-\w+)\*\*", tree.text(Path("crates/README.md")), re.MULTILINE)) == crates


def test_readme_starts_with_what_it_is_and_the_two_commands() -> None:
    start = "\n".join(tree.text(Path("README.md")).splitlines()[:12])
    assert all(words in start for words in ("independent", "not affiliated", "make demo", "make test"))
