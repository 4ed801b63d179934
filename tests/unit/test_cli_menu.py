"""`hltfarm menu`: what check, show and rates print, write and return."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.proto.results import RESULT
from hltfarm.service import cli
from hltfarm.workers import reconstruct
from hltfarm.workers.backends.cpu_library import load_library
from hltfarm.workers.menu import DEFAULT_MENU, Menu

LONG = "HLT_" + "x" * 60
MENU = f"""\
version: 1
name: mine
streams: {{physics: For analysis, spare: ""}}
paths:
  - {{name: HLT_Hits, description: "[bold]Many[/bold] :smile:", require: {{hits: {{min: 1, max: 9e9}}, clusters: {{min: 0.5}}}}}}
  - {{name: {LONG}, prescale: 4, require: {{vertices: {{min: 3, max: 3}}, digis: {{max: 7}}}}}}
  - {{name: HLT_Off, enabled: false}}
  - {{name: HLT_Rest, prescale: 0}}
"""
OTHER = "version: 1\nname: other\npaths: [{name: HLT_Hits, require: {hits: {min: 1000000}}}, {name: HLT_New}]\n"
BAD = "version: 1\npaths:\n  - name: 3\n  - {name: A, prescale: none}\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (("menu.yaml", MENU), ("other.yaml", OTHER), ("bad.yaml", BAD)):
        (tmp_path / name).write_text(text)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(["menu", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.usefixtures("files")
def test_check_shows_the_menu(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "check", "menu.yaml")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"menu.yaml: menu mine, hash {Menu.parse(MENU).hash}, 3 paths, 2 streams"
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert rows == [
        ["0", "HLT_Hits", "physics", "1", "1 <= hits <= 9000000000, clusters >= 0.5", "[bold]Many[/bold] :smile:"],
        ["1", LONG, "physics", "4", "vertices = 3, digis <= 7", ""],
        ["2", "HLT_Rest", "physics", "0: never", "nothing: pass-through", ""],
        ["off", "HLT_Off", "physics", "1", "nothing: pass-through", ""],
    ]
    assert lines[-2:] == [f"stream physics: HLT_Hits, {LONG}, HLT_Rest (For analysis)", "stream spare: no path"]


@pytest.mark.usefixtures("files")
def test_check_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", "menu.yaml", "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["file"], document["valid"], document["name"], document["hash"]) == ("menu.yaml", True, "mine", Menu.parse(MENU).hash)
    assert [(p["bit"], p["name"]) for p in document["paths"]] == [(0, "HLT_Hits"), (1, LONG), (2, "HLT_Rest"), (None, "HLT_Off")]
    assert document["paths"][1]["require"] == {"vertices": {"min": 3, "max": 3}, "digis": {"max": 7}}
    code, out, err = run(capsys, "check", "bad.yaml", "--json")
    document = json.loads(out)
    assert (code, err, document["valid"]) == (2, "", False)
    assert document["faults"] == [
        {"line": 3, "text": "paths[0]: name: expected text, found 3"},
        {"line": 4, "text": "paths[1] \"A\": prescale: expected a whole number, found the text 'none'"},
    ]


@pytest.mark.usefixtures("files")
def test_check_prints_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", "bad.yaml") == (
        2,
        "",
        "bad.yaml:3: paths[0]: name: expected text, found 3\n"
        "bad.yaml:4: paths[1] \"A\": prescale: expected a whole number, found the text 'none'\n",
    )
    code, out, err = run(capsys, "check", "none.yaml")
    assert (code, out, err) == (2, "", "hltfarm: error: menu none.yaml cannot be read: No such file or directory\n")


def test_show_prints_a_menu_to_start_from(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show")
    assert (code, out) == (0, DEFAULT_MENU)
    (files / "start.yaml").write_text(out)
    assert run(capsys, "check", "start.yaml")[0] == 0


def rates(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, dict[str, Any]]:
    code, out, err = run(capsys, "rates", *arguments, "--backend", "cpu", "--threads", "1", "--json", "rates.json")
    assert err == ""
    return code, out, json.loads(Path("rates.json").read_text())


@pytest.mark.usefixtures("files")
def test_rates_of_a_sample(demo_sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """HLT_Hits takes all events of the sample; the long one none; prescale 0 keeps none."""
    code, out, document = rates(capsys, "menu.yaml", str(demo_sample), "--input-rate", "1000")
    n = len(open_source(demo_sample))
    (sample,) = document["sources"]
    (menu,) = sample["menus"]
    assert code == 0
    assert (sample["source"], sample["events"], sample["configuration"], sample["backend"]) == (
        str(demo_sample),
        n,
        "default",
        f"cpu (cpu:1 {load_library().name})",
    )
    assert (menu["file"], menu["name"], menu["hash"]) == ("menu.yaml", "mine", Menu.parse(MENU).hash)
    assert [(p["name"], p["raw"], p["kept"]) for p in menu["paths"]] == [("HLT_Hits", n, n), (LONG, 0, 0), ("HLT_Rest", n, 0)]
    assert menu["total"]["fraction"] == pytest.approx([1, n / (n + 1), 1])
    assert menu["total"]["rate_hz"] == pytest.approx([1000, 1000 * n / (n + 1), 1000])
    assert menu["paths"][0]["unique"][0] == 1
    assert menu["paths"][1]["rate_hz"] == pytest.approx([0, 0, 250 / (n + 1)])
    assert menu["paths"][2]["fraction"] == [0, 0, 0]
    assert (menu["streams"]["physics"]["kept"], menu["streams"]["spare"]["kept"]) == (n, 0)
    assert menu["overlap"] == [[1, 0, 1], [None, None, None], [1, 0, 1]]
    assert sample["selector"]
    for word in (
        str(demo_sample),
        "configuration default",
        f"selector {sample['selector']}",
        f"menu mine ({menu['hash']})",
        LONG,
        "rate / Hz",
    ):
        assert word in out
    assert "…" not in out


@pytest.mark.usefixtures("files")
def test_a_menu_cuts_on_the_score_of_a_classifier(demo_sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the one that is named; without any the score is 0."""
    Path("score.yaml").write_text("version: 1\npaths: [{name: HLT_Score, require: {event_score: {max: 0}}}]\n")
    for model, all_at_zero in (("none", True), ("event-mlp", False)):
        document = rates(capsys, "score.yaml", str(demo_sample), "--event-model", model)[2]
        ((path,),) = [sample["menus"][0]["paths"] for sample in document["sources"]]
        assert (path["raw"] == len(open_source(demo_sample))) == all_at_zero


