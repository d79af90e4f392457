"""Pictures of what `compare.py --json` measured: one bar chart per subject, ours against Ray, and the page docs/figures.md that shows them.

python benchmarks/compare.py --json results.json
python benchmarks/plots.py results.json [more.json ...] [--out docs]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

plt.rcParams["svg.fonttype"] = "none"
plt.rcParams["svg.hashsalt"] = "the same picture for the same figures"

OURS, RAYS = "#2a7f62", "#c2c2c2"

# A page's sections: title, sentence, file, and the figures in it with the words under which they are shown.
SUBJECTS: list[tuple[str, str, dict[str, str]]] = [
    (
        "Starting and resting",
        "What one pays before the first result, and what a session costs while nothing happens.",
        {
            "import_ray": "import ray",
            "init": "ray.init()",
            "process_start_to_first_result": "first result of a script",
            "shutdown": "ray.shutdown()",
            "idle_pss": "memory at rest",
            "idle_threads": "threads at rest",
            "idle_cpu": "CPU at rest",
            "idle_worker_pss": "memory of an idle worker",
        },
    ),
    (
        "Calls",
        "Tasks and methods of actors, one at a time and many at once.",
        {
            "tasks_sync": "a task and its result",
            "tasks_async_10k": "10,000 tasks at once",
            "actor_sync": "a method and its result",
            "actor_async": "methods at once",
            "async_actor_sync": "an async method",
            "async_actor_async": "async methods at once",
            "actors_2x2_async": "two callers, two actors",
            "generator_task": "items of a generator",
        },
    ),
    (
        "Objects",
        "Values, small and large, by reference and as arguments.",
        {
            "put_small": "put, small",
            "get_small": "get, small",
            "put_1mb": "put, 1 MB",
            "task_1mb_argument_sync": "a task with 1 MB",
            "get_object_with_10k_refs": "get 10,000 refs in a list",
            "get_1gib_elsewhere": "get 1 GiB in a task",
        },
    ),
    (
        "Graphs of tasks",
        "Chains, trees, and waiting for many.",
        {
            "chain_1000": "a step of a chain",
            "tree_reduce_1000": "sum over 1,000 leaves",
            "submit_and_wait_1000_one_by_one": "wait for 1,000, one by one",
            "queue_100k": "100,000 queued tasks",
            "queue_100k_memory": "memory for them",
        },
    ),
    (
        "Actors, groups and faults",
        "Lives that begin and end.",
        {
            "actor_create_one": "create one actor",
            "actor_create_20": "create 20 actors",
            "placement_group_one": "a placement group",
            "placement_group_100": "100 placement groups",
            "cancel_queued": "cancel a queued task",
            "cancel_running": "cancel a running task",
            "task_retry": "task again after a crash",
            "actor_restart": "actor again after a crash",
        },
    ),
    (
        "Several nodes",
        "Nodes of one cluster on one machine.",
        {
            "cluster_head_start": "head started",
            "cluster_node_add": "a node joins",
            "cluster_remote_task_sync": "a task on another node",
            "cluster_spread_tasks_async_1000": "spread tasks at once",
            "cluster_remote_actor_sync": "a method on another node",
            "cluster_transfer_100mb": "100 MB over",
            "cluster_transfer_200kb_latency": "200 KB over",
            "cluster_broadcast_100mb_to_3": "100 MB to three",
            "cluster_node_death_detect": "a dead node noticed",
            "cluster_lost_object_ready_after_node_kill": "a lost object is back",
            "cluster_reconstruct_1000_objects": "1,000 lost objects made again",
        },
    ),
]


def read(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Rows against Ray by figure; a later file's word counts."""
    rows: dict[str, dict[str, Any]] = {}
    for path in paths:
        for row in json.loads(path.read_text())["rows"]:
            if row["against"].startswith("Ray") and row["ratio"]:
                rows[row["name"]] = row
    return rows


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def draw(title: str, shown: dict[str, str], rows: dict[str, dict[str, Any]], path: Path) -> None:
    """One pair of bars per figure, each as long as it is better than Ray's (1), on a logarithmic axis; the values stand beside them."""
    names = [name for name in reversed(shown) if name in rows]
    fig, axes = plt.subplots(figsize=(8, 0.55 * len(names) + 1.0))
    for place, name in enumerate(names):
        row = rows[name]
        axes.barh(place + 0.19, max(row["ratio"], 0.01), height=0.38, color=OURS)
        axes.barh(place - 0.19, 1, height=0.38, color=RAYS)
        axes.text(max(row["ratio"], 1) * 1.1, place, f"{short(row['ours'])} and {short(row['theirs'])} {row['unit']}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), [shown[name] for name in names], fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(0.5, max(rows[name]["ratio"] for name in names) * 12)
    axes.set_xlabel("times better than Ray 2.60 (grey, 1)", fontsize=9)
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(fig)


def page(rows: dict[str, dict[str, Any]], folder: Path) -> str:
    lines = [
        "# Figures",
        "",
        "This engine (green) and Ray 2.60 (grey) in turn on the same machine, medians. Bars show how many times better; beside them the measured values, ours first.",
        "`make bench` measures on yours; `benchmarks/plots.py` draws.",
    ]
    for title, sentence, shown in SUBJECTS:
        if not any(name in rows for name in shown):
            continue
        name = title.lower().replace(",", "").replace(" ", "-") + ".svg"
        draw(title, shown, rows, folder / name)
        lines += ["", f"## {title}", "", sentence, "", f"![{title}](figures/{name})"]
    lines += ["", "## All of them", "", "| figure | unit | ours | Ray 2.60 | ratio |", "|---|---|---:|---:|---:|"]
    for row in rows.values():
        times = "-" if row["ratio"] is None else f"{row['ratio']:.3g}x"
        lines.append(f"| {row['name']} | {row['unit']} | {short(row['ours'])} | {short(row['theirs'])} | {times} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw what compare.py measured.")
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    folder = options.out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    (options.out / "figures.md").write_text(page(read(options.results), folder))
    print(options.out / "figures.md")


if __name__ == "__main__":
    main()
