"""The largest model: a bisection over what the code accepts, on stacks that are counted as if built."""

import pandas as pd
import pytest

from experiments.figures import largest_model
from experiments.figures.largest_model import PAPER_PARAMETERS, RESIDENT, SPILLING, WAYS, _sizes, cards, largest, stack
from experiments.paper.counting import ModelSpec, count_layers
from hydrasim.cluster import Cluster, Device
from hydrasim.errors import HydraError, SystemRefused


@pytest.fixture(scope="module")
def frame():
    return largest_model.run(smoke=True)


def test_keys_name_rows(frame):
    assert not frame.duplicated(list(largest_model.ABOUT.keys)).any()


@pytest.mark.parametrize("precision", ["fp32", "autocast"])
def test_a_repeated_block_weighs_what_a_counted_one_does(precision):
    whole = count_layers(ModelSpec("gpt2", "6", 1), precision).job
    bare = [(s.parameter_bytes, s.output_bytes, s.working_bytes, s.activation_bytes) for s in whole.shards]
    made = [
        (s.parameter_bytes, s.output_bytes, s.working_bytes, s.activation_bytes) for s in stack(6, precision).shards
    ]
    assert made == bare


def test_the_most_that_is_accepted_is_found():
    def accepts(job, _cluster):
        if len(job.shards) > 3 + 19:
            raise HydraError(f"{len(job.shards)} layers are too many\n  and more")

    found = largest(accepts, Cluster((Device(1),)), "fp32")
    assert (found.num_blocks, found.refusal) == (19, "23 layers are too many")
    blocks, rest = 19 * 30_740_800, 50_257 * 1600 * 2 + 1024 * 1600 + 2 * 1600
    assert found.num_parameters == blocks + rest


def test_what_does_not_fit_at_all_says_why():
    with pytest.raises(SystemRefused, match="needs"):
        largest(WAYS[RESIDENT], Cluster((Device(1),)), "fp32")


def test_without_spilling_the_device_refuses_and_with_it_the_host(frame):
    refusals = frame[frame["precision"] == "fp32"].set_index("way")["refusal"]
    assert "bytes of device 0" in refusals[RESIDENT]
    assert "bytes of host memory" in refusals[SPILLING]


def test_a_ratio_is_to_what_fits_without_spilling_at_the_same_precision(frame):
    assert set(frame["label"]) == {largest_model.ABOUT.label} == {"analytic"}
    for _, part in frame.groupby("precision"):
        fits = part[part["way"] == RESIDENT]["num_parameters"].item()
        assert part["ratio"].tolist() == pytest.approx((part["num_parameters"] / fits).tolist())


def test_host_memory_holds_what_is_spilled_and_little_more(frame):
    row = frame[(frame["way"] == SPILLING) & (frame["precision"] == "fp32")].iloc[0]
    assert 0.8 * row["host_memory_bytes"] < 4 * row["num_parameters"] < row["host_memory_bytes"]


def test_the_claims_are_those_of_the_readme(frame):
    claims = frame.dropna(subset=["paper_parameters"])
    assert set(claims["card"]) == {"K80"}
    assert PAPER_PARAMETERS == {("K80", RESIDENT): 850e6, ("K80", SPILLING): 110e9}
    assert cards()["K80"].host_memory_bytes == 500 * 10**9


def test_a_card_is_labelled_by_its_nominal_memory_and_a_host_as_it_is_sold():
    found = {
        card: _sizes(pd.DataFrame([{
            "card": card, "device_memory_bytes": cluster.devices[0].memory_bytes,
            "host_memory_bytes": cluster.host_memory_bytes,
        }]), card)
        for card, cluster in cards().items()
    }  # fmt: skip
    assert found == {
        "K80": "12 GB, host 500 GB", "GTX 1080 Ti": "11 GB, host 512 GiB", "RTX 2080 Ti": "11 GB, host 500 GB",
        "RTX 4090": "24 GB, host 64 GiB", "A100 40GB": "40 GB, host 1152 GiB", "H100 SXM": "80 GB, host 1800 GiB",
    }  # fmt: skip


def test_draws_a_panel_for_each_precision(frame):
    assert [axes.get_title(loc="left") for axes in largest_model.draw(frame).axes] == ["fp32", "autocast"]