@pytest.mark.usefixtures("files")
def test_several_sources_and_menus_take_one_pass_each(
    demo_sample: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, original = [], reconstruct.reconstruct

    def counting(*arguments: Any, **options: Any) -> Any:
        passes.append(options["events"])
        return original(*arguments, **options)

    monkeypatch.setattr(reconstruct, "reconstruct", counting)
    both = (str(demo_sample), str(demo_sample))
    code, out, document = rates(
        capsys, "menu.yaml", *both, "--compare", "other.yaml", "--compare", "menu.yaml", "--events", "2", "--input-rate", "10"
    )
    assert (code, passes) == (0, [2, 2])
    first, second = document["sources"]
    assert (first["input_rate_hz"], second["input_rate_hz"]) == (10, None)
    assert [menu["file"] for menu in first["menus"]] == ["menu.yaml", "other.yaml"]
    ((file, counts),) = [(d["file"], {k: v["events"] for k, v in d.items() if k != "file"}) for d in first["differences"]]
    assert (file, counts) == ("other.yaml", {"both": 2, "only_first": 0, "only_second": 0, "neither": 0})
    assert [p["raw"] for p in second["menus"][1]["paths"]] == [0, 2]
    assert "rate_hz" not in second["menus"][0]["total"]
    assert "menu.yaml beside other.yaml: menu other" in out
    assert out.count("accepted by") == 2


@pytest.mark.usefixtures("files")
def test_more_events_than_there_are_are_not_counted_twice(demo_sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rates(capsys, "other.yaml", str(demo_sample), "--events", "1000")[2]["sources"][0]["events"] == len(open_source(demo_sample))


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("budget", "code"), [("1001", 0), ("999", 1)])
def test_budget_decides_the_exit_code(budget: str, code: int, demo_sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = (str(demo_sample), "--events", "1")
    exit_code, out, document = rates(capsys, "menu.yaml", *sources, "--input-rate", "1000", "--budget", budget)
    assert exit_code == code
    assert (document["budget_hz"], document["within_budget"]) == (float(budget), code == 0)
    assert out.splitlines()[-1].startswith("total 1,000 ")


@pytest.mark.usefixtures("files")
def test_a_kernel_that_decides_otherwise_is_told(
    demo_sample: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = reconstruct.reconstruct

    def wrong(*arguments: Any, **options: Any) -> Any:
        job = original(*arguments, **options)
        assert job.rows.dtype == RESULT
        job.rows["path_bits"][1] ^= 2
        return job

    monkeypatch.setattr(reconstruct, "reconstruct", wrong)
    code, _, err = run(capsys, "rates", "menu.yaml", str(demo_sample), "--backend", "cpu", "--events", "2", "--threads", "1")
    number = open_source(demo_sample)[1].id.event
    assert code == 1
    name = f"cpu:1 {load_library().name}"
    assert err == f"hltfarm: error: {name} decides event {number} of {demo_sample} otherwise than the menu says; please report this\n"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rates", "menu.yaml"], "Missing argument"),
        (["rates", "bad.yaml", "x.hlt"], "bad.yaml:3: paths[0]: name: expected text, found 3 (1 more fault; "),
        (["rates", "menu.yaml", "DEMO", "--compare", "bad.yaml"], "bad.yaml:3: "),
        (["rates", "menu.yaml", "nowhere.hlt"], "nowhere.hlt: no such sample"),
        (["rates", "menu.yaml", "DEMO", "--budget", "5"], "--budget needs --input-rate"),
        (["rates", "menu.yaml", "DEMO", "--input-rate", "0"], "--input-rate 0: a rate is a positive number of Hz"),
        (["rates", "menu.yaml", "DEMO", "--input-rate", "nan"], "--input-rate nan: a rate"),
        (["rates", "menu.yaml", "DEMO", "--input-rate", "5", "--budget", "inf"], "--budget inf: a rate"),
        (["rates", "menu.yaml", "DEMO", "--config", "other"], "other"),
        (["rates", "menu.yaml", "DEMO", "--backend", "tpu"], "tpu"),
        (["check"], "Missing argument"),
    ],
)
def test_bad_arguments_end_with_one_line(arguments: list[str], message: str, demo_sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *[str(demo_sample) if word == "DEMO" else word for word in arguments])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("hltfarm: error: ")
    assert message in err
