"""`hltfarm bench inference`: every path computes the same, whatever goes wrong is said, and the document has its fields."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.proto.soa import Collection, Column, Schema, aligned_empty
from hltfarm.service.cli import bench
from hltfarm.workers.inference import fill as filling
from hltfarm.workers.inference import harness, paths
from hltfarm.workers.inference.cases import CASES, EDGES_PER_GRAPH, NODES_PER_GRAPH, Case
from hltfarm.workers.inference.command import Plan, plan, run
from hltfarm.workers.inference.engines import EngineSettings, perceptron, run_engines
from hltfarm.workers.inference.fill import Fill, fill
from hltfarm.workers.inference.harness import Results, Settings, Skipped, run_views, too_large, too_slow
from hltfarm.workers.inference.networks import DeepSet, GraphNet, MaskedNet, seeded

CPU = torch.device("cpu")
TIMING = {"runs", "wall_ms", "wall_spread_ms", "wall_median_ms", "gpu_ms", "gpu_spread_ms"}


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def test_no_number_in_any_output_is_no_agreement() -> None:
    """Outputs are filled with NaN before a run: one that is not written must be seen, whichever it is."""
    fine, unwritten = torch.zeros(3), torch.full((3,), torch.nan)
    for found in ([fine, unwritten], [unwritten, fine]):
        assert np.isnan(harness.difference(found, [fine, fine]))
    assert harness.difference([fine, fine + 1], [fine, fine]) == 1


def tiny(**options: Any) -> Settings:
    return Settings(CPU, sizes=(64, 200), runs=3, budget_s=0.01, **options)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny run of everything; `json` is what the file holds, `text` what was printed, `plots` the figures' names."""
    folder = tmp_path_factory.mktemp("inference")
    chosen = Plan(tiny(), EngineSettings(CPU, engines=("eager",), parameters=(500, 2000), batches=(1, 33), runs=3, budget_s=0.01))
    out = io.StringIO()
    made = run(chosen, folder / "new" / "report.json", folder / "plots", Console(file=out, width=160))
    written = json.loads((folder / "new" / "report.json").read_text())
    assert written == json.loads(json.dumps(made))
    return {"json": written, "text": out.getvalue(), "plots": sorted(p.name for p in (folder / "plots").iterdir())}


def test_every_model_is_measured_by_every_path_with_the_same_outputs(report: dict[str, Any]) -> None:
    views = report["json"]["views"]
    sizes = {case.name: dict.fromkeys(case.elements(n) for n in (64, 200)) for case in CASES}
    assert [(p["model"], p["elements"], p["path"]) for p in views] == [
        (name, n, path) for name, elements in sizes.items() for n in elements for path in ("direct", "copy")
    ]
    assert all(p["difference"] <= 1e-5 for p in views)
    assert report["json"]["skipped"] == []


def test_the_document_has_its_fields(report: dict[str, Any]) -> None:
    document = report["json"]
    assert set(document) == {"format", "versions", "device", "options", "tolerance", "views", "engines", "skipped"}
    assert document["format"] == 1
    assert document["versions"]["torch"] == torch.__version__
    assert document["device"]["type"] == "cpu"
    assert document["options"]["sizes"] == [64, 200]
    for point in document["views"]:
        assert set(point) == {"model", "element", "elements", "path", "timing", "difference", "host_bytes", "index_conversion_ms"}
        assert (point["index_conversion_ms"] is not None) == (point["model"] == "graph" and point["path"] == "direct")
    for point in document["engines"]:
        assert set(point) == {"parameters", "width", "batch", "engine", "graph", "timing", "build_s", "difference"}
    for point in (*document["views"], *document["engines"]):
        assert set(point["timing"]) == TIMING
        assert point["timing"]["runs"] == 3
        assert point["timing"]["wall_ms"] > 0
        assert point["timing"]["gpu_ms"] is None
    assert [(p["batch"], p["engine"]) for p in document["engines"]] == [(1, "eager"), (33, "eager")] * 2


def test_tables_and_figures(report: dict[str, Any]) -> None:
    assert report["plots"] == ["engines.png", "speed-up.png", "times.png"]
    for word in (*(case.name for case in CASES), "30000", "copy / direct", "eager"):
        assert word in report["text"]


@pytest.mark.slow
def test_all_engines_agree() -> None:
    results = Results()
    run_engines(EngineSettings(CPU, parameters=(300,), batches=(2, 64), runs=3, budget_s=0.01), results, lambda what: None)
    assert [(p.engine, p.batch) for p in results.engines] == [(e, b) for e in ("eager", "compile", "aot") for b in (2, 64)]
    assert results.skipped == []


