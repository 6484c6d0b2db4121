import {_t} from "@web/core/l10n/translation";
import {registry} from "@web/core/registry";
import {useService} from "@web/core/utils/hooks";
import {standardFieldProps} from "@web/views/fields/standard_field_props";
import {Component} from "@odoo/owl";

/** How many applications of each health a cluster has; each leads to them. */
export class HealthCounts extends Component {
    static template = "vworkspace_push.HealthCounts";
    static props = {...standardFieldProps};

    setup() {
        this.orm = useService("orm");
        this.action = useService("action");
    }

    /** The worst first */
    get healths() {
        const counts = this.props.record.data[this.props.name] || {};
        return [
            ["failed", _t("Failed"), "text-bg-danger"],
            ["degraded", _t("Degraded"), "text-bg-warning"],
            ["blocked", _t("Blocked"), "text-bg-warning"],
            ["unknown", _t("Unknown"), "text-bg-secondary"],
            ["progressing", _t("Progressing"), "text-bg-info"],
            ["ready", _t("Ready"), "text-bg-success"],
            ["suspended", _t("Suspended"), "text-bg-light border"],
            ["deleting", _t("Deleting"), "text-bg-light border"],
            ["none", _t("Not deployed"), "text-bg-light border"],
        ]
            .filter(([health]) => counts[health])
            .map(([health, label, badge]) => ({
                health,
                label,
                badge,
                count: counts[health],
            }));
    }

    async open(health) {
        const {resModel, resId} = this.props.record;
        const action = await this.orm.call(resModel, "action_open_by_health", [
            [resId],
            health,
        ]);
        this.action.doAction(action);
    }
}

registry.category("fields").add("vworkspace_health_counts", {
    component: HealthCounts,
    supportedTypes: ["json"],
});
