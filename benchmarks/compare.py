"""This engine and Ray in turn, on this machine: medians, ratios and targets as a markdown table.

    python benchmarks/compare.py [--rounds 3] [--only tasks,large] [--json results.json]

Every section of every program runs in a process of its own, ours then Ray's, round after round, so that whatever else the machine
does meets both. Ray lives in an environment of its own outside the repository, made on first use.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from targets import PEERS, REFERENCES, TARGETS, Target

HERE = Path(__file__).resolve().parent
RAY = "2.60.0"
RAY_HOME = Path.home() / ".cache" / "ray-bench" / f"ray-{RAY}"
SECTION_LIMIT_S = 600

SECTIONS = {
    "starting": ["start", "idle", "idle_worker", "size"],
    "calls": ["tasks", "task_arguments", "actors", "actor_arguments", "async_actors", "actors_2x2"],
    "objects": ["large", "small", "megabytes", "nested_refs"],
    "spilling": ["spill"],
    "graphs": ["chain", "tree", "wait", "fan_out", "streaming"],
    "lifecycle": ["actor_creation", "actors_1000", "placement_groups", "task_retry", "actor_restart", "actor_death", "cancel"],
    "cluster": ["joining", "remote_tasks", "remote_actors", "transfers", "node_death", "reconstruction", "worker_death"],
    "queued": ["queue_100k", "queue_1m", "queued_task_memory", "object_ref_memory"],
    "peers": ["executor", "pool"],
}
OURS_ONLY = {"actors_1000", "queue_1m"}


@dataclass
class Figure:
    """One figure of one arm over all rounds."""

    unit: str
    higher_is_better: bool
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Row:
    name: str
    unit: str
    ours: float
    against: str
    theirs: float | None
    ratio: float | None
    target: str
    met: bool | None


Figures = dict[str, Figure]


def parse(output: str) -> list[dict[str, Any]]:
    """The figures in a program's output, also where a log line without an end was glued before one."""
    found = []
    for line in output.splitlines():
        start = line.find('{"name"')
        if start >= 0:
            try:
                found.append(json.JSONDecoder().raw_decode(line[start:])[0])
            except json.JSONDecodeError:
                continue
    return found


def collect(figures: Figures, found: Iterable[dict[str, Any]]) -> list[str]:
    """Add what one run printed; returns the sections that failed."""
    failed = []
    for one in found:
        if one["name"].endswith(".FAILED"):
            failed.append(f"{one['name'].removesuffix('.FAILED')}: {one.get('error', '')}")
            continue
        figures.setdefault(one["name"], Figure(one["unit"], one["higher_is_better"])).values.append(one["value"])
    return failed


def ratio(ours: float, theirs: float, higher_is_better: bool) -> float | None:
    """How many times better ours is; None where a zero makes the question meaningless."""
    better, worse = (ours, theirs) if higher_is_better else (theirs, ours)
    return better / worse if worse > 0 else None


def judge(figure: Figure, target: Target | None, times: float | None) -> tuple[str, bool | None]:
    """(the target in words, whether it is met); None where there is none or Ray's side of it is missing."""
    if target is None:
        return "", None
    words, verdicts = [], []
    if target.bound is not None:
        words.append(f"{'>=' if figure.higher_is_better else '<='} {short(target.bound)}")
        verdicts.append(figure.median >= target.bound if figure.higher_is_better else figure.median <= target.bound)
    if target.factor is not None:
        words.append(f">= {target.factor:g}x")
        verdicts.append(None if times is None else times >= target.factor)
    if False in verdicts:
        return ", ".join(words), False
    return ", ".join(words), None if None in verdicts else True


def table(ours: Figures, rays: Figures, peers: Figures) -> list[Row]:
    """A row per figure of ours against Ray, then a row per peer that does the same work."""
    rows = []
    for name, figure in ours.items():
        if name in REFERENCES:
            rows.append(Row(name, figure.unit, figure.median, f"Ray {RAY}", rays[name].median if name in rays else None, None, "", None))
            continue
        times = ratio(figure.median, rays[name].median, figure.higher_is_better) if name in rays else None
        target, met = judge(figure, TARGETS.get(name), times)
        theirs = rays[name].median if name in rays else None
        rows.append(Row(name, figure.unit, figure.median, f"Ray {RAY}", theirs, times, target, met))
    for name, others in PEERS.items():
        for other in [other for other in others if name in ours and other in peers]:
            figure, times = ours[name], ratio(ours[name].median, peers[other].median, ours[name].higher_is_better)
            rows.append(Row(name, figure.unit, figure.median, other, peers[other].median, times, "> 1x", times is not None and times > 1))
    return rows


