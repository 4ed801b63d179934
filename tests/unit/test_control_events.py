"""Events over HTTP: lists, the event that is drawn, the raw one, and what is said when something cannot be had. With the fake farm."""

from __future__ import annotations

import asyncio
import gzip
import re
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest

from hltfarm.loadgen.sample import Sample, SampleWriter
from hltfarm.proto.columns import encode_columns
from hltfarm.proto.detector import phase1
from hltfarm.proto.errors import SampleError
from hltfarm.proto.messages import ModelInfo, RunConfig, RunState
from hltfarm.proto.results import RESULT
from hltfarm.service.control.access import AccessSettings
from hltfarm.service.control.app import create_app
from hltfarm.service.control.display import Display, DisplaySettings
from hltfarm.service.control.event_models import EventDisplay
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.ingest.programmes import Entry
from hltfarm.service.replay import link
from hltfarm.service.replay.columns import nearest_vertices, occupancy_tables
from hltfarm.service.replay.session import Child
from hltfarm.service.replay.verdict import Ending, Failed
from hltfarm.workers.configuration import DEFAULT
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstruct import per_event, reconstruct
from tests.unit.farm_fake import ENDPOINT, SELECTOR, FakeLink
from tests.unit.kept_events import DEMO, fail, keep
from tests.unit.test_access import TOKENS, tokens_text

MISSING = "cafe0001-99"


class FakeChild:
    """A process that answers what it is told to, and says what it was asked."""

    def __init__(self, asked: list[str], done: Callable[[], link.Done | Failed]) -> None:
        self._asked, self._done = asked, done

    def ask(self, message: link.ToChild, timeout_s: float) -> link.FromChild | Failed:
        self._asked.append(type(message).__name__)
        if isinstance(message, link.Unpack):
            detector, payload = phase1(), Sample(message.events_file)[0].payload
            return link.Unpacked(columns=encode_columns(occupancy_tables(detector, payload)))
        return link.Prepared(backend="cpu", device="cpu", menu_hash="feed", paths=(), models=(SELECTOR,), conditions="")

    def reconstruct(self, index: int, timeout_s: float, columns: bool = False) -> link.Done | Failed:
        assert (index, columns) == (0, True)
        self._asked.append("Reconstruct")
        return self._done()

    def kill(self) -> None:
        self._asked.append("kill")

    def close(self) -> None:
        self._asked.append("close")


def done() -> link.Done:
    row = np.zeros(1, dtype=RESULT)
    row["digest"], row["hits"], row["flags"] = 0xAB, 2, 1 << 8
    f4, i4 = (lambda *v: np.array(v, dtype=np.float32)), (lambda *v: np.array(v, dtype=np.int32))
    tables = {
        "hits": {"x": f4(1.000001234, 2), "y": f4(3, 4), "z": f4(5, np.nan), "layer": i4(0, 3), "charge": i4(20000, 30000)},
        "tracks": {
            **{name: f4(0.5, 1.5, 2.5) for name in ("pt", "eta", "phi", "tip", "zip", "chi2", "score")},
            "charge": i4(1, -1, 1),
            "n_hits": i4(2, 1, 2),
            "quality": i4(2, 1, 3),
            "vertex": i4(0, -1, 0),
            "hits": np.array([[1, 0, -1], [0, -1, -1], [0, 1, -1]], dtype=np.int32),
        },
        "vertices": {"z": f4(0.25), "ndof": i4(1), "chi2": f4(0.5), "sum_pt2": f4(6.5), "n_tracks": i4(2)},
        "detector": {name: np.array([0.125]) for name in ("x", "y", "z", "sigma_x", "sigma_y", "sigma_z", "field_tesla")},
    }
    return link.Done(result=row.tobytes(), seconds=0.0125, columns=encode_columns(tables))


def display_of(asked: list[str], outcome: Callable[[], link.Done | Failed] = done, **times: float) -> Display:
    settings = DisplaySettings(**times)  # type: ignore[arg-type]
    return Display(settings, start=lambda: cast(Child, FakeChild(asked, outcome)))


Test = Callable[[httpx.AsyncClient], Awaitable[None]]


