"""The client of the control plane, against answers written by hand."""

from __future__ import annotations

import httpx
import pytest

from hltfarm.proto.errors import StateError
from hltfarm.service.api import FarmApi, FarmError, NoAnswerError
from hltfarm.service.cli.ctl.watch import looks


def farm(*answers: httpx.Response | httpx.HTTPError) -> FarmApi:
    """A client whose requests get these answers, in order; the last one for ever."""
    script = iter(answers)
    last: list[httpx.Response | httpx.HTTPError] = []

    def answer(request: httpx.Request) -> httpx.Response:
        last[:] = [next(script, last[0] if last else answers[-1])]
        if isinstance(last[0], httpx.HTTPError):
            raise last[0]
        return httpx.Response(last[0].status_code, content=last[0].content, headers=last[0].headers)

    return FarmApi("http://farm", transport=httpx.MockTransport(answer))


def ready(reasons: list[str]) -> httpx.Response:
    return httpx.Response(503 if reasons else 200, json={"ready": not reasons, "reasons": reasons})


def transition(progress: str, error: str | None = None) -> httpx.Response:
    return httpx.Response(202, json={"id": "7", "command": "drain", "progress": progress, "error": error})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hltfarm.service.api.POLL_S", 0.001)


def test_wait_ready_takes_what_comes() -> None:
    looks: list[int] = []
    with farm(httpx.ConnectError("refused"), ready(["no worker"]), ready([])) as client:
        client.wait_ready(10, lambda: looks.append(1))
    assert len(looks) == 2


def test_wait_ready_says_why_not() -> None:
    with farm(ready(["no worker holds credit"])) as client, pytest.raises(FarmError, match="no worker holds credit"):
        client.wait_ready(0.01)


def test_a_long_command_is_followed_to_its_end() -> None:
    with farm(transition("running"), transition("running"), transition("done")) as client:
        client.command("drain", 10)
    with farm(transition("running"), transition("failed", "2 events stuck")) as client, pytest.raises(FarmError, match="2 events stuck"):
        client.command("drain", 10)
    with farm(transition("running")) as client, pytest.raises(FarmError, match="still running"):
        client.command("drain", 0.01)


def test_a_control_plane_that_is_restarted_is_waited_for() -> None:
    gone = httpx.ConnectError("refused")
    with farm(transition("running"), gone, gone, transition("done")) as client:
        client.command("drain", 10)
    with farm(transition("running"), gone) as client, pytest.raises(NoAnswerError, match="refused"):
        client.command("drain", 0.01)


def test_what_answers_may_be_no_farm() -> None:
    with farm(httpx.Response(200, text="<html>It works!</html>")) as client:
        for ask in (client.status, lambda: client.ask("GET", "/v1/menus")):
            with pytest.raises(FarmError, match=r"/v1/\w+: the answer is no JSON; is http://farm the API of a farm\?"):
                ask()


def test_who_watches_goes_on_after_a_restart_of_the_control_plane() -> None:
    gone, there = httpx.ConnectError("refused"), httpx.Response(200, json={"state": "Running"})
    with farm(there, gone, there) as client:
        assert list(looks(client, 3, 0.0)) == [
            {"state": "Running"},
            {"no_answer": "GET http://farm/v1/status: refused"},
            {"state": "Running"},
        ]
    with farm(gone) as client, pytest.raises(NoAnswerError):
        next(looks(client, 3, 0.0))


def test_a_quick_command_is_done_at_once() -> None:
    with farm(httpx.Response(200, json={"state": "Running"})) as client:
        client.command("start", 10)


def test_illegal_commands_name_the_legal_ones() -> None:
    problem = httpx.Response(409, json={"detail": "start is illegal in Halted", "legal": ["configure"]})
    with farm(problem) as client, pytest.raises(StateError, match="illegal in Halted") as caught:
        client.command("start", 10)
    assert caught.value.legal == ("configure",)


def test_strange_answers_are_errors_of_the_farm() -> None:
    with farm(httpx.Response(500, text="oh")) as client, pytest.raises(FarmError, match="GET /v1/status: oh"):
        client.status()
    with farm(httpx.ConnectError("refused")) as client, pytest.raises(FarmError, match="refused"):
        client.run(3)


def test_metrics_are_keyed_by_name_and_labels() -> None:
    text = '# TYPE hlt_a counter\nhlt_a_total{decision="accept"} 3.0\n# TYPE hlt_b gauge\nhlt_b 2.5\n'
    with farm(httpx.Response(200, text=text)) as client:
        assert client.metrics() == {'hlt_a_total{decision="accept"}': 3.0, "hlt_b": 2.5}