def short(value: float) -> str:
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown(rows: list[Row]) -> str:
    lines = ["| figure | unit | ours | against | theirs | ratio | target | met |", "|---|---|---:|---|---:|---:|---|---|"]
    for row in rows:
        theirs = "-" if row.theirs is None else short(row.theirs)
        times = "-" if row.ratio is None else f"{row.ratio:.3g}x"
        met = {None: "", True: "yes", False: "**no**"}[row.met]
        lines.append(f"| {row.name} | {row.unit} | {short(row.ours)} | {row.against} | {theirs} | {times} | {row.target} | {met} |")
    return "\n".join(lines)


def make_ray(home: Path) -> Path:
    """The Python of an environment that holds Ray's release; made on first use with the same interpreter as ours."""
    python = home / "bin" / "python"
    if not python.exists():
        print(f"making an environment for Ray {RAY} in {home} (once)", file=sys.stderr)
        home.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        packages = [f"ray[default]=={RAY}", "numpy", "pyarrow", "scikit-learn", "matplotlib", "rich", "pytest"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def run(python: Path, program: str, section: str) -> list[dict[str, Any]]:
    """One section in a fresh process. A crash or a hang counts as the section's failure."""
    argv = [str(python), str(HERE / f"{program}.py"), "--only", section]
    environment = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECTION_LIMIT_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return [{"name": f"{section}.FAILED", "error": f"still running after {SECTION_LIMIT_S} s"}]
    found = parse(done.stdout)
    if done.returncode != 0:
        found.append({"name": f"{section}.FAILED", "error": f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"})
    return found


def chosen(only: str) -> list[tuple[str, str]]:
    """(program, section) pairs; `only` names programs or sections."""
    known = [(program, section) for program, names in SECTIONS.items() for section in names]
    wanted = [name for name in only.split(",") if name]
    unknown = [name for name in wanted if not any(name in pair for pair in known)]
    if unknown:
        listing = "; ".join(f"{program}: {', '.join(names)}" for program, names in SECTIONS.items())
        raise SystemExit(f"error: no section or program is called {', '.join(unknown)}\nhint: there are {listing}")
    return [pair for pair in known if not wanted or set(pair) & set(wanted)]


def measure(options: argparse.Namespace) -> tuple[dict[str, Figures], dict[str, list[str]]]:
    """All rounds of all arms: figures per arm, failures per arm."""
    ours, rays = Path(sys.executable), None if options.ours_only else make_ray(options.ray)
    figures: dict[str, Figures] = {"ours": {}, "ray": {}, "peers": {}}
    failures: dict[str, list[str]] = defaultdict(list)
    for program, section in chosen(options.only):
        arms = [("peers" if program == "peers" else "ours", ours)]
        if rays and program != "peers" and section not in OURS_ONLY:
            arms.append(("ray", rays))
        for number in range(options.rounds):
            for arm, python in arms:
                started = time.monotonic()
                failed = collect(figures[arm], run(python, program, section))
                failures[arm] += [text for text in failed if text not in failures[arm]]
                print(f"{program} {section} {arm} {number + 1}/{options.rounds}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return figures, failures


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure this engine and Ray in turn.")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each arm; medians are shown")
    parser.add_argument("--only", default="", help="programs or sections, separated by commas")
    parser.add_argument("--ray", type=Path, default=RAY_HOME, help="the environment for Ray")
    parser.add_argument("--make-ray", action="store_true", help="only make that environment and print its Python")
    parser.add_argument("--ours-only", action="store_true", help="leave Ray out")
    parser.add_argument("--json", type=Path, help="write all values here, too")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.make_ray:
        print(make_ray(options.ray))
        return
    figures, failures = measure(options)
    rows = table(figures["ours"], figures["ray"], figures["peers"])
    print(f"{os.cpu_count()} CPUs, Python {sys.version.split()[0]}, {options.rounds} rounds, medians; a ratio above 1 means ours is better\n")
    print(markdown(rows))
    for arm, texts in failures.items():
        for text in texts:
            print(f"\nfailed ({arm}): {text}")
    missed = [row for row in rows if row.met is False]
    print(f"\n{sum(row.met is True for row in rows)} targets met, {len(missed)} missed")
    if options.json:
        values = {arm: {name: vars(figure) | {"median": figure.median} for name, figure in found.items()} for arm, found in figures.items()}
        options.json.write_text(json.dumps({"rows": [vars(row) for row in rows], "figures": values, "failures": failures}, indent=1))


if __name__ == "__main__":
    main()
