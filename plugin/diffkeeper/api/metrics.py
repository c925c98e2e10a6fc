"""Prometheus text from the process-wide counters and the volumes' status."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import diffkeeper
from diffkeeper import counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from diffkeeper.api.health import Health
    from diffkeeper.messages.machine import FeatureView
    from diffkeeper.messages.volumes import VolumeView
    from diffkeeper.service.service import VolumeService

PREFIX: Final = "diffkeeper_"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
COUNTERS: Final[Mapping[str, str]] = {
    "recovery_total": "Recoveries of a volume, by kind.",
    "replay_failures_total": "Live directories that could not be had for a mount, by error.",
    "snapshots_total": "Snapshots taken since the daemon started.",
    "capture_cpu_seconds_total": "CPU seconds spent on captures.",
    "capture_errors_total": "Captures that failed, by error.",
    "capture_fallbacks_total": "Times that a volume's source was replaced by a coarser one.",
    "ebpf_programs_lost_total": "Times that the loaded eBPF programs were found lost.",
    "ebpf_lost_total": "Times that a volume's marks were lost, and all of it was compared.",
    "ebpf_left_out_total": "Times that the kernel was seen to have left runs of eBPF programs out.",
    "verification_total": "Verifications, by result.",
    "scrubs_total": "Times that the whole store was read and checked, by result.",
    "collections_total": "Collections of the store's garbage, by result.",
    "fuzzy_total": "Snapshots that are not one instant.",
    "forgotten_total": "Snapshots forgotten since the daemon started, by retention or by command.",
    "yielded_total": "Snapshots of them that went before their time, for want of room.",
    "purged_total": "Removed volumes deleted for good since the daemon started.",
}
HISTOGRAMS: Final[Mapping[str, str]] = {
    "recovery_seconds": "How long a recovery took.",
    "capture_seconds": "How long a capture took, from the first look to the durable snapshot.",
    "freeze_seconds": "How long the writers were frozen for a snapshot.",
}
# Counters of the loaded eBPF programs themselves, for all volumes together.
EBPF_COUNTS: Final[Mapping[str, str]] = {
    "marks": "Marks that the eBPF programs have set.",
    "full_files": "Files marked as a whole, since there was no room for a mark of a part.",
    "full_volumes": "Volumes marked as a whole, since there was no room for a mark of a file.",
    "long_ranges": "Ranges too long to be marked chunk by chunk, whose file was marked.",
    "full_writes": "Writes under way that had no room, so that all volumes are compared.",
}
STATISTICS: Final[Mapping[str, str]] = {
    "store_used_bytes": "Bytes in use inside the store.",
    "store_file_bytes": "What the store's file takes on the disk.",
    "store_max_bytes": "Bytes that history may use.",
    "store_reserve_bytes": "Bytes of the file system that history leaves to live data.",
    "unique_bytes": "Plain bytes of all distinct chunks.",
}


HISTORY: Final[Mapping[str, str]] = {
    "trash_volumes": "Removed volumes that can be brought back.",
    "trash_bytes": "Bytes of all files in their newest snapshots.",
    "trash_stored_bytes": "Bytes in the store that removed volumes alone have, as last counted.",
    "trash_max_bytes": "Bytes in the store that removed volumes alone may have.",
    "trash_next_purge_seconds": "Time until the next one of them is deleted for good.",
    "clock_unseen_seconds": "Time that passed unseen, which histories and trash do not age by yet.",
}
SCRUB: Final[Mapping[str, str]] = {
    "healed_objects": "Damaged objects that the last scrub healed.",
    "lost_objects": "Damaged objects that the last scrub could not heal.",
    "lost_snapshots": "Snapshots that lose files by that.",
}


def render(service: VolumeService, health: Health) -> bytes:
    """The metrics page. Reads memory only, so that a scrape never waits for a disk."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(service, health))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(self, service: VolumeService, health: Health) -> None:
        self._service = service
        self._health = health

    def collect(self) -> Iterable[Metric]:
        yield from counter_families()
        yield from histogram_families()
        info = GaugeMetricFamily(f"{PREFIX}info", "The running release.", labels=["version"])
        info.add_metric([diffkeeper.__version__], 1)
        yield info
        troubles = GaugeMetricFamily(f"{PREFIX}trouble", "Troubles that need a person's eye.")
        troubles.add_metric([], len(self._health.troubles()))
        yield troubles
        if not self._health.loading:
            yield from self._state()

    def _state(self) -> Iterator[Metric]:
        service = self._service
        yield from volume_families([service.view(view.name) for view in service.views()])
        yield from ebpf_families(service.features(look=False), service.ebpf_counts())
        statistics = service.store_care.stats()
        yield from scrub_families(statistics.scrub.last)
        yield from gauge_families(HISTORY, service.history.figures())
        values = {name: _number(getattr(statistics, name)) for name in STATISTICS}
        yield from gauge_families(STATISTICS, values)


def gauge_families(texts: Mapping[str, str], values: Mapping[str, float]) -> Iterator[Metric]:
    """Gauges without labels; no series where there is no value."""
    for name, text in texts.items():
        family = GaugeMetricFamily(PREFIX + name, text)
        if name in values:
            family.add_metric([], values[name])
        yield family


def scrub_families(last: object) -> Iterator[Metric]:
    """Result of the last scrub; no series before the first one since the start."""
    texts = {f"scrub_{name}": text for name, text in SCRUB.items()}
    values = {f"scrub_{name}": _number(_at(last, name)) for name in SCRUB}
    yield from gauge_families(texts, values if last is not None else {})


def counter_families() -> Iterator[Metric]:
    """Every counter, known ones even before they were incremented."""
    series: dict[str, list[tuple[dict[str, str], float]]] = {name: [] for name in COUNTERS}
    for (name, pairs), value in counters.counts().items():
        series.setdefault(name, []).append((dict(pairs), value))
    for name, values in series.items():
        keys = _label_names(labels for labels, _ in values)
        text = COUNTERS.get(name, f"Count of {name}.")
        family = CounterMetricFamily(PREFIX + name.removesuffix("_total"), text, labels=keys)
        for labels, value in values:
            family.add_metric([labels.get(key, "") for key in keys], value)
        yield family


def histogram_families() -> Iterator[Metric]:
    """Every histogram, known ones even before they have values."""
    series: dict[str, list[tuple[dict[str, str], counters.Histogram]]] = defaultdict(list)
    series.update({name: [] for name in HISTOGRAMS})
    for (name, pairs), histogram in counters.histograms().items():
        series[name].append((dict(pairs), histogram))
    for name, values in series.items():
        keys = _label_names(labels for labels, _ in values)
        text = HISTOGRAMS.get(name, f"Distribution of {name}.")
        family = HistogramMetricFamily(PREFIX + name, text, labels=keys)
        for labels, histogram in values:
            texts = [labels.get(key, "") for key in keys]
            family.add_metric(texts, cumulative(histogram), sum_value=histogram.total)
        yield family


def cumulative(histogram: counters.Histogram) -> list[tuple[str, float]]:
    """Prometheus buckets: upper bound and how many values lie at or below it."""
    bounds = [*(str(bound) for bound in counters.SECONDS_BUCKETS), "+Inf"]
    buckets: list[tuple[str, float]] = []
    count = 0.0
    for bound, inside in zip(bounds, histogram.buckets, strict=True):
        count += inside
        buckets.append((bound, count))
    return buckets


def _label_names(labels: Iterable[Mapping[str, str]]) -> list[str]:
    return sorted({key for each in labels for key in each})


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def volume_families(views: list[VolumeView]) -> Iterator[Metric]:
    """Gauges from the volumes' status; no series for a value that a volume does not have yet."""
    for name, (text, value_of) in GAUGES.items():
        family = GaugeMetricFamily(PREFIX + name, text, labels=["volume"])
        for view in views:
            value = value_of(view.status)
            if isinstance(value, int | float):
                family.add_metric([view.name], float(value))
        yield family
    source = GaugeMetricFamily(
        f"{PREFIX}capture_source",
        "1 for the source in use, and why it is.",
        labels=["volume", "source", "reason"],
    )
    for view in views:
        why = [str(_at(view.status, "capture", key)) for key in ("source", "reason")]
        source.add_metric([view.name, *why], 1)
    yield source


