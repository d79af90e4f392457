"""Placement groups are removed: with what runs in them and what waits for them."""

import os

import pytest

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from support import is_alive, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=2), pytest.mark.limit(30)]


@ray.remote(max_retries=0)
def hold(gate):
    return gate.pass_through()


@ray.remote
def pid():
    return os.getpid()


@ray.remote
class Member:
    def pid(self):
        return os.getpid()

    def hold(self, gate):
        return gate.pass_through()


def within(group, index=-1):
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)


def created(bundles):
    group = placement_group(bundles)
    assert group.wait(20)
    return group


def removed(group):
    remove_placement_group(group)
    wait_for(lambda: placement_group_table(group)["state"] == "REMOVED")
    return group


def test_removed_group_gives_its_resources_back():
    removed(created([{"CPU": 2}]))
    wait_for(lambda: ray.available_resources().get("CPU") == 2.0)


def test_removed_group_stays_in_the_table():
    group = removed(created([{"CPU": 1}]))
    assert placement_group_table()[group.id.hex()]["state"] == "REMOVED"


def test_group_is_removed_twice():
    group = removed(created([{"CPU": 1}]))
    remove_placement_group(group)


def test_pending_group_is_removed():
    group = placement_group([{"CPU": 3}])
    assert group.wait(0.2) is False
    removed(group)


def test_running_task_ends_with_its_group(gate):
    group = created([{"CPU": 1}])
    ref = hold.options(scheduling_strategy=within(group)).remote(gate)
    (process,) = wait_for(gate.pids, 20)
    remove_placement_group(group)
    with pytest.raises(RayError):
        ray.get(ref)
    wait_for(lambda: not is_alive(process))
    wait_for(lambda: ray.available_resources().get("CPU") == 2.0)


def test_running_actor_ends_with_its_group():
    group = created([{"CPU": 1}])
    actor = Member.options(num_cpus=1, scheduling_strategy=within(group)).remote()
    process = ray.get(actor.pid.remote())
    remove_placement_group(group)
    wait_for(lambda: not is_alive(process))
    with pytest.raises(ActorDiedError):
        ray.get(actor.pid.remote())


def test_actor_that_may_be_restarted_ends_with_its_group():
    group = created([{"CPU": 1}])
    actor = Member.options(num_cpus=1, max_restarts=-1, scheduling_strategy=within(group)).remote()
    process = ray.get(actor.pid.remote())
    remove_placement_group(group)
    wait_for(lambda: not is_alive(process))
    with pytest.raises(RayError):
        ray.get(actor.pid.remote())


def test_call_in_an_actor_fails_with_its_group(gate):
    group = created([{"CPU": 1}])
    actor = Member.options(num_cpus=1, scheduling_strategy=within(group)).remote()
    ref = actor.hold.remote(gate)
    wait_for(gate.pids, 20)
    remove_placement_group(group)
    with pytest.raises(ActorDiedError):
        ray.get(ref)


def test_what_runs_outside_goes_on(gate):
    group = created([{"CPU": 1}])
    ref = hold.remote(gate)
    wait_for(gate.pids, 20)
    removed(group)
    gate.open()
    ray.get(ref)


def test_task_for_a_removed_group_fails():
    """It says so instead of waiting for ever."""
    group = removed(created([{"CPU": 1}]))
    with pytest.raises(RayError, match="(?i)placement group"):
        ray.get(pid.options(scheduling_strategy=within(group)).remote())


def test_second_task_for_a_removed_group_fails_as_well():
    group = removed(created([{"CPU": 1}]))
    task = pid.options(scheduling_strategy=within(group))
    for _ in range(2):
        with pytest.raises(RayError, match="(?i)placement group"):
            ray.get(task.remote())


def test_task_in_line_for_a_pending_group_fails_when_it_is_removed():
    group = placement_group([{"CPU": 3}])
    ref = pid.options(scheduling_strategy=within(group)).remote()
    assert ray.wait([ref], timeout=0.2) == ([], [ref])
    remove_placement_group(group)
    with pytest.raises(RayError, match="(?i)placement group"):
        ray.get(ref)


def test_actor_for_a_removed_group_fails():
    group = removed(created([{"CPU": 1}]))
    actor = Member.options(scheduling_strategy=within(group)).remote()
    with pytest.raises(RayError, match="(?i)placement group"):
        ray.get(actor.pid.remote())


def test_actor_in_line_for_a_pending_group_fails_when_it_is_removed():
    group = placement_group([{"CPU": 3}])
    actor = Member.options(scheduling_strategy=within(group)).remote()
    remove_placement_group(group)
    with pytest.raises(RayError, match="(?i)placement group"):
        ray.get(actor.pid.remote())


def test_ready_of_a_group_that_is_removed_fails():
    group = placement_group([{"CPU": 3}])
    ref = group.ready()
    remove_placement_group(group)
    with pytest.raises(RayError):
        ray.get(ref)


def test_ready_of_a_removed_group_fails():
    group = removed(created([{"CPU": 1}]))
    with pytest.raises(RayError):
        ray.get(group.ready())


def test_wait_for_a_removed_group_is_an_error():
    group = removed(created([{"CPU": 1}]))
    with pytest.raises(Exception, match="(?i)placement group"):
        group.wait(1)


def test_task_that_is_retried_after_the_removal_fails(gate):
    """The retry finds no group."""
    group = created([{"CPU": 1}])
    ref = hold.options(max_retries=3, scheduling_strategy=within(group)).remote(gate)
    wait_for(gate.pids, 20)
    remove_placement_group(group)
    with pytest.raises(RayError):
        ray.get(ref)


def test_groups_come_and_go():
    for _ in range(5):
        removed(created([{"CPU": 1}, {"CPU": 1}]))
    wait_for(lambda: ray.available_resources().get("CPU") == 2.0)
