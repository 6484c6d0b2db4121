"""What looks like a secret does not reach the log."""

import logging

import pytest

import redaction

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2EifQ.c2lnbmF0dXJl-_x"
KEY = "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----"


@pytest.fixture
def log(caplog):
    before = logging.getLogRecordFactory()
    redaction.install()
    caplog.set_level(logging.DEBUG)
    yield caplog
    logging.setLogRecordFactory(before)


def test_a_token_in_a_message_is_blanked_in_child_loggers_too(log):
    logging.getLogger("urllib3.connectionpool").info("sent %s to %s", TOKEN, "server")
    assert log.messages == ["sent [redacted] to server"]


@pytest.mark.parametrize(
    "text",
    [
        f"header Authorization: Bearer {TOKEN}",
        "Authorization: Bearer opaque-token-0123456789",
        "{'Authorization': 'Basic dXNlcjpwYXNzd29yZA=='}",
        KEY,
        KEY[:40],
    ],
)
def test_what_looks_like_a_secret_is_blanked(text):
    clean = redaction.redact(text)
    for secret in (TOKEN, "opaque-token", "dXNlcjpwYXNzd29yZA", "c2VjcmV0"):
        assert secret not in clean


def test_a_traceback_is_blanked(log):
    try:
        raise ValueError(TOKEN)
    except ValueError:
        logging.getLogger("urllib3").exception("failed")
    assert "ValueError: [redacted]" in log.text
    assert TOKEN not in log.text


def test_other_text_stays_as_it_is():
    text = "Delivery of vworkspace.application.instance 7, revision 3: applied"
    assert redaction.redact(text) == text


def test_loggers_of_others_are_left_alone(log):
    logging.getLogger("odoo.http").info(TOKEN)
    assert log.messages == [TOKEN]


def test_installing_twice_wraps_once(log):
    factory = logging.getLogRecordFactory()
    redaction.install()
    assert logging.getLogRecordFactory() is factory
