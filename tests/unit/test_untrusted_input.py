"""What the sources may not contain: ways to run what is only meant to be read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("proto", "service", "workers", "loadgen", "deploy")
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
#: Calls that are refused whatever their arguments.
CALLS = {"eval", "exec", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "np.fromstring", "pickle.loads", "os.system"}


def faults(tree: ast.AST) -> Iterator[str]:
    """Lines and reasons."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            if name.split(".")[0] in MODULES:
                yield f"{node.lineno}: imports {name}"
        if isinstance(node, ast.Call):
            yield from called(node)
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if ast.unparse(base) in ("yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader"):
                    yield f"{node.lineno}: a loader of YAML that makes objects"


def called(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in CALLS:
        yield f"{node.lineno}: {name}"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
        yield f"{node.lineno}: {name} unpickles"
    if name == "torch.load" and given.get("weights_only") != "True":
        yield f"{node.lineno}: torch.load without weights_only=True"
    if given.get("shell", "False") != "False":
        yield f"{node.lineno}: {name} through a shell"


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval(x)",
        "yaml.load(x, Loader=yaml.SafeLoader)",
        "np.load(f, allow_pickle=True)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "subprocess.run(x, shell=True)",
        "class L(yaml.Loader): pass",
    ],
)
def test_the_check_finds_what_it_looks_for(text: str) -> None:
    assert len(list(faults(ast.parse(text)))) == 1


@pytest.mark.parametrize("text", ["yaml.safe_load(x)", "net.eval()", "np.load(f, allow_pickle=False)", "torch.load(f, weights_only=True)"])
def test_the_check_lets_the_rest_be(text: str) -> None:
    assert list(faults(ast.parse(text))) == []


@pytest.mark.parametrize("root", ROOTS)
def test_nothing_is_unpickled_evaluated_or_made_from_yaml_tags(root: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{fault}"
        for path in sorted((ROOT / root).rglob("*.py"))
        for fault in faults(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []
