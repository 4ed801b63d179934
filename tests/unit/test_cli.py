"""How the command line ends: one line on stderr, the right exit code, never a traceback; and quickly."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from hltfarm.proto.errors import BackendError, ConfigError, SampleError, StateError
from hltfarm.service import cli

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"
CUDA = ": pip install 'hltfarm[cuda]'"
COMMAND = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()"]


def hltfarm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command} " in text for command in cli.COMMANDS)


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    assert f"hltfarm {command}" in capsys.readouterr().out


def test_help_is_quick() -> None:
    """Less than half a second of processor time, so that shells and scripts can ask; nothing heavy is imported for it."""
    code = (
        "import sys, time\n"
        "from hltfarm.service import cli\n"
        "assert cli.run(['--help']) == 0\n"
        "heavy = {'torch', 'cupy', 'numpy', 'fastapi', 'zmq', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'{time.process_time():.2f} s, {heavy}' if heavy or time.process_time() > 0.5 else 0)\n"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_version() -> None:
    result = hltfarm("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("hltfarm 0.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lod"], "No such command 'lod'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["load", "--nonsense"], "No such option"),
        (["load"], "Missing option"),
        (["load", "--source", "x", "--connections", "-1"], "--connections"),
        (["load", "--source", "x", "--rate", "fast"], "--rate 'fast'"),
        (["load", "--source", "x", "--rate", "-5"], "rate -5 Hz"),
        (["load", "--source", "x", "--arrival", "odd"], "uniform, poisson"),
        (["load", "--source", "/nonexistent/sample.hlt"], "/nonexistent/sample.hlt"),
        (["menu", "check"], "(see `hltfarm menu check --help`)"),
        (["serve", "--tokens", "/nonexistent/tokens.yaml"], "tokens file /nonexistent/tokens.yaml: No such file"),
        (["control", "--model", "nothing"], "model 'nothing' is not shipped"),
        (["control", "--model", "/models/x", "--working-point", "tight"], "working point 'tight'"),
        (["control", "--event-model", "./x"], "absolute path"),
    ],
)
def test_bad_arguments_end_with_one_line(arguments: list[str], expected: str) -> None:
    result = hltfarm(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("hltfarm: error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["reco", str(DEMO)], ["validate", str(DEMO), "--out", "validation"], ["menu", "rates", "menu.yaml", str(DEMO)]],
)
def test_a_working_point_needs_a_selector(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "menu.yaml").write_text("version: 1\npaths: [{name: HLT_All}]\n")
    assert cli.run([*arguments, "--model", "none", "--working-point", "0.99"]) == 2
    assert capsys.readouterr().err == "hltfarm: error: working point '0.99' has no effect without a selector; name one as model\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["reco", "absent.hlt", "--json", "no/x.json"],
        ["reco", "absent.hlt", "--out", "no/x.npz"],
        ["menu", "rates", "absent.yaml", "absent.hlt", "--json", "no/x.json"],
        ["bench", "pipeline", "absent.hlt", "--json", "no/x.json"],
        ["bench", "selector", "absent", "--backend", "cpu", "--json", "no/x.json"],
        ["bench", "inference", "--device", "cpu", "--json", "file/no/x.json"],
        ["bench", "inference", "--device", "cpu", "--plots", "file/no"],
        ["validate", str(DEMO), "--out", "file/no"],
    ],
)
def test_outputs_are_looked_at_first(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the work, and before the inputs: measuring for minutes into a folder that is not there helps nobody."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert cli.run(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert any(reason in error for reason in ("there is no folder no; make it first", "the folder cannot be made: Not a directory"))


def test_a_folder_is_no_output_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["reco", "absent.hlt", "--json", str(tmp_path)]) == 2
    assert f"--json {tmp_path}: is a folder" in capsys.readouterr().err


def test_options_of_a_role_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HLTFARM_CONTROL_ENGINE", "warp")
    result = hltfarm("control")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "engine 'warp' is unknown; use fused, eager, compile, aot" in result.stderr


@pytest.mark.parametrize("size", [40, 200_000])
def test_errors_of_a_menu_name_its_file(size: int, tmp_path: Path) -> None:
    menu = tmp_path / "bad.yaml"
    menu.write_text("version: 1\npaths: oops #" + "x" * size)
    result = hltfarm("reco", str(DEMO), "--menu", str(menu))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert str(menu) in result.stderr
    assert ("too large for a menu" in result.stderr) == (size > 1 << 17)


def test_a_group_without_a_command_shows_its_help() -> None:
    result = hltfarm("bench")
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: hltfarm bench")
    assert "Traceback" not in result.stderr


def fake_command(monkeypatch: pytest.MonkeyPatch, action: object) -> None:
    """Make `hltfarm load` do `action` instead."""

    def register(app: typer.Typer, module: str) -> None:
        app.command(module)(action)  # type: ignore[type-var]

    monkeypatch.setattr(cli, "register", register)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("menu: no such path"), 2, "menu: no such path"),
        (SampleError("x.hlt:\n  truncated"), 2, "x.hlt: truncated"),
        (BackendError("no device"), 1, "no device"),
        (StateError("the run is paused"), 1, "the run is paused"),
        (FileNotFoundError(2, "No such file or directory", "x"), 1, "[Errno 2] No such file or directory: 'x'"),
        (ModuleNotFoundError("No", name="cupy"), 1, f"this command needs the module 'cupy', which is not installed{CUDA}"),
        (ModuleNotFoundError("No", name="x"), 1, "this command needs the module 'x', which is not installed"),
        (ZeroDivisionError("oh"), 1, "internal error: ZeroDivisionError: oh (HLTFARM_DEBUG=1 shows where)"),
    ],
)
def test_errors_become_one_line(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def action() -> None:
        raise error

    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)
    fake_command(monkeypatch, action)
    assert cli.run(["load"]) == code
    assert capsys.readouterr().err == f"hltfarm: error: {line}\n"
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    with pytest.raises(type(error)):
        cli.run(["load"])


def test_exit_codes_of_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def exits() -> None:
        raise typer.Exit(7)

    def interrupted() -> None:
        raise KeyboardInterrupt

    for action, code in ((lambda: 3, 3), (lambda: None, 0), (exits, 7), (interrupted, 130)):
        fake_command(monkeypatch, action)
        assert cli.run(["load"]) == code
    assert capsys.readouterr().err == ""


def test_interrupt_is_quiet() -> None:
    """Ctrl-C while waiting for an ingest that is not there."""
    code = (
        "import sys, threading\n"
        "from hltfarm.service import cli\n"
        "def action():\n"
        "    print('ready', flush=True)\n"
        "    threading.Event().wait(60)\n"
        "cli.register = lambda app, module: app.command(module)(action)\n"
        "sys.exit(cli.run(['load']))\n"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == ""


def test_closed_pipe_is_no_traceback() -> None:
    with subprocess.Popen([*COMMAND, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
