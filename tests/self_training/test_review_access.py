"""People with passwords and roles, and the hosts that may be listened to."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review import serve_command
from crossmoda.self_training.review_access import (
    User,
    add_user,
    add_user_command,
    is_loopback,
    is_password_of,
    read_users,
    require_safe_host,
    users_file,
)

SECRET = "a long password"


def test_a_password_is_known_by_its_salted_hash_alone(tmp_path: Path) -> None:
    file = tmp_path / "users.json"
    add_user(file, "anna", "annotator", SECRET)
    add_user(file, "berg", "reviewer", SECRET)
    users = read_users(file)
    assert {name: record.role for name, record in users.items()} == {"anna": "annotator", "berg": "reviewer"}
    assert is_password_of(users["anna"], SECRET)
    assert not is_password_of(users["anna"], SECRET + " ")
    assert users["anna"].hash != users["berg"].hash  # the same password, another salt
    assert SECRET not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_same_command_changes_password_and_role(tmp_path: Path) -> None:
    file = tmp_path / "users.json"
    add_user(file, "anna", "annotator", SECRET)
    add_user(file, "anna", "engineer", "another password")
    assert list(read_users(file)) == ["anna"]
    assert read_users(file)["anna"].role == "engineer"
    assert not is_password_of(read_users(file)["anna"], SECRET)


def test_each_role_may_do_what_those_before_it_may() -> None:
    may = [
        [User("x", role).may(needed) for needed in ("viewer", "annotator", "reviewer", "engineer")]
        for role in ("viewer", "annotator", "reviewer", "engineer")
    ]
    assert may == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, True],
    ]


@pytest.mark.parametrize(
    ("name", "role", "password", "reason"),
    [
        ("a:b", "annotator", SECRET, "no colon"),
        ("", "annotator", SECRET, "name ''"),
        ("anna", "admin", SECRET, "use one of viewer, annotator, reviewer, engineer"),
        ("anna", "annotator", "short", "shorter than 10"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_written(
    tmp_path: Path, name: str, role: str, password: str, reason: str
) -> None:
    with pytest.raises(CrossmodaError, match=reason):
        add_user(tmp_path / "users.json", name, role, password)
    assert not (tmp_path / "users.json").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"users": {"a": {"role": "admin"}}}', '{"users": {"a": {"role": 1}}}'])
def test_a_damaged_file_is_an_error_and_lets_nobody_in(tmp_path: Path, text: str) -> None:
    (tmp_path / "users.json").write_text(text)
    with pytest.raises(CrossmodaError, match=r"users\.json"):
        read_users(tmp_path / "users.json")


def test_the_command_reads_the_password_from_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{SECRET}\n"))
    add_user_command(tmp_path, "Dr. Berg", "reviewer")
    assert is_password_of(read_users(tmp_path / ".users.json")["Dr. Berg"], SECRET)
    assert "Dr. Berg is reviewer; 1 in all" in capsys.readouterr().out


def test_the_command_line_adds_a_user(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "crossmoda", "add_user", str(tmp_path), "--name", "eve", "--role", "engineer"]
    done = subprocess.run(command, input=f"{SECRET}\n", text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(json.loads((tmp_path / ".users.json").read_text())["users"]) == ["eve"]


def test_a_folder_stands_for_its_own_file(tmp_path: Path) -> None:
    assert users_file(tmp_path) == tmp_path / ".users.json"
    assert users_file(tmp_path / "people.json") == tmp_path / "people.json"


def test_loopback_is_this_machine_alone() -> None:
    assert all(
        is_loopback(host) for host in ("127.0.0.1", "127.8.0.1", "localhost", "::1", "[::1]", "::ffff:127.0.0.1")
    )
    assert is_loopback("::ffff:127.0.0.1")
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.7", "localhost.example", ""))


def test_other_machines_are_let_in_only_where_passwords_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MONAI_LABEL_AUTH_ENABLE", raising=False)
    require_safe_host("127.0.0.1", tmp_path)
    with pytest.raises(CrossmodaError, match=r"--host 0\.0\.0\.0: .* add_user"):
        require_safe_host("0.0.0.0", tmp_path)
    monkeypatch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
    require_safe_host("0.0.0.0", tmp_path)
    monkeypatch.setenv("MONAI_LABEL_AUTH_ENABLE", "false")
    add_user(tmp_path / ".users.json", "eve", "engineer", SECRET)
    require_safe_host("0.0.0.0", tmp_path)


def test_serving_to_other_machines_without_passwords_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("monailabel")
    monkeypatch.delenv("MONAI_LABEL_AUTH_ENABLE", raising=False)
    with pytest.raises(CrossmodaError, match=r"--host 0\.0\.0\.0"):
        serve_command(tmp_path / "run", host="0.0.0.0", studies=tmp_path)
    assert not (tmp_path / "labels").exists()  # nothing was published
