"""`hltfarm replay` without a farm: which bundles are read, what is compared, how a verdict is found and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.errors import ConfigError, SampleError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import ModelInfo, RunConfig
from hltfarm.proto.results import RESULT, EventFlag
from hltfarm.proto.wire import Reason
from hltfarm.proto.worker_link import PathInfo
from hltfarm.service.cli import run
from hltfarm.service.ingest import error_stream
from hltfarm.service.ingest.error_stream import ErrorStream
from hltfarm.service.ingest.programmes import Entry
from hltfarm.service.ingest.sample_writer import write_sample
from hltfarm.service.replay import session
from hltfarm.service.replay.bundle import Bundle, FailedEvent, Failure, find_bundles, read_bundle
from hltfarm.service.replay.link import Done, Prepared
from hltfarm.service.replay.report import Unusable, exit_code, lines, summary, to_json
from hltfarm.service.replay.session import Options, Replay, configuration
from hltfarm.service.replay.verdict import Ending, Failed, Verdict, cautions, compared, differences, judge
from hltfarm.workers.menu import DEFAULT_MENU

MODEL = ModelInfo(
    target="track",
    name="some",
    version=1,
    hash="abcd",
    kind="mlp",
    engine="fused",
    working_point="0.9",
    features=("pt",),
    working_points={},
)
HERE = Prepared(
    backend="cpu", device="cpu:1", menu_hash="12", paths=(PathInfo("HLT_A", "s"), PathInfo("HLT_B", "s")), models=(MODEL,), conditions="cc"
)
FAILURE = error_stream.Failure("w0", "RuntimeError: no", 1, {"backend": "cpu", "device": "cpu:2"})


def write(folder: Path, reason: Reason = Reason.WORKER_FAILED, config: RunConfig | None = None, events: int = 2, **changes: Any) -> Path:
    """A bundle as the ingest writes it."""
    config = config or RunConfig(run=3)
    entry = Entry(1, config, built=True, menu_hash="12", models=(MODEL,), conditions="cc")
    for name, value in changes.items():
        setattr(entry, name, value)
    payload = np.array([1, 40, 8, 1, 2], dtype="<u4").view(np.uint8)
    failed = [error_stream.FailedEvent(RawEvent(EventId(3, 1, i, 9), payload), 1, (FAILURE,)) for i in range(events)]
    return ErrorStream(folder, write_sample).write(entry, reason, failed, 1e9)


def bundle(folder: Path, **changes: Any) -> Bundle:
    return read_bundle(write(folder, **changes))


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.NONE])
def test_bundles_of_every_reason_are_read(reason: Reason, tmp_path: Path) -> None:
    config = RunConfig(run=3, menu="version: 1\n", model="/some", working_point="0.9", engine="torch", event_model="none", detector="/d")
    read = bundle(tmp_path, reason=reason, config=config)
    record = read.record
    assert (record.reason, record.config, record.models, read.menu) == (reason.name, config, (MODEL,), "version: 1\n")
    assert (record.menu_hash, record.conditions, record.unix_seconds) == ("12", "cc", 1e9)
    assert record.versions["numpy"] == np.__version__
    assert [event.id for event in record.events] == [event.id for event in Sample(read.events_file)]
    assert record.events[0].failures == (Failure("w0", "RuntimeError: no", 1, {"backend": "cpu", "device": "cpu:2"}),)


def test_the_built_in_menu_comes_with_the_bundle(tmp_path: Path) -> None:
    """The next version may have another one."""
    read = bundle(tmp_path)
    assert (read.record.config.menu, read.menu) == ("", DEFAULT_MENU)
    assert configuration(read, Options()).menu == DEFAULT_MENU
    (read.folder / "menu.yaml").unlink()
    assert read_bundle(read.folder).menu == "", "then the hash tells whether it is the same"


def changed(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "bundle.json").read_text()) | changes
    (folder / "bundle.json").write_text(json.dumps(record))


def damage(folder: Path, how: str) -> None:
    record, events = folder / "bundle.json", folder / "events.hlt"
    if how == "no record":
        record.unlink()
    elif how == "no events":
        events.unlink()
    elif how == "record cut short":
        record.write_bytes(record.read_bytes()[:200])
    elif how == "record is no text":
        record.write_bytes(bytes([255, 0, 1]))
    elif how == "foreign record":
        record.write_text('{"bundle_version": 1, "events": 3}')
    elif how == "no bundle":
        record.write_text("[1, 2]")
    elif how == "events cut short":
        events.write_bytes(events.read_bytes()[:-200])
    elif how == "a bit of an event":
        data = bytearray(events.read_bytes())
        data[data.index(np.array([40, 8, 1], "<u4").tobytes())] ^= 1
        events.write_bytes(data)
    elif how == "menu is no text":
        (folder / "menu.yaml").write_bytes(bytes([255, 254, 0]))
    else:
        changed(
            folder,
            **{
                "later version": {"bundle_version": 2},
                "unknown reason": {"reason": "TIRED"},
                "events elsewhere": {"events_file": "../../events.hlt"},
                "no event": {"events": []},
                "of no time": {"unix_seconds": 1e300},
                "events of another bundle": {"events": json.loads(record.read_text())["events"][:1]},
            }[how],
        )


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no record", "bundle.json: cannot be read"),
        ("no events", "events.hlt: cannot be read"),
        ("record cut short", "bundle.json: not the record of a bundle, or damaged"),
        ("record is no text", "bundle.json: not the record of a bundle, or damaged"),
        ("foreign record", "bundle.json: not the record of a bundle, or damaged: Expected"),
        ("no bundle", "bundle.json: not the record of a bundle, or damaged"),
        ("events cut short", "events.hlt"),
        ("a bit of an event", "events.hlt"),
        ("menu is no text", "menu.yaml: cannot be read"),
        ("later version", "a bundle of version 2, this hltfarm reads 1"),
        ("unknown reason", "reason 'TIRED' is unknown; there are WORKER_LOST"),
        ("events elsewhere", "its events are in '../../events.hlt'"),
        ("of no time", "bundle.json: not the record of a bundle, or damaged"),
        ("no event", "events.hlt has 2 events, bundle.json names 0"),
        ("events of another bundle", "events.hlt has 2 events, bundle.json names 1, and number 1 is not the same"),
    ],
)
def test_damaged_and_foreign_bundles_are_clear_errors(how: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path)
    damage(folder, how)
    with pytest.raises(SampleError) as caught:
        read_bundle(folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)
    assert run(["replay", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_bundles_below_a_folder(tmp_path: Path) -> None:
    first, second = write(tmp_path / "ingest-0"), write(tmp_path / "ingest-1", Reason.RESET)
    (second / "bundle.json").unlink()  # half a bundle is told of, not passed over
    half = tmp_path / "ingest-0" / "run000003" / ".000009-reset-1.partial"
    half.mkdir()
    (half / "events.hlt").write_bytes(b"")
    assert find_bundles(tmp_path) == [first, second]
    assert find_bundles(first) == find_bundles(first / "bundle.json") == [first]
    for nothing in (half.parent.parent / "none", tmp_path / "ingest-0" / "run000003" / "none"):
        with pytest.raises(SampleError, match="no such bundle"):
            find_bundles(nothing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SampleError, match="no bundles in it"):
        find_bundles(tmp_path / "empty")


def test_folders_of_the_farm_that_are_not_here_have_a_way_out(tmp_path: Path) -> None:
    config = RunConfig(run=3, detector="/nowhere/detector", model="/nowhere/model", event_model="/nowhere/events")
    read = bundle(tmp_path, config=config)
    with pytest.raises(ConfigError, match=r"no conditions at '/nowhere/detector'.* digest cc with --conditions"):
        configuration(read, Options())
    with pytest.raises(ConfigError, match=r"no model at '/nowhere/model'.*some:abcd at 0.9 \(fused\); give a folder with --model"):
        configuration(read, Options(conditions="phase1"))
    with pytest.raises(ConfigError, match="with --event-model"):
        configuration(read, Options(conditions="phase1", model="track-mlp"))
    here = Options(conditions="phase1", model="track-mlp", event_model="none")
    assert configuration(read, here) == RunConfig(run=3, detector="phase1", menu=DEFAULT_MENU, model="track-mlp", event_model="none")


def test_what_decides_is_compared(tmp_path: Path) -> None:
    record = bundle(tmp_path).record
    assert differences(record, HERE) == []
    other = Prepared(backend="cpu", device="", menu_hash="13", paths=(), models=(), conditions="dd")
    assert differences(record, other) == [
        "menu 13, the bundle has 12",
        "models none, the bundle has some:abcd at 0.9 (fused)",
        "conditions dd, the bundle has cc",
    ]
    unknown = bundle(tmp_path, menu_hash="", models=(), conditions="").record
    assert differences(unknown, other) == []
    assert "cannot be compared" in cautions(unknown, HERE, unknown.versions)[0]


def test_versions_and_backends_are_told(tmp_path: Path) -> None:
    record = bundle(tmp_path).record
    assert cautions(record, HERE, record.versions) == []
    gpu = Prepared(backend="cuda", device="H200", menu_hash="", paths=(), models=(), conditions="")
    found = cautions(record, gpu, {**record.versions, "numpy": "1.0", "cupy-cuda13x": "14"})
    assert found == [
        "cupy-cuda13x 14, in the farm it was not there",
        f"numpy 1.0, in the farm {np.__version__}",
        "replayed on cuda (H200), the farm failed on cpu",
    ]


def row(**values: Any) -> Done:
    record = np.zeros(1, dtype=RESULT)
    for name, value in values.items():
        record[name] = value
    return Done(result=record.tobytes(), seconds=0.25)


EVENT = FailedEvent(3, 1, 42, 9, 20, 1, (Failure("w0", "RuntimeError: no", 1, {"backend": "cpu"}),))
LOST = Failed(ending=Ending.CRASHED, text="the process ended: signal SIGSEGV", detail="stack")
RAISED = Failed(ending=Ending.RAISED, text="RuntimeError: no")


def test_the_same_bits_each_time_are_good() -> None:
    verdict = judge(EVENT, [row(digest=7, path_bits=2, accept=1), row(digest=7, path_bits=2, accept=1)])
    assert verdict.good
    assert (verdict.results["digest"].tolist(), verdict.seconds, compared(verdict, "WORKER_FAILED")) == ([7, 7], (0.25, 0.25), "")


def test_any_other_bit_is_not_reproducible() -> None:
    verdict = judge(EVENT, [row(digest=7, sum_pt=1.0), row(digest=7, sum_pt=1.5), row(digest=8, sum_pt=1.0)])
    assert (verdict.ending, verdict.text) == (Ending.NOT_REPRODUCIBLE, "3 reconstructions differ in digest, sum_pt")
    assert not verdict.good
    nan = row(event_score=np.nan)
    assert judge(EVENT, [nan, nan]).good, "bits are compared, not values"


def test_a_failure_is_compared_with_those_of_the_farm() -> None:
    raised, lost = judge(EVENT, [row(digest=7), RAISED]), judge(EVENT, [LOST])
    assert (raised.ending, len(raised.results), raised.good) == (Ending.RAISED, 1, False)
    assert compared(raised, "WORKER_FAILED") == "as in the farm"
    assert compared(lost, "WORKER_FAILED") == "not what the farm recorded"
    assert compared(lost, "WORKER_LOST") == "as in the farm"
    other = judge(EVENT, [Failed(ending=Ending.RAISED, text="MemoryError: no")])
    assert compared(other, "WORKER_FAILED") == "not what the farm recorded"
    assert compared(judge(FailedEvent(3, 1, 42, 9, 20, 0, ()), [LOST]), "STOPPED") == "the farm recorded no failure"


def replayed(folder: Path, *times: list[Done | Failed]) -> Replay:
    read = bundle(folder, events=len(times))
    verdicts: tuple[Verdict, ...] = tuple(judge(event, given) for event, given in zip(read.record.events, times, strict=True))
    return Replay(bundle=read, here=HERE, differences=("menu 12, the bundle has 13",), cautions=("numpy",), verdicts=verdicts)


def test_the_report_of_good_and_bad_events(tmp_path: Path) -> None:
    accepted = row(digest=0xAB, path_bits=2, accept=1, flags=int(EventFlag.FED_REJECTED | EventFlag.HIT_OVERFLOW), tracks=5)
    outcome = replayed(tmp_path, [accepted, accepted], [RAISED], [LOST])
    text = "\n".join(lines(outcome, details=False))
    assert "run 3, WORKER_FAILED, 2001-09-09 01:46:40 UTC, 3 events" in text
    assert "DIFFERENT: menu 12, the bundle has 13" in text
    assert "reconstructed 2 times with the same bits, 250.0 ms: accepted by HLT_B; digest 00000000000000ab" in text
    assert "tracks 5," in text
    assert "flags FED_REJECTED, HIT_OVERFLOW" in text
    assert "farm: w0 (cpu cpu:2), alone: RuntimeError: no" in text
    assert "here: raised: RuntimeError: no (as in the farm)" in text
    assert "here: crashed: the process ended: signal SIGSEGV (not what the farm recorded)" in text
    assert "stack" not in text
    assert "          stack" in lines(outcome, details=True)
    document = to_json([outcome])
    json.dumps(document)
    first, second, third = document["bundles"][0]["events"]
    assert (first["digests"], first["result"]["paths"], first["result"]["tracks"]) == (["00000000000000ab"] * 2, ["HLT_B"], 5)
    assert (second["ending"], second["result"], third["detail"]) == ("raised", None, "stack")


def test_the_exit_code_and_the_summary_are_of_all_bundles(tmp_path: Path) -> None:
    good, bad = replayed(tmp_path, [row()]), replayed(tmp_path, [row()], [LOST])
    broken = Unusable(Path("/b"), "damaged")
    assert [exit_code(outcomes) for outcomes in ([good], [good, bad], [good, broken], [bad, broken])] == [0, 1, 2, 2]
    assert summary([good, bad, broken]) == "3 bundles: 3 events, 2 reconstructed, 1 crashed, 1 bundle not replayed"


def test_foreign_texts_do_not_reach_the_terminal_as_commands(tmp_path: Path) -> None:
    outcome = replayed(tmp_path, [Failed(ending=Ending.RAISED, text="\x1b[2J\nfarm: fine")])
    assert "raised: ?[2J?farm: fine" in lines(outcome, details=False)[-1]


def test_foreign_texts_in_an_error_neither(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, config=RunConfig(run=3, model="/nowhere"), models=(replace(MODEL, name="\x1b[2J"),))
    assert run(["replay", str(folder)]) == 2
    assert "?[2J:abcd" in capsys.readouterr().err


class FakeChild:
    """Answers what it is told; events of the numbers in `fatal` end it."""

    def __init__(self, made: list[FakeChild], fatal: set[int]) -> None:
        made.append(self)
        self.fatal, self.closed, self.asked = fatal, False, list[int]()

    def reconstruct(self, index: int, timeout_s: float) -> Done | Failed:
        assert not self.closed
        self.asked.append(index)
        return LOST if index in self.fatal else row(digest=index)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("children", "asked", "endings"),
    [
        (9, [[0, 0, 1], [2, 2, 3]], ["reconstructed", "crashed", "reconstructed", "crashed"]),
        (1, [[0, 0, 1]], ["reconstructed", "crashed", "crashed", "crashed"]),
    ],
)
def test_an_event_that_took_the_process_along_is_followed_by_a_new_one(
    children: int, asked: list[list[int]], endings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FakeChild] = []

    def prepared(read: Bundle, message: object) -> tuple[FakeChild, Prepared]:
        if len(made) == children:
            raise ConfigError("the device is gone")
        return FakeChild(made, {1, 3}), HERE

    monkeypatch.setattr(session, "prepared", prepared)
    outcome = session.replay(bundle(tmp_path, events=4), Options(), lambda text: None)
    assert [child.asked for child in made] == asked, "no process is started for nothing after the last event"
    assert all(child.closed for child in made)
    assert [verdict.ending.value for verdict in outcome.verdicts] == endings
    assert not outcome.good
    if children == 1:
        assert "nothing can be built any more after event 1: the device is gone" in outcome.verdicts[2].text


def test_other_hashes_are_refused_before_anything_is_reconstructed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeChild] = []
    monkeypatch.setattr(session, "prepared", lambda read, message: (FakeChild(made, set()), HERE))
    read = bundle(tmp_path, menu_hash="77")
    with pytest.raises(ConfigError, match=r"not what decided in the farm: menu 12, the bundle has 77; --force"):
        session.replay(read, Options(), lambda text: None)
    assert [(child.asked, child.closed) for child in made] == [([], True)]
    outcome = session.replay(read, Options(force=True, times=1), lambda text: None)
    assert (outcome.good, outcome.differences) == (True, ("menu 12, the bundle has 77",))


def test_options_that_cannot_be_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write(tmp_path))
    for options in (["--backend", "gpu"], ["--times", "0"], ["--timeout-s", "0"], ["--json", str(tmp_path)]):
        assert run(["replay", folder, *options]) == 2
        assert capsys.readouterr().err.count("\n") == 1
