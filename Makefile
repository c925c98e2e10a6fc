# Each target works alone and does its own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup check test test-engines lint types rootfs plugin uninstall demo torture soak damage test-vm bench \
	openapi lock clean

PYTHONS := plugin tests $(wildcard demo)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

setup: ## create .venv with diffkeeper in it; as root also install missing system packages
	@scripts/setup

lint: setup ## ruff: rules and formatting
	.venv/bin/ruff check $(PYTHONS)
	.venv/bin/ruff format --check $(PYTHONS)

types: setup ## mypy, strict, over package and tests
	.venv/bin/mypy

check: lint types ## lint, types and the tests that need no engine, no daemon and no eBPF: two minutes
	.venv/bin/pytest -n 3 --dist worksteal --durations=20 tests/unit tests/property tests/root \
		-m "not slow and not ebpf" $(ARGS)

test: lint types ## lint, types and the whole test suite, as CI; starts a private Docker Engine for it
	DIFFKEEPER_TEST_ENGINE=$(ENGINE) scripts/test $(ARGS)

test-engines: setup ## all Docker tests on the engines of Debian 12, 13 and sid (ARGS="-k compose")
	DIFFKEEPER_TEST_ENGINE=all .venv/bin/pytest --durations=40 tests/docker $(ARGS)

rootfs: setup ## build the plugin's root file system into build/plugin
	rootfs-build/build-rootfs.sh

plugin: rootfs ## build the managed plugin and enable it as "diffkeeper" (SETTINGS="state.source=/srv")
	scripts/plugin install $(SETTINGS)

uninstall: ## disable and remove the plugin; volumes and their history stay
	scripts/plugin uninstall

demo: setup ## Postgres survives kill -9: about a minute, on a real engine
	scripts/with-docker demo/postgres-survive-kill9/run.sh $(ARGS)

damage: setup ## random damage to 1,000 copies of a store: an error, or what was stored (ARGS="1000 --seed 1")
	.venv/bin/python -m tests.support.damage $(or $(ARGS),1000)

torture: setup ## random writers against every source on ext4 and XFS, planted faults: an hour (ARGS="--minutes 5")
	TORTURE_SNAPSHOTS=20 TORTURE_LOSS_SNAPSHOTS=10 TORTURE_FAULTS=all .venv/bin/pytest tests/crash \
		-k "torture or planted or loss"
	.venv/bin/python -m tests.support.torture_long $(ARGS)

soak: setup ## real databases under random harm for MINUTES (120); whatever grows, ages or is lost is found
	.venv/bin/python -m tests.soak --minutes $(or $(MINUTES),120) \
		$(if $(ENGINE),--engine $(ENGINE)) $(ARGS)

test-vm: setup ## parts of it on a stock kernel with cgroup v2 alone, emulated (KERNEL=trixie, all; ARGS="capture")
	DIFFKEEPER_VM_KERNEL=$(KERNEL) scripts/test-vm $(ARGS)

bench: setup ## measure mount, capture, freeze and replay on this machine
	scripts/with-docker .venv/bin/python tests/bench/run.py $(ARGS)

openapi: setup ## write docs/openapi.json, the admin API as its code says it
	.venv/bin/python -m tests.support.openapi

lock: setup ## resolve the dependencies anew into requirements/
	scripts/lock

clean: ## remove what was built; .venv with it
	rm -rf build dist .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
