"""Key files and allow-lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.service import cli
from hltfarm.service.security.keys import ROOMS, allow_stamp, forbidden, load_allow_list, load_public, load_secret, new_keys


def test_a_pair_is_two_files_and_the_secret_is_private(tmp_path: Path) -> None:
    public, secret = new_keys("readout-1", tmp_path / "keys")
    assert (public.name, secret.name) == ("readout-1.key", "readout-1.key_secret")
    assert secret.stat().st_mode & 0o777 == 0o600
    pair = load_secret(secret)
    assert load_public(public) == pair.public == load_public(secret)
    assert pair.secret not in public.read_bytes()
    assert pair.secret.decode() not in repr(pair)
    assert sorted(path.name for path in public.parent.iterdir()) == ["readout-1.key", "readout-1.key_secret"]


def test_a_pair_is_never_overwritten(tmp_path: Path) -> None:
    public, secret = new_keys("a", tmp_path)
    before = public.read_bytes(), secret.read_bytes()
    with pytest.raises(ConfigError, match=r"a\.key_secret: there is such a key already"):
        new_keys("a", tmp_path)
    assert (public.read_bytes(), secret.read_bytes()) == before


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["keys", "new", "a", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert str(tmp_path / "a.key_secret") in text
    assert load_secret(tmp_path / "a.key_secret").secret.decode() not in text
    assert cli.run(["keys", "new", "../a", "--out", str(tmp_path)]) == 2
    assert "name of a key '../a'" in capsys.readouterr().err


def test_the_group_may_read_what_root_handed_over() -> None:
    assert not forbidden(owner=0, user=10001) & 0o440, "a mounted secret"
    assert forbidden(owner=0, user=10001) & 0o464 == 0o024
    assert forbidden(owner=10001, user=10001) & 0o040
    assert forbidden(owner=0, user=0) & 0o040


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    _, secret = new_keys("a", tmp_path)
    secret.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600"):
        load_secret(secret)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no public key"),
        ("public-key", "holds no public key"),
        ('public-key = "short"', "40 characters"),
        ('public-key = "' + "#" * 40 + '"', "40 characters"),
        ('public-key = "' + "~" * 40 + '"', "40 characters"),
        ("#" * 20_000, "no more than"),
    ],
)
def test_files_that_are_no_keys(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.key"
    path.write_text(text)
    path.chmod(0o600)
    for load in (load_public, load_secret):
        with pytest.raises(ConfigError, match=reason):
            load(path)


def test_a_public_file_is_no_secret_and_pairs_belong_together(tmp_path: Path) -> None:
    public, secret = new_keys("a", tmp_path)
    other, _ = new_keys("b", tmp_path)
    for mode in (0o644, 0o600):
        public.chmod(mode)
        with pytest.raises(ConfigError, match="holds no secret key"):
            load_secret(public)
    secret.write_text(secret.read_text().replace(load_public(public).decode(), load_public(other).decode()))
    with pytest.raises(ConfigError, match="not that of its secret key"):
        load_secret(secret)
    with pytest.raises(ConfigError, match="No such file"):
        load_secret(tmp_path / "none")


def allow(folder: Path, room: str, name: str) -> bytes:
    public, _ = new_keys(name, folder / ".." / "made")
    (folder / room).mkdir(parents=True, exist_ok=True)
    (folder / room / public.name).write_bytes(public.read_bytes())
    return load_public(public)


def test_an_allow_list_knows_names_by_key_and_room(tmp_path: Path) -> None:
    folder = tmp_path / "allow"
    reader, control = allow(folder, "clients", "readout"), allow(folder, "control", "shifter")
    (folder / "clients" / "broken.key").write_text("nonsense")
    (folder / "clients" / "notes.txt").write_text("not a key")
    found = load_allow_list(folder)
    assert found.name("clients", reader) == "readout"
    assert found.name("control", reader) is None, "who sends events does not steer"
    assert found.name("control", control) == "shifter"
    assert found.name("clients", b"") is None
    assert len(found.faults) == 1
    assert "broken.key" in found.faults[0]
    assert allow_stamp(folder) == found.stamp
    (folder / "clients" / "readout.key").unlink()
    assert allow_stamp(folder) != found.stamp


def test_a_folder_without_rooms_is_no_allow_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"there is no folder {tmp_path}/{ROOMS[0]}"):
        load_allow_list(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "--curve-key", "x"],
        ["serve", "--allow", "x"],
        ["load", "--source", "x", "--key", "x"],
        ["control", "--server-key", "x"],
    ],
)
def test_options_that_belong_together(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert "belong together" in capsys.readouterr().err