def test_paths_that_disagree_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    true = paths.copied

    def wrong(network: Any, columns: paths.Columns) -> paths.Run:
        work = true(network, columns)

        def go() -> None:
            work()
            columns.outputs[0][7] += 1e-3

        return go

    monkeypatch.setattr(paths, "copied", wrong)
    with pytest.raises(BackendError, match=r"simple, 64 tracks: copy and direct differ by 0\.00"):
        run_views(tiny(models=("simple",)), Results(), lambda what: None)


def test_outputs_that_are_not_written_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle(torch.nn.Module):  # type: ignore[misc]
        def forward(self, inputs: Any, outputs: Any) -> None:
            inputs[0].sum()

    monkeypatch.setattr(harness, "CASES", (replace(CASES[0], network=Idle),))
    with pytest.raises(BackendError, match="direct and direct differ by nan"):
        run_views(tiny(models=("simple",)), Results(), lambda what: None)


def test_sizes_that_do_not_fit_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_free_host", lambda: 1 << 20)
    results, told = Results(), list[str]()
    run_views(tiny(models=("resnet", "simple")), results, told.append)
    assert [s.what for s in results.skipped] == ["resnet, 64 images", "resnet, 200 images"]
    assert all("GiB of the host" in s.reason for s in results.skipped)
    assert told == ["simple, 64 tracks", "simple, 200 tracks", "resnet, 64 images", "resnet, 200 images"]
    assert too_large(case_named("simple"), 10**6, CPU) is not None


def test_sizes_that_take_too_long_are_left_out_and_said() -> None:
    results = Results()
    run_views(replace(tiny(models=("simple",)), sizes=(64,)), results, lambda what: None)
    slowest = max(p.timing.ms for p in results.views)
    case = case_named("simple")
    assert too_slow(case, 640, 1e-2 * slowest * 1.01, results.views) is None
    reason = too_slow(case, 640, 1e-2 * slowest * 0.99, results.views)
    assert reason is not None
    assert "a run of" in reason
    assert too_slow(case_named("graph"), 10**9, 1e-9, results.views) is None
    impatient = Results()
    run_views(tiny(models=("simple",), limit_s=0.0), impatient, lambda what: None)
    assert [s.what for s in impatient.skipped] == ["simple, 200 tracks"]
    assert isinstance(impatient.skipped[0], Skipped)


