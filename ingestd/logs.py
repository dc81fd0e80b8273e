"""Logging of every role: structlog events on stderr, as JSON lines or for people.

Nothing foreign reaches a terminal unescaped, no value is longer than it must be to be recognised, and what looks like
a secret is masked. Records of the standard library's logging (urllib3, minio) take the same way.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.types import EventDict, Processor, WrappedLogger

from ingestd.errors import bounded
from ingestd.formats.timestamps import format_utc

__all__ = ["RateLimit", "configure"]

_MASK = "**********"

#: Longest text of one value [characters]: an error message fits, a payload does not.
_MAX_TEXT = 500
#: Longest traceback [characters]; its end is kept, where the error is.
_MAX_TRACEBACK = 8000
#: Most elements and levels of a container.
_MAX_ELEMENTS = 32
_MAX_DEPTH = 3

_SECRET_KEY = re.compile(
    r"(?:.*[_-])?(?:secret|secret_?key|passw(?:or)?d|authorization|credentials?|token|signature)",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"(?P<kept>"
    r"://(?=[^/\s@]*@)"
    r"|(?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|Credential)="
    r"|\bauthorization['\"]?\s*[:=]\s*['\"]?(?:[A-Z0-9-]+\s)?"
    r"|\b(?:secret(?:_?key)?|passw(?:or)?d)['\"]?\s*[:=]\s*['\"]?"
    r")[^\s&'\",;@]+",
    re.IGNORECASE,
)

#: Levels of sd-daemon(3), which journald reads from the start of a line.
_JOURNAL_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure(
    role: str,
    level: str,
    format: Literal["auto", "json", "console"] = "auto",  # noqa: A002 - the name of the setting
    stream: TextIO | None = None,
    *,
    for_good: bool = False,
) -> None:
    """Send all log events of this process to a stream; may be called again.

    Parameters
    ----------
    role
        Bound to every line, with the process id.
    level
        Lowest level: debug, info, warning, error or critical. Below warning, lines of other libraries are only
        shown at debug.
    format
        `json`, `console` (colours on a terminal), or `auto`: console on a terminal, else JSON, with a priority
        prefix where the stream is the journal's.
    stream
        Where to; stderr where it is left out.
    for_good
        Whether this is the last call in this process: a logger that may still change is put together anew for every
        event, those under the level included, which is a tenth of what an uploader does.
    """
    stream = sys.stderr if stream is None else stream
    threshold = logging.getLevelNamesMapping()[level.upper()]
    is_console = format == "console" or (format == "auto" and stream.isatty())
    renderer = _console(stream) if is_console else _render_json
    if format != "json" and _is_journal(stream):
        renderer = _with_priority(renderer)
    handler = _Handler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            processors=[ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[_foreign_event, *_stamps(role), _plain_event],
        )
    )
    if threshold > logging.DEBUG:
        handler.addFilter(_is_ours_or_a_warning)
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if not isinstance(other, _Handler)] + [handler]
    root.setLevel(threshold)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *_stamps(role),
            # Before the standard library sees the event: it takes the repr of all of it, however large or deep.
            _plain_event,
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        cache_logger_on_first_use=for_good,
    )


class _Handler(logging.StreamHandler[TextIO]):
    """Writes one line in one call, so that lines of several roles on one pipe stay whole."""

    #: Lines that could not be written.
    n_lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the base's signature
        """Count a line that could not be written; stderr is gone or full, so there is nowhere to say it."""
        self.n_lost += 1


def _is_ours_or_a_warning(record: logging.LogRecord) -> bool:
    return (
        hasattr(record, "_from_structlog")
        or isinstance(record.msg, dict)
        or record.levelno >= logging.WARNING
    )


def _stamps(role: str) -> list[Processor]:
    def stamp(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        level = {"exception": "error", "warn": "warning", "fatal": "critical"}.get(method, method)
        head = {
            "ts": format_utc(time.time_ns()),
            "level": level,
            "event": event.pop("event", ""),
            "role": role,
        }
        head["pid"] = os.getpid()
        # The head comes first and wins: an event about another role names that in a key of its own.
        return {**head, **event, **head}

    return [stamp]


def _foreign_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Turn a record of another library into an event of ours."""
    record: logging.LogRecord = event["_record"]
    return {**event, "event": "library_message", "logger": record.name, "message": event["event"]}


