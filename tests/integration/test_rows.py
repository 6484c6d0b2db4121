"""Rows that are copied in arrive as they were given."""

import datetime

import pytest

ODD = "tab\tline\nreturn\rback\\slash \\N \\. ☃😀"


@pytest.mark.parametrize("count", [1, 3, 2_000])
def test_copied_rows_are_what_was_given(database, count):
    from odoo.addons.vworkspace_push.rows import copy_in

    now = datetime.datetime(2026, 11, 30, 20, 1, 2, 345)
    rows = [
        {
            "number": number,
            "text": f"{ODD}{number}",
            "data": {"text": ODD, "list": [1, None, True]},
            "flag": not number % 2,
            "nothing": None,
            "at": now,
            "empty": "",
        }
        for number in range(count)
    ]
    with database.transaction() as env:
        env.cr.execute(
            """CREATE TEMP TABLE copied (number int, text varchar, data jsonb,
                 flag boolean, nothing text, at timestamp, empty varchar,
                 given varchar DEFAULT 'by default') ON COMMIT DROP"""
        )
        copy_in(env.cr, "copied", rows)
        env.cr.execute("SELECT * FROM copied ORDER BY number")
        found = env.cr.dictfetchall()

    assert found == [{**row, "given": "by default"} for row in rows]


def test_what_is_copied_in_is_checked(database):
    from psycopg2 import Error

    from odoo.addons.vworkspace_push.rows import copy_in

    with database.transaction() as env, pytest.raises(Error), env.cr.savepoint():
        copy_in(env.cr, "vworkspace_revision", [{"res_id": "none"}])


@pytest.mark.parametrize("value", ["\ud800", [object()]], ids=["text", "json"])
def test_what_cannot_be_put_into_text_fails_as_itself(database, value):
    """The driver would say that the query was canceled, and it would be tried again."""
    from odoo.addons.vworkspace_push.rows import copy_in

    rows = [{"res_model": value}]
    with database.transaction() as env:
        with pytest.raises((UnicodeEncodeError, TypeError)):
            copy_in(env.cr, "vworkspace_revision", rows)
        env.cr.rollback()


def test_rows_are_copied_where_the_driver_waits_by_a_callback(database):
    from psycopg2 import extensions, extras

    from odoo.addons.vworkspace_push.rows import copy_in

    with database.transaction() as env:
        env.cr.execute("CREATE TEMP TABLE copied (number int) ON COMMIT DROP")
        extensions.set_wait_callback(extras.wait_select)
        try:
            copy_in(env.cr, "copied", [{"number": 7}])
            assert extensions.get_wait_callback() is extras.wait_select
        finally:
            extensions.set_wait_callback(None)
        env.cr.execute("SELECT number FROM copied")
        assert env.cr.fetchall() == [(7,)]
