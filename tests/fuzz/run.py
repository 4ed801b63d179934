"""Coverage-guided fuzzing of one target: `python -m tests.fuzz.run TARGET --seconds N [--work DIR]`, or all of them: `... all`.

Each target runs in a process of its own (a finding ends it) with a corpus that is kept between runs under the work folder. What it found
lies there as a file; `--replay FILE` runs the target once with it. The last line of each target is a JSON object: its executions, and what
the corpus covers (edges of instrumented code) when its seeds have run and at the end.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

EXECUTIONS = re.compile(r"(?:Done |#)(\d+)")
COVERAGE = re.compile(r"^#\d+\s+(\w+)\s+cov: (\d+) ft: \d+ corp: (\d+)", re.MULTILINE)
LARGEST_INPUT = 1 << 16
SLOWEST_S = 20
MEMORY_MB = 4096


def child(name: str, corpus: Path, seconds: int, findings: Path) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["hltfarm", "tests.fuzz"]):
        from tests.fuzz.parsers import TARGETS

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        target = TARGETS[name]
        corpus.mkdir(parents=True, exist_ok=True)
        findings.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.seeds(folder)):
            (corpus / f"seed-{number}").write_bytes(seed)
        options = [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={findings}/",
            f"-max_len={LARGEST_INPUT}",
            f"-timeout={SLOWEST_S}",
            f"-rss_limit_mb={MEMORY_MB}",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: target.run(data, folder))
        atheris.Fuzz()


def replay(name: str, file: Path) -> None:
    """Run a target once, without atheris."""
    from tests.fuzz.parsers import TARGETS

    with tempfile.TemporaryDirectory() as place:
        TARGETS[name].run(file.read_bytes(), Path(place))


def parent(name: str, seconds: int, work: Path) -> bool:
    """Fuzz one target in a child process and say what came of it; whether nothing was found."""
    log = work / f"{name}.log"
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.run", name, "--child", "--seconds", str(seconds), "--work", str(work)]
    with log.open("wb") as output:
        code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
    text = log.read_text(errors="replace")
    found = sorted(path.name for path in (work / "findings" / name).glob("*")) if (work / "findings" / name).exists() else []
    executions = max((int(number) for number in EXECUTIONS.findall(text)), default=0)
    looks = [(what, int(covered), int(inputs)) for what, covered, inputs in COVERAGE.findall(text)]
    begin = next((look for look in looks if look[0] == "INITED"), ("", 0, 0))
    end = looks[-1] if looks else begin
    report = {
        "target": name, "executions": executions, "seconds": seconds, "coverage": [begin[1], end[1]], "inputs": [begin[2], end[2]],
        "exit": code, "findings": found,
    }  # fmt: skip
    print(json.dumps(report), flush=True)
    if code and not found:
        print("\n".join(text.splitlines()[-15:]), file=sys.stderr)
    return code == 0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--replay", type=Path)
    given = parser.parse_args()
    if given.replay is not None:
        replay(given.target, given.replay)
    elif given.child:
        child(given.target, given.work / "corpus" / given.target, given.seconds, given.work / "findings" / given.target)
    else:
        from tests.fuzz.parsers import TARGETS

        names = list(TARGETS) if given.target == "all" else [given.target]
        clean = [parent(name, given.seconds, given.work) for name in names]  # every one of them, whatever the first finds
        sys.exit(0 if all(clean) else 1)


if __name__ == "__main__":
    main()
