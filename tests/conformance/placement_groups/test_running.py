"""Tasks and actors run in placement groups."""

import os

import pytest

import ray
from ray.util import get_current_placement_group, placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from support import wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4, num_gpus=2, resources={"slot": 4}), pytest.mark.limit(30)]


@pytest.fixture(scope="module")
def shared():
    """A group for the tests that leave it as it was: made by the first one."""
    made = []
    yield made


@pytest.fixture
def group(shared):
    """Two bundles: two CPUs, and one CPU with a slot."""
    if not shared:
        shared.append(placement_group([{"CPU": 2}, {"CPU": 1, "slot": 1}]))
        assert shared[0].wait(20)
    return shared[0]


def within(group, index=-1, capture=None):
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index, placement_group_capture_child_tasks=capture)


@ray.remote
def where():
    """The id of the group, as three parts of the API tell it."""
    current, context = get_current_placement_group(), ray.get_runtime_context()
    assert (current and current.id.hex()) == context.get_placement_group_id()
    return context.get_placement_group_id(), context.should_capture_child_tasks_in_placement_group


@ray.remote
def child(**options):
    return ray.get((where.options(**options) if options else where).remote())


@ray.remote
def hold(gate):
    return gate.pass_through()


@ray.remote
class Member:
    def where(self):
        return ray.get_runtime_context().get_placement_group_id()

    def child(self):
        return ray.get(where.options(num_cpus=0).remote())

    def pid(self):
        return os.getpid()

    def gpus(self):
        return ray.get_gpu_ids()


def test_task_runs_in_its_group(group):
    assert ray.get(where.options(scheduling_strategy=within(group)).remote())[0] == group.id.hex()


@pytest.mark.parametrize("index", [0, 1])
def test_task_runs_in_its_bundle(group, index):
    assert ray.get(where.options(scheduling_strategy=within(group, index)).remote())[0] == group.id.hex()


def test_task_runs_in_its_group_by_the_older_options(group):
    options = {"placement_group": group, "placement_group_bundle_index": 0, "placement_group_capture_child_tasks": True}
    assert ray.get(where.options(**options).remote()) == (group.id.hex(), True)


def test_task_without_a_group_has_none(group):
    assert ray.get(where.options(num_cpus=0).remote()) == (None, False)


def test_driver_has_no_group(group):
    assert get_current_placement_group() is None


@pytest.mark.parametrize("nothing", [None, PlacementGroup.empty()], ids=["None", "empty"])
def test_no_group_is_anywhere(group, nothing):
    assert ray.get(where.options(placement_group=nothing).remote())[0] is None


def test_task_is_submitted_before_its_group_is_there():
    """It runs when the group is."""
    blocker = placement_group([{"GPU": 2}])
    assert blocker.wait(20)
    late = placement_group([{"GPU": 1}])
    ref = where.options(num_cpus=0, num_gpus=1, scheduling_strategy=within(late)).remote()
    assert ray.wait([ref], timeout=0.3) == ([], [ref])
    remove_placement_group(blocker)
    assert ray.get(ref)[0] == late.id.hex()
    remove_placement_group(late)


def test_bundle_limits_what_runs_in_it(group, gate):
    """Three tasks of one CPU for two CPUs: the third waits, although others are free."""
    refs = [hold.options(scheduling_strategy=within(group, 0)).remote(gate) for _ in range(3)]
    wait_for(lambda: len(gate.pids()) == 2, 20)
    ray.get([where.options(scheduling_strategy=within(group, 1)).remote() for _ in range(3)])
    assert len(gate.pids()) == 2
    gate.open()
    ray.get(refs)


def test_any_bundle_takes_what_fits(group, gate):
    """Without an index, tasks fill all bundles."""
    refs = [hold.options(scheduling_strategy=within(group)).remote(gate) for _ in range(4)]
    wait_for(lambda: len(gate.pids()) == 3, 20)
    gate.open()
    ray.get(refs)


def test_full_bundle_does_not_keep_others_out(group, gate):
    """What is reserved and what is not are two things."""
    refs = [hold.options(num_cpus=2, scheduling_strategy=within(group, 0)).remote(gate)]
    wait_for(lambda: len(gate.pids()) == 1, 20)
    assert ray.get(where.remote())[0] is None
    gate.open()
    ray.get(refs)


def test_tasks_outside_do_not_use_what_is_reserved(group, gate):
    """Of four CPUs three are reserved."""
    refs = [hold.remote(gate) for _ in range(2)]
    wait_for(lambda: len(gate.pids()) == 1, 20)
    ray.get([where.options(scheduling_strategy=within(group)).remote() for _ in range(3)])
    assert len(gate.pids()) == 1
    gate.open()
    ray.get(refs)


def test_task_that_waits_in_a_bundle_lends_its_cpu(group):
    """Its child runs in the same bundle, which has no other CPU."""
    ref = child.options(scheduling_strategy=within(group, 1, True)).remote()
    assert ray.get(ref)[0] == group.id.hex()


def test_actor_lives_in_its_group(group):
    actor = Member.options(num_cpus=1, scheduling_strategy=within(group, 0)).remote()
    assert ray.get(actor.where.remote()) == group.id.hex()
    ray.kill(actor)


