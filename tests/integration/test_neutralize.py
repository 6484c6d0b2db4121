"""A copy of a database, made as Odoo makes copies for testing."""


def test_a_neutralized_copy_has_no_credential_and_delivers_nothing(
    database, cluster, make_instance, deploy
):
    from odoo.modules.neutralize import neutralize_database

    instance = make_instance()
    with database.registry.cursor() as cr:
        neutralize_database(cr)
    database.registry.clear_all_caches()

    deploy(instance)

    assert database.sql("SELECT count(*) FROM vworkspace_cluster_credential") == [(0,)]
    stored = database.read(cluster, "active", "state", "has_credential")
    assert (stored["active"], stored["state"]) == (False, "revoked")
    assert stored["has_credential"] is False
    assert database.read(instance, "delivery_state") == "pending"