def test_memory_errors_become_reasons_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Any:
        def measure(*arguments: Any) -> Any:
            raise error

        return measure

    results = Results()
    monkeypatch.setattr(harness, "_measure", fail(torch.OutOfMemoryError("tried to allocate\nmuch")))
    run_views(tiny(models=("simple",)), results, lambda what: None)
    assert {s.reason for s in results.skipped} == {"out of memory: tried to allocate"}
    monkeypatch.setattr(harness, "_measure", fail(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        run_views(tiny(models=("simple",)), results, lambda what: None)


def test_columns_are_filled_with_the_same_numbers_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = Schema("S", "", (Column("a", "f4", "a"), Column("m", "f4", "m", shape=(3, 2)), Column("i", "i4", "i"), Column("b", "u1", "b")))

    def filled() -> Collection:
        layout = schema.layout(1000)
        c = Collection(layout, aligned_empty(layout.nbytes))
        fill(c, "a", Fill(), 5)
        fill(c, "m", Fill(2.0, 3.0), 6)
        fill(c, "i", Fill(0, 7, 100, 7), 7)
        fill(c, "b", Fill(0, 2), 8)
        return c

    whole = filled()
    monkeypatch.setattr(filling, "_CHUNK", 64)
    parts = filled()
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])
    assert -1 <= whole.a.min() < -0.9 < 0.9 < whole.a.max() < 1
    assert 2 <= whole.m.min() < whole.m.max() <= 3
    assert len(np.unique(whole.m)) > 5990
    np.testing.assert_array_equal(whole.i // 7, np.arange(1000) // 100)
    assert sorted(np.unique(whole.i)) == list(range(70))
    assert set(np.unique(whole.b)) == {0, 1}


def test_indices_of_a_graph_stay_within_it() -> None:
    case = case_named("graph")
    assert case.capacities(1) == {"Nodes": NODES_PER_GRAPH, "Edges": EDGES_PER_GRAPH}
    columns = paths.Columns(case, 2 * EDGES_PER_GRAPH, paths.host_memory)
    columns.fill()
    edges = columns.collections[1]
    for name in ("source", "target"):
        np.testing.assert_array_equal(edges[name] // NODES_PER_GRAPH, np.arange(2 * EDGES_PER_GRAPH) // EDGES_PER_GRAPH)
    assert (edges.source != edges.target).mean() > 0.99


def test_a_deep_set_sees_a_set_of_the_hits_in_use() -> None:
    generator = torch.Generator().manual_seed(1)
    hits, n_hits = torch.randn(20, 8, 4, generator=generator), torch.randint(1, 9, (20, 1), generator=generator, dtype=torch.int32)
    network = seeded(DeepSet, 1, CPU)

    def score(hits: Any, n_hits: Any) -> Any:
        out = torch.empty(20, 1)
        with torch.inference_mode():
            network((hits, n_hits), (out,))
        return out

    first = score(hits, n_hits)
    changed = torch.where(torch.arange(8)[None, :, None] < n_hits[:, :, None], hits, torch.full_like(hits, 99.0))
    torch.testing.assert_close(score(changed, n_hits), first)
    full = torch.full_like(n_hits, 8)
    torch.testing.assert_close(score(hits.flip(1), full), score(hits, full))
    assert (score(hits, full) - first)[n_hits < 8].abs().max() > 1e-3


def test_masked_features_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(2)
    features, valid = torch.randn(30, 8, generator=generator), torch.rand(30, 8, generator=generator) < 0.6
    valid[3] = False
    network = seeded(MaskedNet, 1, CPU)
    first, second = torch.empty(30, 1), torch.empty(30, 1)
    with torch.inference_mode():
        network((features, valid), (first,))
        network((torch.where(valid, features, features + 7), valid), (second,))
    assert torch.equal(first, second)
    assert first[3] == 0
    assert (first[:3] > 0).all()


def test_graphs_of_a_batch_do_not_see_each_other_and_edges_have_no_order() -> None:
    generator = torch.Generator().manual_seed(3)
    network = seeded(GraphNet, 1, CPU)

    def score(nodes: Any, source: Any, target: Any, edges: Any) -> Any:
        out = torch.empty(len(edges), 1)
        with torch.inference_mode():
            network((nodes, source, target, edges), (out,))
        return out

    def graph(n: int, e: int) -> tuple[Any, ...]:
        ends = torch.randint(0, n, (2, e, 1), generator=generator, dtype=torch.int32)
        return torch.randn(n, 4, generator=generator), ends[0], ends[1], torch.randn(e, 2, generator=generator)

    a, b = graph(10, 40), graph(7, 25)
    both = score(torch.cat((a[0], b[0])), torch.cat((a[1], b[1] + 10)), torch.cat((a[2], b[2] + 10)), torch.cat((a[3], b[3])))
    torch.testing.assert_close(both, torch.cat((score(*a), score(*b))))
    order = torch.randperm(40, generator=generator)
    torch.testing.assert_close(score(a[0], a[1][order], a[2][order], a[3][order]), score(*a)[order])
    assert score(*a).std() > 1e-3


@pytest.mark.parametrize("asked", [69_000, 1_000_000])
def test_perceptrons_have_about_the_parameters_asked_for(asked: int) -> None:
    model, count, width = perceptron(asked)
    tensors = model.content.tensors()  # type: ignore[union-attr]
    assert count == sum(tensor.size for name, tensor in tensors.items() if name.startswith("layer"))
    assert abs(count - asked) < 0.02 * asked
    assert model.content.widths == (8, *[width] * 5, 1)  # type: ignore[union-attr]


def test_options_become_settings() -> None:
    options = {"quick": False, "runs": 7, "models": None, "sizes": None, "engines": None}
    chosen = plan("cpu", **options)  # type: ignore[arg-type]
    assert chosen.views.sizes == (1000, 10_000, 100_000, 1_000_000)
    assert chosen.views.runs == chosen.engines.runs == 7
    assert chosen.engines.parameters[-1] == 60_000_000
    chosen = plan("cpu", **options | {"quick": True, "models": ["graph"], "sizes": [5], "engines": ["aot", "eager"]})  # type: ignore[arg-type]
    assert (chosen.views.models, chosen.views.sizes) == (("graph",), (5,))
    assert (chosen.engines.engines, chosen.engines.parameters) == (("eager", "aot"), (69_000,))
    for wrong in ({"models": ["bert"]}, {"engines": ["onnx"]}):
        with pytest.raises(ConfigError, match="is unknown; known are"):
            plan("cpu", **options | wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="use cpu, cuda or auto"):
        plan("tpu", **options)  # type: ignore[arg-type]


def test_the_command(tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    bench.register(app)
    command = ["bench", "inference", "--device", "cpu", "--models", "multihead", "--sizes", "50", "--runs", "3", "--engines", "none"]
    result = CliRunner().invoke(app, [*command, "--json", str(tmp_path / "r.json")])
    assert result.exit_code == 0, result.output
    assert "multihead" in result.output
    points = json.loads((tmp_path / "r.json").read_text())["views"]
    assert [(p["model"], p["elements"], p["path"]) for p in points] == [("multihead", 50, "direct"), ("multihead", 50, "copy")]
    wrong = CliRunner().invoke(app, ["bench", "inference", "--sizes", "0"])
    assert isinstance(wrong.exception, ConfigError)