def ebpf_families(features: Sequence[FeatureView], counted: Mapping[str, int]) -> Iterator[Metric]:
    """Which eBPF features are supported, and the programs' counters while they are loaded."""
    family = GaugeMetricFamily(
        f"{PREFIX}ebpf_feature",
        "1 for what is known of a feature: supported, unsupported, unknown.",
        labels=["feature", "support"],
    )
    for feature in features:
        family.add_metric([feature.name, feature.support], 1)
    yield family
    for name, text in EBPF_COUNTS.items():
        count = CounterMetricFamily(f"{PREFIX}ebpf_{name}", text)
        if name in counted:
            count.add_metric([], counted[name])
        yield count


def _at(status: object, *fields: str) -> object:
    """The value of a nested field; None where one of them is None."""
    for field in fields:
        status = getattr(status, field) if status is not None else None
    return status


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else 0


GAUGES: Final[Mapping[str, tuple[str, Callable[[object], object]]]] = {
    "delta_count": ("Snapshots that are stored.", lambda s: _at(s, "snapshots")),
    "mounts": ("Mounts that are counted.", lambda s: _at(s, "mounts")),
    "logical_bytes": ("Bytes of all files.", lambda s: _at(s, "logical_bytes")),
    "stored_bytes": ("Bytes stored for all snapshots.", lambda s: _at(s, "stored_bytes")),
    "volume_size_bytes": ("What its live directory may take.", lambda s: _at(s, "size")),
    "volume_size_used_bytes": (
        "What that takes, when last looked at.",
        lambda s: _at(s, "size_used"),
    ),
    "volume_unique_bytes": (
        "Plain bytes that no other volume has, when last counted.",
        lambda s: _at(s, "accounting", "unique_bytes"),
    ),
    "volume_shared_bytes": (
        "Plain bytes that another volume has, too, when last counted.",
        lambda s: _at(s, "accounting", "shared_bytes"),
    ),
    "volume_unique_stored_bytes": (
        "Stored bytes that this volume alone needs, when last counted.",
        lambda s: _at(s, "accounting", "unique_stored_bytes"),
    ),
    "volume_growth_bytes_per_day": (
        "Stored bytes that a day adds, when last counted.",
        lambda s: _at(s, "accounting", "growth_bytes_per_day"),
    ),
    "volume_counted_age_seconds": (
        "Age of these figures.",
        lambda s: _at(s, "accounting", "age_seconds"),
    ),
    "snapshot_age_seconds": (
        "Age of the newest snapshot. It grows while nothing changes.",
        lambda s: _at(s, "last_snapshot", "age_seconds"),
    ),
    "effective_interval_seconds": (
        "Interval of captures, as stretched by their CPU budget.",
        lambda s: _at(s, "capture", "effective_interval_seconds"),
    ),
    "scanned_directories": (
        "Directories that cannot be watched, which each capture compares.",
        lambda s: _at(s, "capture", "scanned_directories"),
    ),
    "group_volumes": (
        "Volumes that are captured in one instant with this one, itself among them; else 0.",
        lambda s: _length(_at(s, "capture", "group")),
    ),
    "last_freeze_seconds": (
        "How long the last capture froze the writers.",
        lambda s: _at(s, "capture", "last", "freeze_seconds"),
    ),
    "last_capture_seconds": (
        "How long the last capture took.",
        lambda s: _at(s, "capture", "last", "capture_seconds"),
    ),
    "last_dirty_bytes": (
        "Bytes that the last capture had to read.",
        lambda s: _at(s, "capture", "last", "dirty_bytes"),
    ),
    "last_rounds": (
        "Rounds of looking in the last capture.",
        lambda s: _at(s, "capture", "last", "rounds"),
    ),
    "last_verification_ok": (
        "1 if the last verification found nothing wrong.",
        lambda s: _at(s, "last_verification", "ok"),
    ),
}
