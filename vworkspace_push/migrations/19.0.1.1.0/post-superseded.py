"""Indexes that others cover, and what revisions have no need to keep."""

COVERED = ("cluster_id", "delivery_state", "uid")
TABLES = ("vworkspace_application_instance", "vworkspace_operation")


def migrate(cr, version):
    for table in TABLES:
        for column in COVERED:
            cr.execute(f'DROP INDEX IF EXISTS "{table}__{column}_index"')
    # It follows from the manifests.
    cr.execute("ALTER TABLE vworkspace_revision DROP COLUMN IF EXISTS diff")