def test_actor_takes_its_cpu_from_the_bundle(group, gate):
    actor = Member.options(num_cpus=1, scheduling_strategy=within(group, 1)).remote()
    ray.get(actor.where.remote())
    ref = hold.options(scheduling_strategy=within(group, 1)).remote(gate)
    gate.open()
    assert ray.wait([ref], timeout=0.5) == ([], [ref])
    ray.kill(actor)
    ray.get(ref)


def test_actor_is_restarted_in_its_group(group):
    actor = Member.options(num_cpus=1, max_restarts=1, max_task_retries=-1, scheduling_strategy=within(group, 0)).remote()
    first = ray.get(actor.pid.remote())
    ray.kill(actor, no_restart=False)
    wait_for(lambda: ray.get(actor.pid.remote()) != first)
    assert ray.get(actor.where.remote()) == group.id.hex()
    ray.kill(actor)


def test_gpus_of_a_bundle_are_its_own():
    """Two bundles, two devices."""
    group = placement_group([{"GPU": 1}, {"GPU": 1}])
    assert group.wait(20)
    actors = [Member.options(num_cpus=0, num_gpus=1, scheduling_strategy=within(group, at)).remote() for at in range(2)]
    assert sorted(ray.get([actor.gpus.remote() for actor in actors])) == [[0], [1]]
    remove_placement_group(group)
    wait_for(lambda: ray.available_resources().get("GPU") == 2.0)


def test_child_follows_a_group_that_captures(group):
    ref = child.options(scheduling_strategy=within(group, 0, True)).remote()
    assert ray.get(ref) == (group.id.hex(), True)


def test_child_does_not_follow_one_that_does_not(group):
    assert ray.get(child.options(scheduling_strategy=within(group, 0)).remote())[0] is None


def test_child_may_leave_the_group(group):
    ref = child.options(scheduling_strategy=within(group, 0, True)).remote(placement_group=None)
    assert ray.get(ref)[0] is None


def test_child_with_a_strategy_of_its_own_leaves_the_group(group):
    ref = child.options(scheduling_strategy=within(group, 0, True)).remote(scheduling_strategy="SPREAD")
    assert ray.get(ref)[0] is None


def test_child_of_an_actor_follows(group):
    actor = Member.options(num_cpus=0, scheduling_strategy=within(group, 0, True)).remote()
    assert ray.get(actor.child.remote()) == (group.id.hex(), True)
    ray.kill(actor)


def test_actor_made_in_a_group_that_captures_lives_there(group):
    @ray.remote
    def create():
        actor = Member.options(num_cpus=0).remote()
        return ray.get(actor.where.remote())

    assert ray.get(create.options(scheduling_strategy=within(group, 0, True)).remote()) == group.id.hex()


def test_grandchild_follows(group):
    @ray.remote
    def parent():
        return ray.get(child.options(num_cpus=0).remote(num_cpus=0))

    assert ray.get(parent.options(scheduling_strategy=within(group, 1, True)).remote()) == (group.id.hex(), True)


@pytest.mark.parametrize("index", [2, -2])
def test_bundle_that_does_not_exist_is_refused_at_the_call(group, index):
    with pytest.raises(ValueError, match="bundle index"):
        where.options(scheduling_strategy=within(group, index)).remote()
    with pytest.raises(ValueError, match="bundle index"):
        Member.options(scheduling_strategy=within(group, index)).remote()


def test_request_larger_than_every_bundle_is_refused_at_the_call(group):
    with pytest.raises(ValueError):
        where.options(num_cpus=3, scheduling_strategy=within(group)).remote()
    with pytest.raises(ValueError):
        Member.options(num_cpus=3, scheduling_strategy=within(group)).remote()


def test_request_for_what_no_bundle_has_is_refused_at_the_call(group):
    with pytest.raises(ValueError):
        where.options(resources={"other": 1}, scheduling_strategy=within(group)).remote()


def test_child_larger_than_every_bundle_is_refused_at_its_call(group):
    ref = child.options(scheduling_strategy=within(group, 1, True)).remote(num_cpus=3)
    with pytest.raises(ValueError):
        ray.get(ref)


def test_default_actor_needs_a_bundle_with_a_cpu():
    """It needs one CPU to be placed."""
    group = placement_group([{"slot": 1}])
    assert group.wait(20)
    with pytest.raises(ValueError):
        Member.options(scheduling_strategy=within(group)).remote()
    actor = Member.options(num_cpus=0, scheduling_strategy=within(group)).remote()
    assert ray.get(actor.where.remote()) == group.id.hex()
    remove_placement_group(group)


def test_two_ways_to_name_a_group_are_refused(group):
    with pytest.raises(ValueError):
        where.options(placement_group=group, scheduling_strategy="SPREAD").remote()
    with pytest.raises(ValueError):
        where.options(placement_group_bundle_index=1).remote()


def test_request_larger_than_its_own_bundle_is_refused_at_the_call(group):
    """Another bundle is large enough: that is not the one that was asked for."""
    with pytest.raises(ValueError):
        where.options(num_cpus=2, scheduling_strategy=within(group, 1)).remote()