def run(farm: FakeLink, test: Test, display: Display | None = None, **access: Any) -> None:
    settings = ControlSettings(ingests=(ENDPOINT,), poll_s=0.05, access=AccessSettings.model_validate(access))
    app = create_app(settings, farm, display=display)

    async def whole() -> None:
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await test(client)

    asyncio.run(whole())


def test_lists_are_newest_first_and_of_the_kind_that_was_asked_for() -> None:
    farm = FakeLink(RunState.HALTED)
    first, second, failed = keep(farm, 0, when=1000), keep(farm, 2, when=1001.5), fail(farm)

    async def test(client: httpx.AsyncClient) -> None:
        both = (await client.get("/v1/events")).json()["events"]
        assert [event["id"] for event in both] == [failed, second, first]
        assert [event["id"] for event in (await client.get("/v1/events?kind=accepted&limit=1")).json()["events"]] == [second]
        (error,) = (await client.get("/v1/events?kind=error")).json()["events"]
        assert error == {
            "id": failed, "kind": "error", "run": 9, "lumi": 5, "bx": 1, "event": Sample(DEMO)[1].id.event, "ingest": ENDPOINT,
            "decided_at": "1970-01-01T00:33:20Z", "paths": [], "streams": [], "reason": "WORKER_FAILED", "worker": "w1", "digest": None,
            "size_bytes": Sample(DEMO)[1].payload.nbytes,
        }  # fmt: skip
        accepted = both[1]
        assert (accepted["paths"], accepted["streams"], accepted["digest"]) == (["HLT_A", "HLT_B"], ["physics"], "00000000000000ab")
        assert (accepted["reason"], accepted["decided_at"]) == (None, "1970-01-01T00:16:41.500000Z")
        for wrong in ("kind=rejected", "limit=0", "limit=257"):
            assert (await client.get(f"/v1/events?{wrong}")).status_code == 422
        farm.gone = True
        assert (await client.get("/v1/events")).status_code == 503

    run(farm, test)


def test_errors_are_told_with_all_that_is_known_also_without_a_copy() -> None:
    farm = FakeLink(RunState.HALTED)
    failed = fail(farm, when=2000)
    fail(farm, 3, when=2001, size=1 << 30)

    async def test(client: httpx.AsyncClient) -> None:
        large, small = (await client.get("/v1/errors")).json()["errors"]
        assert small == {
            "time": "1970-01-01T00:33:20Z", "ingest": ENDPOINT, "run": 9, "lumi": 5, "event": Sample(DEMO)[1].id.event, "bx": 1,
            "reason": "WORKER_FAILED", "stage": None, "worker": "w1", "attempts": 3, "error": "RuntimeError: on order",
            "bundle": "run000009/000001-worker_failed-1", "size_bytes": Sample(DEMO)[1].payload.nbytes, "id": failed,
        }  # fmt: skip
        assert (large["size_bytes"], large["id"]) == (1 << 30, None), "too large to be kept"
        assert len((await client.get("/v1/errors?limit=1")).json()["errors"]) == 1

    run(farm, test)


