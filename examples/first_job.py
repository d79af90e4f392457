"""The first real job: which model reads handwritten digits best?

A few dozen settings of several model families are scored by cross-validation. Each score is a task; the images are put into the
object store once and every task reads the same memory; an actor keeps the board; results are shown as they come in.

    python examples/first_job.py [--out first_job.png]
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # one thread per model, here and in the tasks: the comparison below is about processes only

import time

STARTED = time.perf_counter()

import argparse
import sys
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import ray

IMPORTS_S = time.perf_counter() - STARTED
FOLDS = 3
Setting = tuple[str, dict[str, Any]]
Score = tuple[str, str, float, float]


def settings() -> list[Setting]:
    """(family, hyper-parameters) of every model to try, long ones first so that no core idles at the end."""
    forests = [("forest", {"n_estimators": n, "max_features": f}) for n in (200, 100, 50) for f in (0.3, "sqrt")]
    trees = [("extra trees", {"n_estimators": n, "min_samples_leaf": k}) for n in (200, 100, 50) for k in (1, 3)]
    machines = [("svm", {"C": c, "gamma": g}) for c in (0.3, 1.0, 3.0, 10.0) for g in ("scale", 0.02, 0.005)]
    linear = [("logistic", {"C": c}) for c in (10.0, 1.0, 0.1, 0.01)]
    neighbours = [("neighbours", {"n_neighbors": k, "weights": w}) for k in (1, 3, 5, 9) for w in ("uniform", "distance")]
    return [*forests, *trees, *machines, *linear, *neighbours, *[("bayes", {"var_smoothing": v}) for v in (1e-9, 1e-3, 1e-1)]]


def model(family: str, params: dict[str, Any]) -> BaseEstimator:
    match family:
        case "forest":
            return RandomForestClassifier(random_state=0, **params)
        case "extra trees":
            return ExtraTreesClassifier(random_state=0, **params)
        case "svm":
            return make_pipeline(StandardScaler(), SVC(**params))
        case "logistic":
            return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, **params))
        case "neighbours":
            return KNeighborsClassifier(**params)
        case "bayes":
            return GaussianNB(**params)
    raise ValueError(f"no model family is called {family!r}")


def evaluate(images: np.ndarray, labels: np.ndarray, family: str, params: dict[str, Any]) -> Score:
    """(family, settings, mean accuracy, seconds) over FOLDS folds."""
    started = time.perf_counter()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    accuracy = float(cross_val_score(model(family, params), images, labels, cv=folds).mean())
    text = " ".join(f"{name}={value}" for name, value in params.items())
    return family, text, accuracy, time.perf_counter() - started


@ray.remote(num_cpus=0)
class Board:
    """Every score so far. Tasks write to it, the driver reads the best."""

    def __init__(self) -> None:
        self.scores: list[Score] = []

    def add(self, score: Score) -> None:
        self.scores.append(score)

    def best(self, n: int) -> list[Score]:
        return sorted(self.scores, key=lambda score: -score[2])[:n]

    def all(self) -> list[Score]:
        return self.scores


@ray.remote
def evaluate_and_report(images: np.ndarray, labels: np.ndarray, setting: Setting, board: Any) -> Score:
    score = evaluate(images, labels, *setting)
    ray.get(board.add.remote(score))
    return score


def in_parallel(images: np.ndarray, labels: np.ndarray, board: Any) -> float:
    """Run every setting as a task; returns the seconds it took."""
    started = time.perf_counter()
    shared = ray.put(images), ray.put(labels)
    pending = [evaluate_and_report.remote(*shared, setting, board) for setting in settings()]
    with Display(len(pending)) as show:
        while pending:
            done, pending = ray.wait(pending)
            for score in ray.get(done):
                show(score, ray.get(board.best.remote(1))[0])
    return time.perf_counter() - started


class Display:
    """A live bar on a terminal, a line per result elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.bar = total, 0, None
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self.bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.task = self.bar.add_task("waiting for the first result", total=total)

    def __enter__(self) -> Any:
        if self.bar:
            self.bar.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, score: Score, best: Score) -> None:
        self.done += 1
        family, text, accuracy, seconds = score
        line = f"{self.done:3}/{self.total}  {accuracy:.2%}  {family:<11} {text:<40} {seconds:5.2f} s"
        if self.bar:
            self.bar.console.print(line, highlight=False)
            self.bar.update(self.task, advance=1, description=f"best so far {best[2]:.2%} ({best[0]})")
        else:
            print(line, flush=True)


def plot(scores: list[Score], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for family in sorted({score[0] for score in scores}):
        mine = [score for score in scores if score[0] == family]
        axes.scatter([score[3] for score in mine], [score[2] for score in mine], label=family, s=24)
    axes.set(xscale="log", xlabel=f"seconds for {FOLDS}-fold cross-validation", ylabel="mean accuracy", title="handwritten digits")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cross-validate a few dozen models on handwritten digits.")
    parser.add_argument("--out", default="first_job.png", help="where the plot goes")
    out = parser.parse_args().out
    images, labels = load_digits(return_X_y=True)
    evaluate(images, labels, "bayes", {})  # both arms start with scikit-learn warm in this process

    started = time.perf_counter()
    ray.init()
    board = Board.remote()
    print(f"{len(settings())} settings, {len(images)} images, {int(ray.cluster_resources()['CPU'])} CPUs; ray started in {time.perf_counter() - started:.2f} s")
    parallel_s = in_parallel(images, labels, board)
    scores = ray.get(board.all.remote())
    for family, text, accuracy, _ in ray.get(board.best.remote(3)):
        print(f"best: {accuracy:.2%}  {family} {text}")
    ray.shutdown()
    plot(scores, out)

    print("the same loop in one process ...", flush=True)
    started = time.perf_counter()
    alone = [evaluate(images, labels, *setting) for setting in settings()]
    serial_s = time.perf_counter() - started
    assert sorted(score[:3] for score in alone) == sorted(score[:3] for score in scores)
    serial_s += IMPORTS_S  # every worker imports scikit-learn, too
    print(f"one process {serial_s:.1f} s, ray {parallel_s:.1f} s (imports in both): {serial_s / parallel_s:.2f} times as fast, same scores; plot in {out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
