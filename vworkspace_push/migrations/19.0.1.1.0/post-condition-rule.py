"""Conditions belong to clusters as well; no update touches the data of their rule."""

from odoo import SUPERUSER_ID, api

RULE = "vworkspace_push.vworkspace_condition_rule_company"
BEFORE = (
    "['|', ('instance_id.company_id', 'in', company_ids),"
    " ('operation_id.company_id', 'in', company_ids)]"
)
AFTER = (
    "['|', '|', ('instance_id.company_id', 'in', company_ids),"
    " ('operation_id.company_id', 'in', company_ids),"
    " ('cluster_status_id.cluster_id.company_id', 'in', company_ids)]"
)


def migrate(cr, version):
    env = api.Environment(cr, SUPERUSER_ID, {})
    rule = env.ref(RULE, raise_if_not_found=False)
    # What somebody changed by hand is theirs.
    if rule and rule.domain_force == BEFORE:
        rule.domain_force = AFTER