def test_an_event_is_drawn_from_columns() -> None:
    farm, asked = FakeLink(RunState.HALTED), list[str]()
    number = keep(farm)

    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.get(f"/v1/events/{number}")
        assert answer.status_code == 200
        event = answer.json()
        EventDisplay.model_validate({**event, "hits": {**event["hits"], "z": [5.0, 0.0]}})
        meta = event["meta"]
        assert (meta["id"], meta["menu"], meta["models"]) == (number, "feed", [SELECTOR.label])
        assert (meta["digest_equal"], meta["reconstructed_in_ms"], meta["error"], meta["differences"]) == (True, 12.5, None, [])
        assert (event["counts"]["hits"], event["flags"], event["occupancy"]) == (2, ["HIT_OVERFLOW"], None)
        assert event["hits"] == {"x": [1.0, 2.0], "y": [3.0, 4.0], "z": [5.0, None], "layer": [0, 3], "charge": [20000, 30000]}
        tracks = event["tracks"]
        assert (tracks["quality"], tracks["pt"], tracks["vertex"]) == ([2, 3], [0.5, 2.5], [0, 0])
        assert (tracks["hit_offsets"], tracks["hits"]) == ([0, 2, 4], [1, 0, 0, 1])
        assert event["vertices"] == {"z": [0.25], "ndof": [1], "chi2": [0.5], "sum_pt2": [6.5], "n_tracks": [2]}
        assert (event["beam_spot"]["sigma_z"], event["field_tesla"]) == (0.125, 0.125)
        every = (await client.get(f"/v1/events/{number}?quality=all")).json()["tracks"]
        assert (every["quality"], every["hit_offsets"], every["hits"]) == ([2, 1, 3], [0, 2, 3, 5], [1, 0, 0, 0, 1])
        assert asked == ["Prepare", "Reconstruct"], "the second answer came from memory"
        other = (await client.get(f"/v1/events/{keep(farm, 2, digest='00000000000000ac')}")).json()
        assert other["meta"]["digest_equal"] is False
        assert asked[2:] == ["Load", "Reconstruct"], "the same configuration needs no other process"
        config = RunConfig(run=9, menu="other")
        elsewhere = Entry(2, config, built=True, menu_hash="beef", models=(SELECTOR,))
        told = (await client.get(f"/v1/events/{keep(farm, 3, programme=elsewhere)}")).json()["meta"]["differences"]
        assert asked[4:] == ["close", "Prepare", "Reconstruct"]
        assert told == ["menu feed here, beef decided"]

    run(farm, test, display_of(asked))
    assert asked[-1] == "close", "nothing is left behind"


