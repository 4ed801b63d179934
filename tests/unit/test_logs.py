"""Log lines: one record, one line of plain characters."""

from __future__ import annotations

import logging

import pytest

from hltfarm.service.logs import LineFormatter


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("readout-1", "readout-1"),
        ("a\nERROR forged", "a ERROR forged"),
        ("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
        ("Müller\u202e\u200b", "Müller\\u202e\\u200b"),
    ],
)
def test_strangers_cannot_forge_lines_or_steer_a_terminal(said: str, shown: str) -> None:
    record = logging.makeLogRecord({"name": "hltfarm.x", "levelname": "INFO", "msg": "client %s", "args": (said,), "key": said})
    line = LineFormatter().format(record)
    assert f"INFO x client {shown} key=" in line
    assert line.isprintable()
