"""OpenTelemetry's SDK with exporters in memory, and what they were given."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from marketplace_metering_async import OpenTelemetryObserver

Labels = frozenset[tuple[str, Any]]


@frozen
class Collected:
    """An observer, and where what it records goes."""

    observer: OpenTelemetryObserver
    tracer_provider: TracerProvider
    _spans: InMemorySpanExporter
    _reader: InMemoryMetricReader

    def spans(self) -> list[ReadableSpan]:
        """Return all spans that have ended."""
        return list(self._spans.get_finished_spans())

    def metrics(self) -> list[Any]:
        """Return all metrics that there are now."""
        data = self._reader.get_metrics_data()
        return [
            one
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for one in scope.metrics
        ]

    def values(self) -> dict[str, Mapping[Labels, Any]]:
        """Return each metric's values by attributes: a number; of a histogram, count and sum."""
        return {
            one.name.removeprefix("marketplace_metering."): {
                frozenset(point.attributes.items()): _value(point) for point in one.data.data_points
            }
            for one in self.metrics()
        }


def _value(point: Any) -> Any:
    return point.value if hasattr(point, "value") else (point.count, point.sum)


def collected(**settings: Any) -> Collected:
    """Return an observer with an SDK of its own; *settings* are those of the observer."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    observer = OpenTelemetryObserver(
        tracer_provider=tracers,
        meter_provider=MeterProvider([reader], shutdown_on_exit=False),
        **settings,
    )
    return Collected(observer, tracers, spans, reader)
