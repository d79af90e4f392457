"""The secret of a cluster: where it is found, what is refused, and how it is made."""

import os
import stat
import threading
from pathlib import Path

import pytest

from ray._core.cluster import token
from ray.exceptions import AuthenticationError

SECRET = "0123456789abcdef"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home folder, and no settings of whoever runs the tests."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def keep(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def refused() -> str:
    with pytest.raises(AuthenticationError) as caught:
        token.load()
    text = str(caught.value)
    assert text.count("hint:") == 1
    assert SECRET not in text
    return text


def test_without_any_source_there_is_none() -> None:
    assert token.load() is None
    with pytest.raises(AuthenticationError, match="RAY_AUTH_TOKEN"):
        token.required()


def test_variable_goes_before_named_file_goes_before_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(home / ".ray/auth_token", SECRET + "home\n")
    assert token.load() == SECRET + "home"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(keep(home / "named", f"  {SECRET}named\n")))
    assert token.load() == SECRET + "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET + "variable ")
    assert token.load() == SECRET + "variable"


def test_empty_variables_are_as_unset(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "")
    keep(home / ".ray/auth_token", SECRET)
    assert token.load() == SECRET


@pytest.mark.parametrize("text", [" ", "\n", "short", SECRET[:-1], SECRET + " " + SECRET, SECRET + "\n" + SECRET, SECRET + "\u00e4", SECRET + "\x00"])
def test_text_that_is_no_token_is_refused_wherever_it_stands(home: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = keep(home / ".ray/auth_token", text)
    assert str(path) in refused()
    if "\x00" not in text:
        monkeypatch.setenv("RAY_AUTH_TOKEN", text)
        assert "the environment variable RAY_AUTH_TOKEN" in refused()


def test_empty_file_is_refused(home: Path) -> None:
    keep(home / ".ray/auth_token", "")
    assert "holds no token" in refused()


def test_huge_file_is_refused(home: Path) -> None:
    keep(home / ".ray/auth_token", "x" * 100_000)
    assert "too large" in refused()


def test_named_file_that_is_missing_is_an_error_and_home_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(home / ".ray/auth_token", SECRET)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "missing"))
    assert "does not exist" in refused()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o620, 0o644, 0o777])
def test_file_that_others_can_read_or_write_is_refused(home: Path, mode: int) -> None:
    path = keep(home / ".ray/auth_token", SECRET, mode)
    assert f"chmod 600 {path}" in refused()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_file_of_another_user_is_refused(home: Path) -> None:
    path = keep(home / ".ray/auth_token", SECRET)
    os.chown(path, 12345, 12345)
    assert "belongs to the user 12345" in refused()


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_plain_file_is_refused_at_once(home: Path, kind: str) -> None:
    path = home / ".ray/auth_token"
    path.parent.mkdir()
    path.mkdir(0o700) if kind == "folder" else os.mkfifo(path, 0o600)
    assert str(path) in refused()


def test_disabled_mode_is_refused_and_token_mode_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    monkeypatch.setenv("RAY_AUTH_MODE", "Token")
    assert token.load() == SECRET
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "no port is opened without a token" in refused()
    monkeypatch.setenv("RAY_AUTH_MODE", "kerberos")
    assert "not known" in refused()


def test_token_is_made_once_for_the_user_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        found, made = token.load_or_create()
    finally:
        os.umask(before)
    path = home / ".ray/auth_token"
    assert made == str(path)
    assert len(found) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert token.load_or_create() == (found, "")
    assert [one.name for one in path.parent.iterdir()] == ["auth_token"]


def test_token_that_is_given_is_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    assert token.load_or_create() == (SECRET, "")
    assert list(home.iterdir()) == []


def test_many_who_make_one_at_once_get_the_same(home: Path) -> None:
    start = threading.Barrier(8)
    found = []

    def make() -> None:
        start.wait()
        found.append(token.load_or_create())

    threads = [threading.Thread(target=make) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len({secret for secret, _ in found}) == 1
    assert sum(bool(made) for _, made in found) == 1
    assert [one.name for one in (home / ".ray").iterdir()] == ["auth_token"]


def test_folder_that_others_can_write_to_gets_no_token(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray").chmod(0o777)
    with pytest.raises(AuthenticationError, match="chmod 700"):
        token.load_or_create()


@pytest.mark.parametrize("home_is", ["", "missing/home"])
def test_home_that_cannot_be_used_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home_is: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / home_is) if home_is else "relative")
    with pytest.raises(AuthenticationError, match="set RAY_AUTH_TOKEN"):
        token.load_or_create()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_home_that_cannot_be_written_names_the_variable(home: Path) -> None:
    home.chmod(0o500)
    with pytest.raises(AuthenticationError, match="set RAY_AUTH_TOKEN"):
        token.load_or_create()


def test_fresh_tokens_differ_and_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = token.fresh(), token.fresh()
    assert one != other
    monkeypatch.setenv("RAY_AUTH_TOKEN", one)
    assert token.load() == one
