"""One trace from a driver's submit through host, append, projection and handler, by OpenTelemetry; if asked for.

The W3C trace context travels in the metadata of a command and of its events. What is traced is put around the same
ports as what is counted. While tracing is off nothing of OpenTelemetry is imported, and no command passes any of it.
"""

from __future__ import annotations

import structlog

from actors.metering import HostMeter
from projections.metering import FollowerMeter
from store.errors import InvalidValue

log = structlog.get_logger(__name__)


def traced_host(meter: HostMeter, host: str) -> HostMeter:
    """Return a meter that traces too what that host does; the same one where spans can go nowhere."""
    from cluster.tracing.host import HostTracer  # here, so that nobody else waits for the import of OpenTelemetry
    from cluster.tracing.providing import process_tracer

    try:
        return HostTracer(meter, process_tracer(host), host)
    except InvalidValue as error:
        log.error("nothing is traced here", reason=str(error))
        return meter


def traced_follower(meter: FollowerMeter, process: str) -> FollowerMeter:
    """Return a meter that traces too what that process's projections and handlers do; see `traced_host`."""
    from cluster.tracing.follower import FollowerTracer
    from cluster.tracing.providing import process_tracer

    try:
        return FollowerTracer(meter, process_tracer(process))
    except InvalidValue as error:
        log.error("nothing is traced here", reason=str(error))
        return meter


def flush() -> None:
    """Send the spans that wait to be sent, for up to 2 s. Blocks."""
    from cluster.tracing.providing import flush_spans

    flush_spans()