def _plain_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make every value JSON-able, bounded and free of secrets; render a traceback without its variables."""
    error = _traceback(event.pop("exc_info", None))
    plain = {key: _plain(key, value, 0) for key, value in event.items()}
    if error:
        plain["exception"] = _masked(error)
    return plain


def _traceback(exc_info: Any) -> str:
    if exc_info is True:
        exc_info = sys.exc_info()
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    if not isinstance(exc_info, tuple) or exc_info[1] is None:
        return ""
    text = logging.Formatter().formatException(exc_info)
    return text if len(text) <= _MAX_TRACEBACK else "..." + text[-_MAX_TRACEBACK:]


def _plain(key: str, value: Any, depth: int) -> Any:
    if _SECRET_KEY.fullmatch(key) and value is not None:
        return _MASK
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str(value))
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, int):
        return int(value) if value.bit_length() <= 64 else bounded(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, BaseException):
        return _text(f"{type(value).__name__}: {value}")
    return _plain_container(value, depth)


def _plain_container(value: Any, depth: int) -> Any:
    if isinstance(value, os.PathLike):
        return _text(os.fspath(value))
    is_map, is_list = isinstance(value, Mapping), isinstance(value, list | tuple | set | frozenset)
    if not (is_map or is_list) or depth >= _MAX_DEPTH or len(value) > _MAX_ELEMENTS:
        return bounded(value)
    if is_map:
        return {_text(str(key)): _plain(str(key), inner, depth + 1) for key, inner in value.items()}
    return [_plain("", inner, depth + 1) for inner in value]


def _text(value: str | bytes) -> str:
    text = value if isinstance(value, str) else bounded(value)
    return _masked(text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "...")


def _masked(text: str) -> str:
    return _SECRET_TEXT.sub(rf"\g<kept>{_MASK}", text)


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    # ASCII only: no control character, no bidirectional override, whatever a peer called itself.
    return json.dumps(event, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")


def _console(stream: TextIO) -> Processor:
    colours = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    render = structlog.dev.ConsoleRenderer(
        colors=colours, timestamp_key="ts", sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )

    def render_escaped(logger: WrappedLogger, method: str, event: EventDict) -> str:
        escaped = {_escaped(key): _escape_all(value) for key, value in event.items() if key != "exception"}
        if "exception" in event:
            escaped["exception"] = "\n".join(map(_escaped, event["exception"].split("\n")))
        return str(render(logger, method, escaped))

    return render_escaped


def _escape_all(value: Any) -> Any:
    # Containers are rendered with repr, which escapes by itself.
    return _escaped(value) if isinstance(value, str) else value


def _escaped(text: str) -> str:
    """Text with every character that a terminal might obey written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _is_journal(stream: TextIO) -> bool:
    """Whether a stream is the socket that systemd connected to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _with_priority(render: Processor) -> Processor:
    def prefixed(logger: WrappedLogger, method: str, event: EventDict) -> str:
        prefix = f"<{_JOURNAL_LEVELS.get(str(event.get('level')), 6)}>"
        # The journal takes every line as a message of its own.
        return "\n".join(prefix + line for line in str(render(logger, method, event)).split("\n"))

    return prefixed


class RateLimit:
    """Token bucket for log lines that a peer can cause, which counts what it held back.

    Thread-safe. Use::

        admitted, suppressed = limit.admit()
        if admitted:
            log.warning("frame_rejected", reason=reason, suppressed=suppressed)

    Parameters
    ----------
    per_s
        Lines per second in the long run [1/s].
    burst
        Lines at once after silence.
    clock
        Monotonic time [s].
    """

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        if per_s <= 0 or burst < 1:
            raise ValueError("per_s must be positive and burst at least 1")
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at_s = clock()
        self._lock = threading.Lock()
        self._suppressed = 0

    @property
    def suppressed(self) -> int:
        """Lines held back since the last admitted one."""
        return self._suppressed

    def admit(self) -> tuple[bool, int]:
        """Ask to log a line.

        Returns
        -------
        tuple of bool and int
            Whether to log, and how many lines were held back since the last one that was admitted.
        """
        with self._lock:
            now_s = self._clock()
            # A clock that steps back must not take tokens away.
            self._tokens = min(self._burst, self._tokens + max(0.0, now_s - self._at_s) * self._per_s)
            self._at_s = now_s
            if self._tokens < 1.0:
                self._suppressed += 1
                return False, 0
            self._tokens -= 1.0
            suppressed, self._suppressed = self._suppressed, 0
            return True, suppressed
