"""The logic of benchmarks/compare.py: parsing, medians, ratios and verdicts."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compare
from targets import PEERS, TARGETS, Target


def figure(*values: float, higher: bool = True) -> compare.Figure:
    return compare.Figure("things/s", higher, list(values))


def test_ratio_of_rates_is_above_one_when_ours_is_faster() -> None:
    assert compare.ratio(200.0, 100.0, True) == 2.0


def test_ratio_of_durations_is_above_one_when_ours_is_shorter() -> None:
    assert compare.ratio(0.5, 2.0, False) == 4.0


@pytest.mark.parametrize("higher", [True, False])
def test_ratio_against_zero_is_unknown(higher: bool) -> None:
    ours, theirs = (1.0, 0.0) if higher else (0.0, 1.0)
    assert compare.ratio(ours, theirs, higher) is None


def test_parse_finds_a_figure_behind_a_glued_log_line() -> None:
    output = 'log line without an end{"name": "a", "value": 1, "unit": "s", "higher_is_better": false}# note\nnoise\n{"name": broken'
    assert [one["name"] for one in compare.parse(output)] == ["a"]


def test_collect_keeps_all_rounds_and_takes_their_median() -> None:
    figures: compare.Figures = {}
    for value in (3.0, 1.0, 2.0):
        compare.collect(figures, [{"name": "a", "value": value, "unit": "s", "higher_is_better": False}])
    assert figures["a"].median == 2.0


def test_collect_reports_failed_sections_apart() -> None:
    figures: compare.Figures = {}
    assert compare.collect(figures, [{"name": "tasks.FAILED", "error": "boom"}]) == ["tasks: boom"]
    assert figures == {}


@pytest.mark.parametrize(("value", "higher", "met"), [(10.0, True, True), (9.0, True, False), (10.0, False, True), (11.0, False, False)])
def test_judge_bound_follows_the_figures_direction(value: float, higher: bool, met: bool) -> None:
    assert compare.judge(figure(value, higher=higher), Target(10.0), None)[1] is met


def test_judge_factor_without_ray_is_undecided_but_a_missed_bound_is_not() -> None:
    assert compare.judge(figure(10.0), Target(10.0, 20), None)[1] is None
    assert compare.judge(figure(9.0), Target(10.0, 20), None)[1] is False
    assert compare.judge(figure(10.0), Target(10.0, 20), 19.9)[1] is False
    assert compare.judge(figure(10.0), Target(10.0, 20), 20.0) == (">= 10, >= 20x", True)


def test_table_holds_ours_against_ray_and_against_each_peer() -> None:
    rows = compare.table({"tasks_sync": figure(20_000.0)}, {"tasks_sync": figure(500.0, 1000.0, 2000.0)}, {"multiprocessing.Pool.sync": figure(5_000.0)})
    assert [(row.against.split()[0], row.ratio, row.met) for row in rows] == [("Ray", 20.0, True), ("multiprocessing.Pool.sync", 4.0, True)]


def test_table_shows_figures_that_ray_is_not_asked_for() -> None:
    (row,) = compare.table({"queue_1m": figure(20.0, higher=False)}, {}, {})
    assert (row.theirs, row.ratio, row.met) == (None, None, True)
    assert "| queue_1m | things/s | 20 | Ray" in compare.markdown([row])


def test_chosen_takes_programs_and_sections_and_refuses_others() -> None:
    assert compare.chosen("peers,chain") == [("graphs", "chain"), ("peers", "executor"), ("peers", "pool")]
    with pytest.raises(SystemExit, match="no section"):
        compare.chosen("nonsense")


def test_every_section_named_exists_in_its_program() -> None:
    for program, names in compare.SECTIONS.items():
        text = (compare.HERE / f"{program}.py").read_text()
        assert all(f'"{name}": {name}' in text for name in names), program


def test_every_target_and_peer_is_a_figure_that_some_program_emits() -> None:
    text = "".join(path.read_text() for path in compare.HERE.glob("*.py") if path.stem not in ("compare", "targets"))
    names = {*TARGETS, *PEERS, *(other for others in PEERS.values() for other in others)}
    assert sorted(name for name in names if f'"{name}"' not in text) == []
