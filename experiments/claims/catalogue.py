"""The claims themselves; those of one command stand together. CLAIMS.md is written from here.

A command writes below $OUT what it would write below results/.
"""

from __future__ import annotations

from functools import partial

from experiments.claims.claim import Claim, at_least, at_most, exactly, within
from experiments.claims.figures import FIGURE_CLAIMS

_SHARED = "a shared machine"

_fig6 = partial(
    Claim,
    command="hydrasim compare --preset paper-fig6 --policies model-parallel,task-parallel,sharded-lrtf --json",
    label="simulated",
    minutes=0.05,
    quick=True,
)
_fig7 = partial(
    Claim,
    command="hydrasim compare --preset paper-fig7 --models 8 --devices 4 --kind heterogeneous "
    "--policies sharded-lrtf,random --json",
    label="simulated",
    minutes=0.2,
    quick=True,
)
_demo = partial(
    Claim, command="hydrasim demo --output $OUT/demo", label="emulated", minutes=4, file="demo/summary.json"
)
_memory = partial(
    Claim,
    command="python -m experiments.memory --output $OUT/memory",
    label="emulated",
    minutes=3,
    file="memory/summary.json",
)
_case = partial(
    Claim,
    command="hydrasim validate standard --case gpt5-half --rescore --output results/validation --json",
    label="emulated",
    minutes=0.1,
    quick=True,
)
_validation = partial(
    Claim,
    command="cp -r results/validation $OUT; hydrasim validate standard --rescore --output $OUT/validation",
    label="emulated",
    minutes=1.5,
    file="validation/summary.json",
)
_hostile = partial(
    Claim,
    command="python -m experiments.hostile --output $OUT/hostile",
    expected=exactly(0),
    label="measured",
    minutes=15,
    file="hostile/summary.json",
)

_SIMULATED = (
    *(
        _fig6(
            f"fig6-{policy}",
            f"Fig. 6 under {policy}, in unit times",
            expected=exactly(units),
            path=("rows", {"policy": policy}, "makespan_s"),
            paper=units,
        )
        for policy, units in (("model-parallel", 12), ("task-parallel", 8), ("sharded-lrtf", 6))
    ),
    Claim("fig6-bound", "What every plan of Fig. 6 takes at least, in unit times", "hydrasim optimal --preset "
          "paper-fig6 --json", exactly(6), "simulated", 0.05, path=("bound_s",), quick=True),
    _fig7("fig7-sharded-lrtf", "Makespan of Sharded-LRTF over the lower bound, Fig. 7's eight unequal jobs on four "
          "devices", expected=at_most(1.0001), path=("rows", {"policy": "sharded-lrtf"}, "ratio_to_bound"), paper=1.01),
    _fig7("fig7-random", "The random policy's, on the same", expected=at_least(1.05),
          path=("rows", {"policy": "random"}, "ratio_to_bound"), paper=1.15),
    Claim("same-timeline", "One simulation run twice with one seed: how many different timelines, byte for byte",
          "for run in a b; do hydrasim simulate --preset paper-fig7 --models 8 --devices 4 --scale 0.02 "
          "--policy random --seed 3 -o $OUT/$run.jsonl >$OUT/log; done; sha256sum $OUT/*.jsonl | cut -d' ' -f1 "
          "| sort -u | wc -l", exactly(1), "simulated", 0.1, quick=True),
    Claim("invariants", "How many of the invariants fail on 2,000 random worlds each",
          "HYPOTHESIS_PROFILE=nightly INVARIANTS_RESULTS=$OUT/invariants python -m pytest tests/invariants "
          "--timeout=3600 --hypothesis-seed=20261124", exactly(0), "simulated", 25, "invariants/summary.json",
          ("num_failed",)),
)  # fmt: skip