@pytest.mark.parametrize(
    ("ending", "status", "retryable"), [(Ending.TIMED_OUT, 504, True), (Ending.CRASHED, 503, False), (Ending.RAISED, 503, False)]
)
def test_a_reconstruction_that_fails_is_a_problem(ending: Ending, status: int, retryable: bool) -> None:
    farm, asked = FakeLink(RunState.HALTED), list[str]()
    number = keep(farm)

    async def test(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            answer = await client.get(f"/v1/events/{number}")
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
            assert "what it said" in answer.json()["detail"]
            assert answer.json()["retryable"] is retryable
        assert asked == ["Prepare", "Reconstruct", "close"] * 2, "the process is not trusted any more"

    run(farm, test, display_of(asked, lambda: Failed(ending=ending, text="what it said")))


def test_an_event_of_the_error_stream_is_shown_as_far_as_it_can_be() -> None:
    farm, asked = FakeLink(RunState.HALTED), list[str]()
    number = fail(farm)

    async def test(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            event = (await client.get(f"/v1/events/{number}")).json()
            EventDisplay.model_validate(event)
            assert event["meta"]["error"] == "crashed: signal 11"
            assert (event["meta"]["digest_equal"], event["meta"]["reconstructed_in_ms"]) == (None, None)
            assert (event["hits"]["x"], event["tracks"]["hit_offsets"], event["counts"]["hits"]) == ([], [0], 0)
            occupancy = event["occupancy"]
            assert occupancy["layer"] == list(range(10))
            assert sum(occupancy["pixels"]) > 1000
            assert all(0 < fired <= pixels for fired, pixels in zip(occupancy["fired"], occupancy["pixels"], strict=True))
        assert asked == ["Prepare", "Reconstruct", "close", "Unpack"], "once is enough: it would fail again"

    run(farm, test, display_of(asked, lambda: Failed(ending=Ending.CRASHED, text="signal 11")))


def test_one_event_at_a_time_and_not_too_many_that_wait() -> None:
    farm, asked, go = FakeLink(RunState.HALTED), list[str](), threading.Event()

    def slow() -> link.Done:
        assert go.wait(20)
        return done()

    async def test(client: httpx.AsyncClient) -> None:
        numbers = [keep(farm, i, when=1000.0 + i) for i in range(4)]
        first = [asyncio.create_task(client.get(f"/v1/events/{number}")) for number in (numbers[0], numbers[0], numbers[1], numbers[2])]
        while len(display._tasks) < 3:
            await asyncio.sleep(0)
        refused = await client.get(f"/v1/events/{numbers[3]}")
        assert (refused.status_code, refused.json()["retryable"], refused.headers["retry-after"]) == (503, True, "1")
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(*first)] == [200] * 4
        assert asked.count("Reconstruct") == 3, "two that ask for the same event share it"
        assert (await client.get(f"/v1/events/{numbers[3]}")).status_code == 200

    display = display_of(asked, slow, waiting=2)
    run(farm, test, display)


def test_the_process_goes_when_nobody_asks_any_more() -> None:
    farm, asked = FakeLink(RunState.HALTED), list[str]()

    async def test(client: httpx.AsyncClient) -> None:
        await client.get(f"/v1/events/{keep(farm)}")
        async with asyncio.timeout(20):
            while "close" not in asked:
                await asyncio.sleep(0.01)

    run(farm, test, display_of(asked, idle_s=0.05))


def test_ids_that_are_gone_or_none() -> None:
    farm = FakeLink(RunState.HALTED)

    async def test(client: httpx.AsyncClient) -> None:
        for suffix in ("", "/raw"):
            gone = await client.get(f"/v1/events/{MISSING}{suffix}")
            assert (gone.status_code, MISSING in gone.json()["detail"]) == (404, True)
            for wrong in ("nonsense", "cafe0001-", "CAFE0001-1", "cafe0001-1%0a"):
                assert (await client.get(f"/v1/events/{wrong}{suffix}")).status_code == 422, wrong
        assert (await client.get(f"/v1/events/{MISSING}?quality=good")).status_code == 422

    run(farm, test)


def test_raw_data_are_for_operators(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(tokens_text())
    tokens.chmod(0o600)
    farm = FakeLink(RunState.HALTED)
    number = keep(farm)

    async def test(client: httpx.AsyncClient) -> None:
        viewer, operator = ({"Authorization": f"Bearer {TOKENS[role]}"} for role in ("viewer", "operator"))
        for path in ("events", "errors", "history", "paths", "geometry"):
            assert (await client.get(f"/v1/{path}")).status_code == 401
            assert (await client.get(f"/v1/{path}", headers=viewer)).status_code == 200
        assert (await client.get(f"/v1/events/{number}/raw", headers=viewer)).status_code == 403
        answer = await client.get(f"/v1/events/{number}/raw", headers=operator)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith('attachment; filename="run9-lumi4-event')
        file = tmp_path / "got.hlt"
        file.write_bytes(answer.content)
        sample = Sample(file)
        sample.verify()
        assert (len(sample), sample[0].id.run, sample[0].id.lumi) == (1, 9, 4)
        assert sample[0].payload.tobytes() == Sample(DEMO)[0].payload.tobytes()

    run(farm, test, tokens=tokens)


def test_the_cpu_gives_the_bits_of_reco() -> None:
    """The real process, twice: what a worker would have decided, and a model of this machine that is not there."""
    farm = FakeLink(RunState.HALTED)
    source = Sample(DEMO)
    job = reconstruct(source, Menu.parse(DEFAULT_MENU), DEFAULT, backend="cpu", events=1, batch=1, threads=1, keep=True)
    expected = per_event(job)[0]
    number = keep(farm, 0, digest=expected["digest"])
    elsewhere = Entry(2, RunConfig(run=9, model="/nowhere/model"), built=True, menu_hash="feed", models=(cast(ModelInfo, SELECTOR),))
    nowhere = keep(farm, 1, programme=elsewhere)

    async def test(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", f"/v1/events/{number}?quality=all", timeout=120, headers={"Accept-Encoding": "gzip"}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        event = EventDisplay.model_validate_json(gzip.decompress(raw))
        assert event.meta.digest_equal is True
        assert event.counts == {name: expected[name] for name in event.counts}
        assert len(event.hits.x) == len(event.hits.layer) == expected["hits"]
        np.testing.assert_allclose(event.hits.x, job.hits[0]["x"], atol=6e-6)
        np.testing.assert_allclose(event.tracks.pt, job.tracks[0]["pt"], atol=6e-5)
        assert event.tracks.n_hits == job.tracks[0]["n_hits"].tolist() == np.diff(event.tracks.hit_offsets).tolist()
        assert len(event.vertices.z) == expected["vertices"]
        loose = np.array(event.tracks.quality) >= 2
        members = np.array(event.tracks.vertex)[loose]
        assert np.bincount(members[members >= 0], minlength=len(event.vertices.z)).tolist() == event.vertices.n_tracks
        assert (members >= 0).mean() > 0.5
        radius = np.hypot(event.hits.x, event.hits.y)
        layers = (await client.get("/v1/geometry")).json()["layers"]
        for layer in layers:
            mine = radius[np.array(event.hits.layer) == layer["id"]]
            assert layer["r_min"] - 0.3 < mine.min() <= mine.max() < layer["r_max"] + 0.3, layer["name"]
        missing = await client.get(f"/v1/events/{nowhere}", timeout=120)
        assert missing.status_code == 503
        assert "/nowhere/model" in missing.json()["detail"]

    run(farm, test)


def test_a_machine_without_room_for_a_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    farm = FakeLink(RunState.HALTED)
    number = keep(farm)

    async def test(client: httpx.AsyncClient) -> None:
        for folder, fault in ((tmp_path / "nothing", OSError), (tmp_path, SampleError)):
            monkeypatch.setattr(tempfile, "tempdir", str(folder))
            for suffix in ("", "/raw"):
                answer = await client.get(f"/v1/events/{number}{suffix}")
                assert (answer.status_code, answer.json()["type"]) == (503, "urn:hltfarm:error:CannotShowError"), fault

    def full(*_: Any) -> None:
        raise SampleError("events.hlt: No space left on device")

    monkeypatch.setattr(SampleWriter, "add", full)
    run(farm, test, display_of([]))


def test_geometry_is_that_of_the_detector() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        answer = (await client.get("/v1/geometry")).json()
        detector = phase1()
        assert (answer["detector"], answer["field_tesla"]) == (detector.name, detector.field_tesla)
        assert [layer["name"] for layer in answer["layers"]] == [layer.name for layer in detector.layers]
        assert sum(layer["modules"] for layer in answer["layers"]) == detector.n_modules == len(answer["modules"]["layer"])
        corners = np.array(answer["modules"]["corners"]).reshape(-1, 4, 3)
        np.testing.assert_allclose(corners.mean(axis=1), detector.modules.position, atol=0.1)
        for layer in answer["layers"]:
            mine = corners[np.array(answer["modules"]["layer"]) == layer["id"]]
            assert (mine[:, :, 2].min(), mine[:, :, 2].max()) == (layer["z_min"], layer["z_max"])
            assert 0 < layer["r_min"] <= np.hypot(mine[:, :, 0], mine[:, :, 1]).min() < layer["r_max"]
            assert layer["part"] == ("barrel" if "B" in layer["name"] else "endcap")
        small = (await client.get("/v1/geometry?modules=false")).json()
        assert small["modules"] == {"layer": [], "corners": []}
        assert small["layers"] == answer["layers"]

    run(FakeLink(RunState.HALTED), test)


def test_geometry_follows_a_detector_file_that_is_changed(tmp_path: Path) -> None:
    file = tmp_path / "detector.yaml"
    text = (Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "my-detector.yaml").read_text()
    app = create_app(ControlSettings(ingests=(ENDPOINT,), detector=str(file)), FakeLink(RunState.HALTED))

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/v1/geometry")).status_code == 503
            for name in ("first", "second"):
                file.write_text(re.sub(r"(?m)^name: .*$", f"name: {name}", text))
                assert (await client.get("/v1/geometry")).json()["detector"] == name

    asyncio.run(main())


def test_tracks_belong_to_the_nearest_vertex_that_is_near() -> None:
    near = DEFAULT.vertices
    z = np.array([0.0, 1.0])
    tracks = np.array([0.05, 0.5, 0.95, 0.5, 0.12])
    variance = np.array([0.0, 0.0, 0.0, 0.04, 1e-4])
    assert nearest_vertices(tracks, variance, z, near).tolist() == [0, -1, 1, 0, 0]
    assert nearest_vertices(tracks, variance, z[:0], near).tolist() == [-1] * 5
    assert nearest_vertices(tracks[:0], variance[:0], z, near).tolist() == []
