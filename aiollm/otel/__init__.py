"""OpenTelemetry: a registry's events become spans; needs the extra `otel`."""

from aiollm.otel.spans import instrument

__all__ = ["instrument"]
