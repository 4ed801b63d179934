"""A small client of the control plane's HTTP interface, for scripts and for `hltfarm demo`.

with FarmApi("http://127.0.0.1:8080") as farm:
    farm.wait_ready(60)
    ...
    farm.command("drain", 60)
    farm.command("stop", 60)
    print(farm.status()["ledger"])
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from hltfarm.proto.errors import AccessError, ConfigError, HltfarmError, StateError

POLL_S = 0.1
TOKEN_VARIABLE = "HLTFARM_TOKEN"


class FarmError(HltfarmError):
    """The control plane did not answer, or could not do what was asked. `status`: of its answer; `faults`: line and text, of a menu."""

    retryable = True

    def __init__(self, message: str, status: int | None = None, faults: Sequence[tuple[int, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.faults = tuple(faults)


class NoAnswerError(FarmError):
    """The control plane did not answer."""


class FarmApi:
    """Connection to one control plane. Every method raises FarmError if it does not answer in time, AccessError if it wants another token.

    token: of the API; None takes that of the environment (HLTFARM_TOKEN), without one none is sent. Raises ConfigError for one that cannot
    be sent.
    """

    def __init__(
        self, url: str, timeout_s: float = 10.0, transport: httpx.BaseTransport | None = None, *, token: str | None = None
    ) -> None:
        self.url = url
        token = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(f"the token (argument or {TOKEN_VARIABLE}) has characters that no token has; was it copied alone?")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(base_url=url, timeout=timeout_s, transport=transport, trust_env=False, headers=headers)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def status(self) -> dict[str, Any]:
        """State, ledger, workers and problems of the farm, as `/v1/status` tells them."""
        return self._json("GET", "/v1/status")

    def run(self, number: int) -> dict[str, Any]:
        """One run of the registry; its ledger is final once the run has been stopped."""
        return self._json("GET", f"/v1/runs/{number}")

    def workers(self) -> list[dict[str, Any]]:
        """Every worker, as `/v1/workers` tells of it; `process` is what the supervisor knows, if there is one."""
        found: list[dict[str, Any]] = self._json("GET", "/v1/workers")["workers"]
        return found

    def release(self, worker: str) -> None:
        """Start a quarantined worker again."""
        self._json("POST", f"/v1/workers/{worker}/release")

    def not_ready(self) -> list[str]:
        """Why the farm does not take events yet; empty when it does."""
        try:
            response = self._client.get("/v2/health/ready")
            answer: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            return [f"{self.url} does not answer: {type(error).__name__}"]
        reasons: list[str] = answer.get("reasons") or []
        return [] if response.status_code == 200 else reasons or [f"status {response.status_code}"]

    def wait_ready(self, timeout_s: float, check: Callable[[], None] = lambda: None) -> None:
        """Wait until the farm takes events. `check` is called between two looks, and may raise. FarmError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while reasons := self.not_ready():
            check()
            if time.monotonic() > deadline:
                raise FarmError(f"the farm was not ready within {timeout_s:g} s: {'; '.join(reasons)}")
            time.sleep(POLL_S)

    def begin(self, name: str, **body: object) -> str:
        """Give a command that takes time; the id of its transition. StateError where the state forbids it."""
        return str(self._json("POST", f"/v1/control/{name}", body or None)["id"])

    def transition(self, identity: str) -> dict[str, Any]:
        """How far a transition is."""
        return self._json("GET", f"/v1/transitions/{identity}")

    def command(self, name: str, timeout_s: float, **body: object) -> None:
        """Give a run-control command and wait until it is done. StateError where the state forbids it, FarmError if it fails."""
        self.follow(self._json("POST", f"/v1/control/{name}", body or None), timeout_s)

    def follow(self, answer: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Wait until the transition of an answer is done, and return its end; an answer without one is done. FarmError if it fails.

        A control plane that is restarted meanwhile is waited for.
        """
        deadline, name = time.monotonic() + timeout_s, answer.get("command")
        while "progress" in answer and answer["progress"] not in ("done", "failed"):
            if time.monotonic() > deadline:
                raise FarmError(f"{name}: still {answer['progress']} after {timeout_s:g} s")
            time.sleep(POLL_S)
            try:
                answer = self._json("GET", f"/v1/transitions/{answer['id']}")
            except NoAnswerError:
                if time.monotonic() > deadline:
                    raise
        if answer.get("progress") == "failed":
            raise FarmError(f"{name}: {answer['error']}")
        return answer

    def ask(
        self, method: str, path: str, body: object = None, *, content: bytes | None = None, kind: str = "", **query: str | int | bool | None
    ) -> Any:
        """Any request of the API: its JSON answer, None without one. `body` goes as JSON, `content` as it is, of media type `kind`."""
        headers = {"Content-Type": kind} if content is not None else {}
        given = {name: value for name, value in query.items() if value is not None}
        response = self._request(method, path, body, content=content, headers=headers, params=given)
        return self._decoded(response) if response.content else None

    def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics`; the key is the name with its labels, such as `hlt_events_decided_total{decision="accept"}`."""
        text = self._request("GET", "/metrics").text
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    def _request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int | bool] | None = None,
    ) -> httpx.Response:
        try:
            response = self._client.request(method, path, json=body, content=content, headers=headers, params=params)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoAnswerError(f"{method} {self.url}{path}: {error or type(error).__name__}") from error
        if response.is_error:
            raise self._problem(response)
        return response

    def _json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        answer: dict[str, Any] = self._decoded(self._request(method, path, body))
        return answer

    def _decoded(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            path = response.request.url.path
            raise FarmError(f"{path}: the answer is no JSON; is {self.url} the API of a farm?", response.status_code) from None

    @staticmethod
    def _problem(response: httpx.Response) -> HltfarmError:
        try:
            problem = response.json()
            detail, legal = str(problem["detail"]), tuple(problem.get("legal") or ())
            faults = [(int(fault["line"]), str(fault["text"])) for fault in problem.get("faults") or ()]
        except (ValueError, KeyError, TypeError):
            detail, legal, faults = response.text[:200], (), []
        message = f"{response.request.method} {response.request.url.path}: {detail}"
        if response.status_code == 401:
            return AccessError(f"{message} (it is taken from the environment's {TOKEN_VARIABLE}, unless `token` is given)")
        if response.status_code == 403:
            return AccessError(message)
        return StateError(message, legal) if response.status_code == 409 else FarmError(message, response.status_code, faults)
