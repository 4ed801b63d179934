"""The web console in Chromium, before a real farm: a shift from the first start to the stop."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hltfarm.loadgen.sample import Sample
from hltfarm.workers.faults import VARIABLE, Act, Order, give
from tests.e2e.browser import PICTURES, WIDE, Window, browsing, chromium, need_console
from tests.integration.test_serve import free_endpoint, serving, until

DATA = Path(__file__).resolve().parents[2] / "loadgen" / "data"
HLTFARM = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()"]
FIRST, POISON = 1000, 1040
#: For pictures, plots need a past.
PAST_S = 150 if PICTURES else 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 if PICTURES else 300)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium()
    need_console()
    with browsing() as found:
        yield found


@contextmanager
def loading(ingest: str, first: int, rate: float = 12.0) -> Iterator[None]:
    """Events until the end of the block."""
    options = [
        "--ingest",
        ingest,
        "--source",
        str(DATA / "demo.hlt"),
        "--rate",
        str(rate),
        "--duration",
        "600",
        "--first-event",
        str(first),
    ]
    command = [*HLTFARM, "load", *options, "--lumi-seconds", "8", "--patience", "60"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
        try:
            yield
        finally:
            load.terminate()
            load.wait(30)


@pytest.fixture(scope="module")
def farm() -> Iterator[tuple[str, str]]:
    """URL of the API and of the ingest. Nothing runs yet; one event, when it comes, cannot be processed."""
    with tempfile.TemporaryDirectory(prefix="console-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        give(folder / "faults.json", [Order(number=1, act=Act.FAIL, events=(POISON,))])
        patch.setenv(VARIABLE, str(folder / "faults.json"))
        ingest = free_endpoint()
        menu = str(DATA / "demo-menu.yaml")
        with serving(folder, "--no-autostart", "--workers", "2", "--menu", menu, "--ingest", ingest) as (_farm, url):
            until(f"{url}/v1/workers", lambda answer: len(answer["workers"]) == 2)
            yield url, ingest


def number(text: str) -> float:
    """1 234.5 Hz -> 1234.5"""
    found = re.match(r"[\d.]+", re.sub(r"[\u202f\u00a0 ]", "", text))
    assert found, text
    return float(found[0])


def test_a_shift_at_the_console(browser: Any, farm: tuple[str, str]) -> None:
    from playwright.sync_api import expect

    url, ingest = farm
    window = Window(browser, url)
    page = window.page
    window.open()
    state = page.locator(".state-word")

    def press(name: str) -> None:
        page.get_by_role("group", name="Run control").get_by_role("button", name=name, exact=True).click()

    # the first run, by its buttons
    expect(page.get_by_role("button", name="Configure")).to_be_visible()
    if state.inner_text() == "Halted":
        press("Configure")
        page.get_by_role("dialog").get_by_role("button", name="Configure").click()
    expect(state).to_have_text("Configured")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
    press("Start")
    expect(state).to_have_text("Running")
    until(f"{url}/v2/health/ready", lambda answer: bool(answer["ready"]))

    with loading(ingest, FIRST):
        overview_moves(window)
        until(f"{url}/v1/status", lambda status: status["ledger"]["error"] == 1)
        display(window)
        failed_event(window)
        menu_and_workers(window)

        # hold, go on, and end
        window.open()
        press("Pause")
        expect(state).to_have_text("Paused")
        press("Resume")
        expect(state).to_have_text("Running")
        press("Drain")
        expect(state).to_have_text("Draining")
        expect(page.locator(".notice").filter(has_text="Drain: done")).to_be_visible()
        press("Stop")
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        assert httpx.get(f"{url}/v1/status", trust_env=False).json()["state"] == "Draining"
        press("Stop")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Stop run 1?")
        dialog.get_by_role("button", name="Stop the run").click()
        expect(state).to_have_text("Configured")
    expect(page.locator(".books-card .badge")).to_have_text("✓ closed")

    page.keyboard.press("6")
    row = page.get_by_role("table", name="Runs").locator("tbody tr").first
    expect(row).to_contain_text("stopped")
    expect(row).to_contain_text("✓ closed")
    page.keyboard.press("7")
    audit = page.get_by_role("table", name="Audit")
    for command in ("start", "pause", "resume", "drain", "stop"):
        expect(audit.get_by_text(f"POST /v1/control/{command}").first).to_be_visible()
    window.close()


def overview_moves(window: Window) -> None:
    """Rates, books and plots follow the farm."""
    from playwright.sync_api import expect

    page = window.page
    expect(page.locator(".pill")).to_have_text("Running")
    received = page.locator(".term-received b")
    page.wait_for_function("() => Number(document.querySelector('.term-received b').textContent) > 20")
    before = number(received.inner_text())
    rate = page.get_by_role("region", name="Rates").locator(".plot-key b").first
    page.wait_for_function("() => parseFloat(document.querySelector('.plot-key b').textContent) > 5")
    assert 5 < number(rate.inner_text()) < 30
    page.wait_for_timeout(1000 * PAST_S)
    assert number(received.inner_text()) > before + 10
    for plot in range(4):
        assert window.colours(f".plot:nth-child({plot + 1}) canvas") > 10
    expect(page.locator(".path-rate").first).to_contain_text("HLT_")
    expect(page.locator(".books-card .badge")).to_have_text("✓ closed")
    ledger = [number(page.locator(f".term-{name} b").inner_text()) for name in ("received", "accepted", "rejected", "error", "in_flight")]
    assert ledger[0] == sum(ledger[1:])
    window.picture("overview")
    if PICTURES:
        page.set_viewport_size(WIDE)
        window.picture("overview-wide")
        page.set_viewport_size({"width": 1280, "height": 800})


def display(window: Window) -> None:
    """An accepted event in all projections; a track picked in each of them, and in the table."""
    from playwright.sync_api import expect

    page = window.page
    page.keyboard.press("2")
    page.get_by_role("group", name="Kind of events").get_by_role("button", name="Accepted").click()
    page.locator(".event-entry.accepted a").first.click()
    expect(page.locator(".event-facts")).to_contain_text("the CPU gives the same bits")
    expect(page.locator(".event-facts")).to_contain_text("HLT_HardCollision")
    rows = page.get_by_role("table", name="Tracks").locator("tbody tr")
    tracks = rows.count()
    assert tracks > 50
    expect(page.locator("canvas.space")).to_be_visible()
    page.wait_for_timeout(300)
    for canvas in ("[aria-label^='The event seen along'] ", "[aria-label^='The event with z']", "canvas.space"):
        assert window.colours(f"{canvas}") > 50, f"{canvas} is blank"

    # the hardest track comes first; its line of the table picks it
    detail = page.get_by_role("region", name="Picked track")
    expect(detail).to_be_hidden()
    rows.first.click()
    expect(detail).to_be_visible()
    expect(rows.first).to_have_class(re.compile("selected"))
    hits = detail.get_by_role("table").locator("tbody tr").count()
    assert hits == int(rows.first.locator("td").nth(5).inner_text()) >= 3
    window.picture("event")
    if PICTURES:
        page.set_viewport_size(WIDE)
        window.picture("event-wide")
        page.set_viewport_size({"width": 1280, "height": 800})
    page.keyboard.press("Escape")
    expect(detail).to_be_hidden()

    for key, canvas in (
        ("x", ".projection:has([aria-label^='The event seen'])"),
        ("z", ".projection:has([aria-label^='The event with z'])"),
        ("d", ".projection:has(.space)"),
    ):
        page.keyboard.press(key)
        expect(page.locator(canvas)).to_be_visible()
        pick(page, page.locator(canvas).locator("canvas"), detail)
        page.keyboard.press("Escape")
        expect(detail).to_be_hidden()
    page.keyboard.press("a")

    # filters: by momentum, by vertex
    page.get_by_label("Least pT").fill("7")
    page.wait_for_function(f"() => document.querySelectorAll('[aria-label=Tracks] tbody tr').length < {tracks} / 2")
    assert all(number(cell.inner_text()) >= 3 for cell in rows.locator("td:nth-child(2)").all())
    page.get_by_label("Least pT").fill("0")
    page.get_by_role("tab", name="Vertices").click()
    vertex = page.get_by_role("table", name="Vertices").locator("tbody tr").first
    wanted = int(vertex.locator("td").nth(3).inner_text())
    vertex.click()
    expect(page.locator(".filters .hint")).to_contain_text("of vertex 0")
    page.get_by_role("tab", name="Tracks").click()
    assert rows.count() == wanted
    with page.expect_download() as download:
        page.get_by_role("button", name="Raw data").click()
    assert len(Sample(download.value.path())) == 1


def pick(page: Any, canvas: Any, detail: Any) -> None:
    """Click around the middle of a projection until a track is hit."""
    box = canvas.bounding_box()
    for i in range(36):
        angle, radius = 0.7 * i, 0.05 + 0.005 * i
        page.mouse.click(
            box["x"] + box["width"] * (0.5 + radius * math.cos(angle)), box["y"] + box["height"] * (0.5 + radius * math.sin(angle))
        )
        if detail.is_visible():
            return
    raise AssertionError("no track can be picked")


def failed_event(window: Window) -> None:
    """The event that no worker could process: in the list of errors with its reason, and drawn as far as it can be."""
    from playwright.sync_api import expect

    page = window.page
    page.keyboard.press("5")
    row = page.get_by_role("table", name="Errors").locator("tbody tr").first
    expect(row).to_contain_text(f": {POISON}")
    expect(row).to_contain_text("worker failed")
    expect(row).to_contain_text("this batch fails on order")
    row.get_by_role("link", name="Display").click()
    expect(page.locator(".event-title")).to_contain_text(f"event {POISON}")
    expect(page.locator(".event-facts")).to_contain_text("error: worker failed")
    message = page.locator(".stage-message")
    expect(message).to_contain_text("this batch fails on order")
    expect(message.get_by_role("table")).to_contain_text("BPIX1")
    window.picture("error-event")


def menu_and_workers(window: Window) -> None:
    """Paths with rates; a worker that is taken out of service and comes back."""
    from playwright.sync_api import expect

    page = window.page
    page.keyboard.press("3")
    expect(page.get_by_role("table", name="Paths")).to_contain_text("HLT_HardCollision")
    expect(page.locator(".menu-text")).to_contain_text("vertex_ht")
    window.picture("menu")
    page.keyboard.press("4")
    row = page.get_by_role("table", name="Workers").locator("tbody tr").filter(has_text="worker-1")
    expect(row).to_contain_text("ready")
    window.picture("workers")
    row.get_by_role("button", name="Quarantine").click()
    page.get_by_label("Reason").fill("fan is loud")
    page.get_by_role("dialog").get_by_role("button", name="Quarantine").click()
    expect(row.locator(".badge").first).to_have_text("quarantined")
    expect(row.locator(".badge").first).to_have_attribute("title", re.compile("fan is loud"))
    row.get_by_role("button", name="Release").click()
    expect(row.locator(".badge").first).to_have_text("ready", timeout=60_000)


def test_without_a_token_and_as_a_viewer(browser: Any, tmp_path: Path) -> None:
    """The page asks for a token, keeps it for the tab, and says what the role may not do. A farm that is gone is told, and found again."""
    from playwright.sync_api import expect

    tokens = tmp_path / "tokens.yaml"
    secrets = {}
    for role in ("viewer", "operator"):
        command = [*HLTFARM, "token", "new", f"the-{role}", "--role", role, "--file", str(tokens)]
        secrets[role] = re.findall(r"hlt_[\w-]+", subprocess.run(command, capture_output=True, text=True, check=True).stdout)[0]
    port = int(free_endpoint().rpartition(":")[2])
    options = [
        "--http",
        f"127.0.0.1:{port}",
        "--tokens",
        str(tokens),
        "--ingest",
        f"ipc://{tmp_path}/nobody",
        "--database",
        f"sqlite:///{tmp_path}/runs.db",
    ]

    def control() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*HLTFARM, "control", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/v2/health/live", trust_env=False)
                return process
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the control plane does not answer"
                assert process.poll() is None, "the control plane ended"
                time.sleep(0.1)

    process = control()
    window = Window(
        browser,
        f"http://127.0.0.1:{port}",
        expect=("401", "403", "503", "ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET"),
    )
    page = window.page
    try:
        window.open("events/0123abcd-1")
        dialog = page.get_by_role("dialog")
        expect(page.locator(".stage-message")).to_contain_text("The event cannot be shown")
        dialog.get_by_label("Token").fill("hlt_…")
        dialog.get_by_role("button", name="Use it").click()
        expect(page.locator(".notice.tone-bad")).to_contain_text("That is no token")
        page.locator(".notice.tone-bad").get_by_role("button", name="Close").click()
        dialog.get_by_label("Token").fill(secrets["viewer"])
        dialog.get_by_role("button", name="Use it").click()
        expect(page.locator(".who")).to_have_text("the-viewer, viewer")
        expect(page.locator(".stage-message")).to_contain_text("ingest")  # asked for again: there is a token now, but no ingest
        page.keyboard.press("1")
        expect(page.locator(".state-word")).to_have_text("Error")
        reset = page.get_by_role("button", name="Reset", exact=True)
        expect(reset).to_be_disabled()
        assert secrets["viewer"] not in json.dumps(page.evaluate("() => ({...localStorage})")), "kept beyond the tab"
        page.keyboard.press("7")
        expect(page.locator(".fault:visible")).to_contain_text("Not allowed: 'the-viewer' has the role viewer; this needs operator")

        page.locator(".who").click()
        page.get_by_role("dialog").get_by_label("Token").fill(secrets["operator"])
        page.keyboard.press("Enter")
        expect(page.locator(".who")).to_have_text("the-operator, operator")
        expect(page.get_by_role("table", name="Audit")).to_be_visible()
        page.keyboard.press("1")
        expect(reset).to_be_enabled()
        reset.click()
        page.get_by_role("dialog").get_by_role("button", name="Reset the farm").click()
        expect(page.locator(".notice.tone-bad").first).to_contain_text("Reset:")

        process.terminate()
        process.wait(30)
        expect(page.locator(".banner")).to_contain_text("No answer since", timeout=30_000)
        expect(page.locator(".state-word")).to_have_text("No answer")
        process = control()
        expect(page.locator(".banner")).to_be_hidden(timeout=30_000)
        expect(page.locator(".who")).to_have_text("the-operator, operator")
    finally:
        window.close()
        process.terminate()
        process.wait(30)


def test_the_files_of_the_page(browser: Any, farm: tuple[str, str]) -> None:
    """Nothing but files of the farm, under the strict policy; the 3-D library comes when it is wanted, the licences beside."""
    url, _ = farm
    window = Window(browser, url)
    window.open("runs")
    window.page.get_by_role("table", name="Runs").wait_for(state="attached")
    assert not any("/space-" in asked for asked in window.asked), "the 3-D library is loaded although nobody looks at events"
    window.open("events")
    window.page.locator("canvas.space").wait_for(state="attached")
    assert any("/assets/space-" in asked for asked in window.asked)
    window.close()
    page = httpx.get(url, trust_env=False)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    licences = httpx.get(f"{url}/licenses.txt", trust_env=False).text
    for library in ("three ", "uplot ", "@fontsource-variable/inter "):
        assert f"\n{library}" in licences
