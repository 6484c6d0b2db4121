"""Keeps secrets out of the log, should one ever get into a message.

Nothing of ours logs a secret on purpose; this is the second line of defence. It looks
at what our loggers and urllib3's write in this process, tracebacks included, and blanks
whatever looks like a token, an Authorization header or a private key. It works on log
records as they are made, since a filter on a logger would not see what its children
write.
"""

import logging
import re
import threading

LOGGERS = ("odoo.addons.vworkspace_push", "urllib3")
REDACTED = "[redacted]"

_PATTERNS = (
    # JSON Web Tokens: header and claims are base64url of '{"…'
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"),
    re.compile(r"(?<=Bearer )[\x21-\x7e]{8,}", re.IGNORECASE),
    re.compile(
        r"(?<=Authorization)(['\"]?\s*[:=]\s*['\"]?)(?!Bearer)[^\s'\"]{4,}[^\r\n'\"]*",
        re.IGNORECASE,
    ),
    re.compile(
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?"
        r"(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)",
        re.DOTALL,
    ),
)
_installing = threading.Lock()


def redact(text: str) -> str:
    """Return `text` with everything that looks like a secret blanked."""
    for pattern in _PATTERNS:
        text = pattern.sub(REDACTED, text)
    return text


def install() -> None:
    """Redact what LOGGERS and their children write from now on in this process."""
    with _installing:
        factory = logging.getLogRecordFactory()
        if getattr(factory, "redacts_secrets", False):
            return

        def make_record(*args, **kwargs):
            record = factory(*args, **kwargs)
            if record.name.startswith(LOGGERS):
                _redact_record(record)
            return record

        make_record.redacts_secrets = True
        logging.setLogRecordFactory(make_record)


def _redact_record(record: logging.LogRecord) -> None:
    try:
        message = record.getMessage()
    except (TypeError, ValueError, KeyError):  # logging itself complains about it
        return
    clean = redact(message)
    if clean != message:
        record.msg, record.args = clean, ()
    if record.exc_info:
        # A formatter takes this text where it is set, instead of making its own.
        text = logging.Formatter().formatException(record.exc_info)
        record.exc_text = redact(text)
