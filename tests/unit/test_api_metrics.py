"""Counters and histograms in Prometheus' text form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from diffkeeper import counters
from diffkeeper.api import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

VOLUME = "metrics-test"


class Page(Collector):
    def collect(self) -> Iterable[Metric]:
        yield from metrics.counter_families()
        yield from metrics.histogram_families()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    counters.forget(VOLUME)


def page() -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Page())
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_known_families_are_there_before_anything_happens() -> None:
    text = page()
    for name in (*metrics.COUNTERS, *metrics.HISTOGRAMS):
        assert f"# HELP diffkeeper_{name} " in text


def test_counters() -> None:
    counters.add("recovery_total", kind="replay", volume=VOLUME)
    counters.add("recovery_total", 2, kind="replay", volume=VOLUME)
    counters.add("verification_total", result="ok", volume=VOLUME)
    counters.add("surprise_total", volume=VOLUME)
    found = samples(page())
    volume = ("volume", VOLUME)
    assert found["diffkeeper_recovery_total", (("kind", "replay"), volume)] == 3
    assert found["diffkeeper_verification_total", (("result", "ok"), volume)] == 1
    assert found["diffkeeper_surprise_total", (volume,)] == 1


def test_histograms_are_cumulative() -> None:
    for seconds in (0.0005, 0.003, 0.003, 99.0):
        counters.observe("freeze_seconds", seconds, volume=VOLUME)
    found = samples(page())
    volume = ("volume", VOLUME)
    name = "diffkeeper_freeze_seconds"
    assert found[f"{name}_bucket", (("le", "0.001"), volume)] == 1
    assert found[f"{name}_bucket", (("le", "0.005"), volume)] == 3
    assert found[f"{name}_bucket", (("le", "10.0"), volume)] == 3
    assert found[f"{name}_bucket", (("le", "+Inf"), volume)] == 4
    assert found[f"{name}_count", (volume,)] == 4
    assert found[f"{name}_sum", (volume,)] == pytest.approx(99.0065)


def test_label_values_are_escaped() -> None:
    counters.add("capture_errors_total", volume=VOLUME, error='a "b"\n\\c')
    key = ("diffkeeper_capture_errors_total", (("error", 'a "b"\n\\c'), ("volume", VOLUME)))
    assert samples(page())[key] == 1
