# Every target sets up what it needs; `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
WITH_RIVALS := crossover end-to-end precision saturn throughput  # figures that carry how far those were off

.PHONY: help demo test lint types paper exactness nightly validate memory hostile analytic engine emulated peers speed faults gpu report claims tutorial ci clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/installed  ## profile, simulate, plan, execute and compare, into results/demo/
	$(BIN)/hydrasim demo
	$(BIN)/python -m experiments.readme

test: .venv/installed  ## the test suite
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: .venv/installed  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed  ## mypy --strict on hydrasim
	$(BIN)/mypy

# More of the 4.4 million combinations: make exactness EXACTNESS_CASES=5000
exactness: .venv/installed  ## byte-identity over 1,000 combinations of everything, ten minutes
	EXACTNESS_CASES=$(or $(EXACTNESS_CASES),1000) $(BIN)/python -m pytest -m exactness_full

# Other worlds every day; the record says which: make nightly SEED=20261123
nightly: SEED ?= $(shell date +%Y%m%d)
nightly: .venv/installed  ## the invariants on 2,000 random worlds each, into results/invariants/
	HYPOTHESIS_PROFILE=nightly INVARIANTS_RESULTS=results/invariants \
		$(BIN)/python -m pytest tests/invariants --timeout=3600 --hypothesis-seed=$(SEED)

validate: .venv/installed  ## predictions against executed plans, 14 cases, into results/validation/
	$(BIN)/hydrasim validate standard --output results/validation
	$(BIN)/python -m experiments.readme

memory: .venv/installed  ## 200 random models at the tightest budgets, two minutes, into results/memory/
	$(BIN)/python -m experiments.memory
	$(BIN)/python -m experiments.readme

analytic: .venv/installed  ## the analytic estimate against this CPU, one minute, into results/analytic/
	$(BIN)/python -m experiments.analytic

engine: .venv/installed  ## the simulator's speed beside bare SimPy, into results/engine/
	$(BIN)/python -m experiments.engine

faults: .venv/installed  ## processes killed in 200 runs, into results/faults/; 25 minutes
	$(BIN)/python -m experiments.faults

hostile: .venv/installed  ## 5,000 random simulations and 200 abused processes, into results/hostile/
	$(BIN)/python -m experiments.hostile
	$(BIN)/python -m experiments.readme

# Twice as many mini-batches, to see that no ratio moves: hydrasim experiment NAME --doubling
paper: .venv/installed  ## all figures into results/, README, report page, CLAIMS.md: 15 minutes simulated, then 15 executed
	$(BIN)/hydrasim experiment all
	$(MAKE) emulated report
	$(BIN)/python -m experiments.claims --committed --update

emulated: .venv/installed  ## small figures of the paper, executed; a quarter of an hour, and they want the machine for themselves
	for name in fig6 ablation scaling model-size loading-zone prefetch; do $(BIN)/hydrasim experiment emulated-$$name || exit; done
	$(BIN)/python -m experiments.readme

# Some of it: make peers PEERS="--workload W --optimizer adamw"; races run one at a time are reported together.
peers: .venv/installed  ## ours beside GPipe, 1F1B, DDP, FSDP2 and DeepSpeed, real runs, into results/rivals/; hours, alone
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,rivals]'
	$(BIN)/python -m experiments.peers $(PEERS) --output results/rivals
	for name in $(WITH_RIVALS); do $(BIN)/hydrasim experiment $$name --draw-only || exit; done
	$(BIN)/python -m experiments.readme

speed: .venv/installed  ## ours beside the in-memory ideal on one device and two, into results/executor/; an hour, alone
	$(BIN)/python -m experiments.speed --output results/executor

gpu: .venv/installed  ## exactness, overlap, profile and validation on a machine with a GPU, into results/gpu/
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m experiments.gpu
	$(BIN)/python -m experiments.readme

report: .venv/installed  ## one page of everything in results/ to look at, into results/report.html
	$(BIN)/hydrasim report results --output results/report.html

# Some of them: make claims QUICK=1, as CI does, or make claims NAMES="fig6-bound demo-exact"
claims: .venv/installed  ## every claim of CLAIMS.md checked, PASS or FAIL; two hours and a bit, two minutes with QUICK=1
	$(BIN)/python -m experiments.claims $(if $(QUICK),--quick) $(NAMES)

tutorial: .venv/installed  ## run experiments/tutorial.ipynb and keep what it shows; wants the machine for itself
	$(BIN)/python -m experiments.tutorial

ci: test lint types  ## what .ci/run runs, and a smoke demo
	$(BIN)/hydrasim demo --smoke --output "$$(mktemp -d)"

clean:  ## remove the virtual environment and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
