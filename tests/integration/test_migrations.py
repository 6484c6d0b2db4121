"""What an upgrade does to data that the addon's files alone would not change."""

import importlib.util
from pathlib import Path

import pytest

RULE = "vworkspace_push.vworkspace_condition_rule_company"
BEFORE = (
    "['|', ('instance_id.company_id', 'in', company_ids),"
    " ('operation_id.company_id', 'in', company_ids)]"
)


def test_the_rule_of_conditions_becomes_that_of_a_new_database(database):
    new = rule(database)
    set_rule(database, BEFORE)

    migrate(database, "19.0.1.1.0", "post-condition-rule")

    assert rule(database) == new


def test_a_rule_that_somebody_changed_stays(database):
    set_rule(database, "[('id', '=', 0)]")

    migrate(database, "19.0.1.1.0", "post-condition-rule")

    assert rule(database) == "[('id', '=', 0)]"


def test_what_is_superseded_goes_and_what_covers_it_stays(database):
    before = indexes(database)
    for table in ("vworkspace_application_instance", "vworkspace_operation"):
        for column in ("cluster_id", "delivery_state", "uid"):
            name = f"{table}__{column}_index"
            database.sql(f"CREATE INDEX {name} ON {table} ({column})")
    database.sql("ALTER TABLE vworkspace_revision ADD COLUMN diff text")
    assert indexes(database) != before

    migrate(database, "19.0.1.1.0", "post-superseded")
    migrate(database, "19.0.1.1.0", "post-superseded")

    assert indexes(database) == before
    assert not database.sql(
        """SELECT FROM information_schema.columns
            WHERE table_name = 'vworkspace_revision' AND column_name = 'diff'"""
    )


def test_limits_that_made_health_flap_are_lifted(database, cluster, make_cluster):
    patient = make_cluster()
    database.call("admin", patient._name, "write", patient.ids, {"stale_after": 300})
    for limit in (0, 59):
        database.sql(
            "UPDATE vworkspace_cluster SET stale_after = %s WHERE id = %s",
            *(limit, cluster.id),
        )

        migrate(database, "19.0.1.1.0", "post-stale-after")

        assert database.read(cluster, "stale_after") == 60
    assert database.read(patient, "stale_after") == 300


# === HELPERS === #


@pytest.fixture(autouse=True)
def _restored(database):
    """Let the rule be as it was, however a test ends."""
    before = rule(database)
    yield
    set_rule(database, before)


def migrate(database, version, name):
    """Run one script of the addon's migrations, as Odoo does."""
    import odoo.addons.vworkspace_push as addon

    folder = Path(addon.__file__).parent / "migrations" / version
    spec = importlib.util.spec_from_file_location("script", folder / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with database.transaction() as env:
        script.migrate(env.cr, "19.0.1.0.0")


def indexes(database):
    return database.sql(
        """SELECT indexname FROM pg_indexes WHERE tablename LIKE 'vworkspace%%'
         ORDER BY indexname"""
    )


def rule(database):
    with database.transaction() as env:
        return env.ref(RULE).domain_force


def set_rule(database, domain):
    with database.transaction() as env:
        env.ref(RULE).domain_force = domain
