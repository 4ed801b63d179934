"""The tokens file: what it may hold, who may read it, and how it is read again."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.service import cli
from hltfarm.service.security.tokens import PREFIX, Role, Tokens, TokensFile, add_entry, load_tokens, new_token, parse_tokens

DIGEST = hashlib.sha256(b"hlt_one").hexdigest()
OTHER = hashlib.sha256(b"hlt_two").hexdigest()


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def entry(name: str = "a", role: str = "viewer", digest: str = DIGEST, **more: str) -> str:
    extra = "".join(f', {key}: "{value}"' for key, value in more.items())
    return f'  - {{name: {name}, role: {role}, sha256: "{digest}"{extra}}}\n'


def test_a_token_is_found_by_its_digest() -> None:
    tokens = parse_tokens("tokens:\n" + entry() + entry("b", "admin", OTHER, expires="2027-01-31"), "f")
    found = tokens.find("hlt_two")
    assert found is not None
    assert (found.name, found.role, found.end) == ("b", "admin", datetime(2027, 1, 31, tzinfo=UTC))
    assert tokens.find("hlt_three") is None
    assert tokens.find("") is None
    assert tokens.find(DIGEST) is None, "who has read the file has no token"
    assert tokens.find("hlt_\udcff") is None


def test_every_entry_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    tokens = parse_tokens("tokens:\n" + entry() + entry("b", digest=OTHER), "f")
    assert tokens.find("hlt_one") is not None
    assert compared == [bytes.fromhex(DIGEST), bytes.fromhex(OTHER)]


@pytest.mark.parametrize("text", ["", "tokens: []\n", "# nothing\n"])
def test_a_file_without_tokens_lets_nobody_in(text: str) -> None:
    assert len(parse_tokens(text, "f")) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tokens:\n" + entry(role="boss"), "role 'boss': choose one of viewer, operator, admin"),
        ("tokens:\n" + entry(name="../x"), "name"),
        ("tokens:\n" + entry(digest="12"), "sha256"),
        ("tokens:\n" + entry(expires="tomorrow"), "expires"),
        ("tokens:\n" + entry(password="x"), "password"),
        ("tokens:\n" + entry() + entry(digest=OTHER), "name 'a' stands there twice"),
        ("tokens:\n" + entry() + entry("b"), "stands there twice"),
        ("tokens: 7\n", "tokens"),
        ("- a\n", "document"),
        ("token: []\n", "tokens"),
        ("tokens: &a [*a]\n", "anchors"),
        ("tokens: !!python/object:os.system []\n", "line 1"),
        ("tokens: [" * 2000, "levels"),
        ("tokens:\n\t- x", "line 2"),
    ],
)
def test_what_is_wrong_is_said(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="tokens file f") as caught:
        parse_tokens(text, "f")
    assert reason in str(caught.value)
    assert DIGEST not in str(caught.value) or reason.startswith("stands")


@pytest.mark.parametrize("mode", [0o604, 0o606, 0o620, 0o601, 0o777])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600"):
        load_tokens(written(tmp_path / "tokens.yaml", "tokens: []\n", mode))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        TokensFile(tmp_path / "none")
    with pytest.raises(ConfigError, match="directory"):
        load_tokens(written(tmp_path, "", 0o700) if not tmp_path.is_dir() else tmp_path)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    binary.chmod(0o600)
    with pytest.raises(ConfigError, match="utf-8"):
        load_tokens(binary)
    with pytest.raises(ConfigError, match="no more than"):
        load_tokens(written(tmp_path / "large", "#" * (1 << 18)))


def test_a_change_of_the_file_counts_at_once_and_a_broken_one_not_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "tokens.yaml", "tokens:\n" + entry())
    file = TokensFile(path)
    assert file.current().find("hlt_one") is not None
    written(path, "tokens:\n" + entry("b", digest=OTHER))
    assert file.current().find("hlt_one") is None
    assert file.current().find("hlt_two") is not None
    written(path, "tokens: 7 # broken\n")
    assert file.current().find("hlt_two") is not None
    assert file.problem is not None
    assert "the tokens of before remain valid" in caplog.text
    with pytest.raises(ConfigError, match="tokens"):
        file.reload()
    path.unlink()
    assert file.current().find("hlt_two") is not None
    written(path, "tokens: []\n")
    assert len(file.current()) == 0
    assert file.problem is None


def test_the_command_makes_a_token_that_the_file_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tokens.yaml"
    made = []
    for name, role in (("night", "operator"), ("boss", "admin")):
        assert cli.run(["token", "new", name, "--role", role, "--file", str(path), "--expires", "2999-01-01"]) == 0
        made.append(capsys.readouterr().out.strip())
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    tokens = load_tokens(path)
    for token, name, role in zip(made, ("night", "boss"), ("operator", "admin"), strict=True):
        assert token.startswith(PREFIX)
        assert token not in text
        found = tokens.find(token)
        assert found is not None
        assert (found.name, found.role, found.end) == (name, role, datetime(2999, 1, 1, tzinfo=UTC))
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def test_the_entry_that_is_printed_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["token", "new", "dash", "--role", "viewer"]) == 0
    out, err = capsys.readouterr()
    line = next(line for line in err.splitlines() if line.startswith("  - "))
    assert parse_tokens(f"tokens:\n{line}\n", "pasted").find(out.strip()) is not None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a", "--role", "boss"], "role 'boss'"),
        (["a b"], "token 'a b'"),
        (["a", "--expires", "2001-01-01"], "over already"),
        (["a", "--expires", "soon"], "--expires 'soon'"),
        (["a", "--file", "/proc/none/tokens"], "cannot be written"),
    ],
)
def test_what_the_command_does_not_take(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["token", "new", *arguments]) == 2
    out, err = capsys.readouterr()
    assert reason in err
    assert out == ""


def test_an_entry_is_added_without_touching_the_rest(tmp_path: Path) -> None:
    path = written(tmp_path / "tokens.yaml", "# ours\ntokens:\n" + entry() + "  # the end", 0o640)
    token, fresh = new_token("new", Role.ADMIN)
    add_entry(path, fresh)
    assert path.read_text().startswith("# ours\n")
    assert path.stat().st_mode & 0o777 == 0o640
    tokens = load_tokens(path)
    assert isinstance(tokens, Tokens)
    assert tokens.find("hlt_one") is not None
    assert tokens.find(token) is not None
    before = path.read_text()
    with pytest.raises(ConfigError, match="'new' stands there twice"):
        add_entry(path, new_token("new", Role.VIEWER)[1])
    assert path.read_text() == before
    flow = written(tmp_path / "flow.yaml", f'tokens: [{{name: a, role: viewer, sha256: "{DIGEST}"}}]\n')
    with pytest.raises(ConfigError, match="add by hand"):
        add_entry(flow, fresh)
