"""Which Odoo database this is, as the annotation says that its objects carry."""


def database_uuid(env) -> str:
    """Return what Odoo knows this database by; a copy made by Odoo has another."""
    return env["ir.config_parameter"].sudo().get_param("database.uuid") or ""
