"""The small instances: what they are like, that a seed and a name tell which, and what their key holds."""

from experiments.paper import instances as module
from experiments.paper.instances import instance, instances, named


def test_instances_are_small_and_of_both_kinds():
    for transfers in (False, True):
        items = [item for item in instances() if item.transfers == transfers]
        assert {item.kind for item in items} == {"homogeneous", "heterogeneous"}
        assert all(3 <= len(item.workload.jobs) <= 8 and 2 <= len(item.cluster.devices) <= 4 for item in items)
        assert all(1 <= len(job.shards) <= 4 for item in items for job in item.workload.jobs)
        assert max(item.workload.num_units for item in items) <= (14 if transfers else 40)
        assert len({item.digest for item in items}) == len(items) >= 50


def test_the_same_seed_draws_the_same_instance():
    assert instance(3, transfers=True) == instance(3, transfers=True)


def test_a_name_tells_which_instance():
    assert all(named(item.name) == item for item in instances(2))


def test_a_key_changes_with_all_that_determines_the_answer(monkeypatch):
    known = {instance(3, transfers=True).digest, instance(4, transfers=True).digest}
    for name, value in (("_VERSION", 0), ("TIME_LIMIT_S", 1.0), ("OURS", module.OURS.__class__(prefetch=False))):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            known.add(instance(3, transfers=True).digest)
    assert len(known) == 2 + 3