_EXECUTED = (
    Claim("demo-smoke-exact", "Five GPTs trained for three mini-batches on devices too small for them are "
          "byte-identical to the plain loop", "hydrasim demo --smoke --output $OUT/demo-smoke --json", exactly(1),
          "emulated", 0.5, path=("bit_identical",), unit="yes", quick=True),
    _demo("demo-exact", "Weights, optimizer state and losses of the demo's five GPTs are byte-identical to the plain "
          "loop", expected=exactly(1), path=("bit_identical",), unit="yes"),
    _demo("demo-error", "The predicted makespan of the demo's best plan, against the executed one",
          expected=within(0.1, _SHARED), path=("error_fraction",), unit="%"),
    _demo("demo-gain", "The demo's worst work-conserving plan over its best one, executed",
          expected=at_least(1.1, _SHARED), path=("measured_gain",), unit="x"),
    _demo("demo-memory", "State that a device of the demo holds, of the largest model's", expected=at_most(0.5),
          path=("budget_fraction",), unit="%"),
    Claim("exactness", "1,000 combinations of optimizer, dropout, loader, device, cut, prefetch and policy are all "
          "byte-identical", "EXACTNESS_CASES=1000 python -m pytest -m exactness_full >$OUT/log && echo true",
          exactly(1), "emulated", 10, unit="yes"),
    _memory("memory-breaches", "How often 200 random models at the tightest budgets take more than theirs",
            expected=exactly(0), path=("num_breaches",)),
    _memory("memory-margin", "The margin that these would have needed, of the 2 % that is kept",
            expected=at_most(0.02), path=("needed_margin_fraction",), unit="%"),
)  # fmt: skip

_VALIDATION = (
    _case("case-error", "Median error of predicted makespans in case gpt5-half, from the committed runs",
          expected=at_most(0.05), path=("median_error_fraction",), unit="%"),
    _case("case-replay", "Error of the makespan when measured durations are put into the simulator, in that case",
          expected=at_most(1e-9, "rounding"), path=("replay_error_fraction",), unit="%"),
    _validation("validation-error", "Median error of predicted makespans over 14 cases, from the committed runs",
                expected=at_most(0.05), path=("median_error_fraction",), unit="%"),
    _validation("validation-worst", "The largest error of all plans", expected=at_most(0.1),
                path=("max_error_fraction",), unit="%"),
    _validation("validation-skill", "Our error over the naive predictor's", expected=at_most(0.2), path=("skill",)),
    _validation("validation-ranking", "Kendall's tau of predicted and measured ranking, over pairs that repeats tell "
                "apart", expected=at_least(0.95), path=("kendall_tau",)),
    _validation("validation-regret", "What plans chosen by simulation take longer than the best ones, in the mean",
                expected=at_most(0.02), path=("regret_fraction",), unit="%"),
    _validation("validation-oom", "Runs that ran out of memory", expected=exactly(0), path=("num_oom",)),
)  # fmt: skip

_OTHER = (
    _hostile("hostile-wrong", "How many of 5,000 random simulations break a promise", path=("num_simulations_wrong",)),
    _hostile("hostile-tracebacks", "How many of 200 abused processes show a traceback", path=("num_tracebacks",)),
    _hostile("hostile-hung", "How many of them hang", path=("num_hung",)),
    _hostile("hostile-orphans", "How many processes outlive them", path=("num_orphans",)),
    _hostile("hostile-half-written", "How many files they leave half-written", path=("num_half_written",)),
    Claim("analytic-block", "Median error of the analytic estimate of a GPT block, against the CPU at hand",
          "python -m experiments.analytic --output $OUT/analytic", at_most(0.3, "another CPU"), "analytic", 1,
          "analytic/summary.json", ("median_abs_error_fraction", "block"), "%"),
    Claim("engine-theory", "Fig. 7's world simulated, in times of a bare SimPy program that is told every duration",
          "python -m experiments.engine --output $OUT/engine", at_most(40, _SHARED), "measured", 3,
          "engine/summary.json", ("rows", {"world": "fig7", "size": "4"}, "simulator_over_bare"), "x"),
    Claim("gpu-exact", "On a GPU, weights, optimizer state and losses are byte-identical to the plain loop",
          "python -m experiments.gpu --output $OUT/gpu", exactly(1), "measured", 20, "gpu/summary.json",
          ("exactness", "identical"), "yes", gpu=True),
)  # fmt: skip

CLAIMS = (*_SIMULATED, *FIGURE_CLAIMS, *_EXECUTED, *_VALIDATION, *_OTHER)
