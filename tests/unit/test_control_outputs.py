"""Outputs over HTTP."""

from __future__ import annotations

import httpx

from hltfarm.proto.messages import RunState
from tests.unit.farm_fake import FakeLink
from tests.unit.test_control_api import run


def test_outputs_and_consumers_are_listed() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        (output,) = (await client.get("/v1/outputs")).json()["outputs"]
        assert (output["folder"], output["closed_files"], output["free_bytes"]) == ("/data/output", 43, 50)
        (consumer,) = output["consumers"]
        assert (consumer["name"], consumer["mode"], consumer["waiting"]) == ("tap", "lossless", 55)

    run(FakeLink(RunState.HALTED), test)


def test_a_consumer_is_detached_where_it_is() -> None:
    link = FakeLink(RunState.HALTED)

    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/outputs/consumers/nobody/detach")
        assert answer.status_code == 404
        assert "no ingest has a consumer 'nobody'" in answer.json()["detail"]
        assert link.detached == []
        assert (await client.post("/v1/outputs/consumers/tap/detach")).status_code == 200
        assert link.detached == ["tap"]

    run(link, test)
