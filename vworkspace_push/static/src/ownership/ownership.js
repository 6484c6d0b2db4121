import {deserializeDateTime, formatDateTime} from "@web/core/l10n/dates";
import {_t} from "@web/core/l10n/translation";
import {registry} from "@web/core/registry";
import {KeepLast} from "@web/core/utils/concurrency";
import {useService} from "@web/core/utils/hooks";
import {useRecordObserver} from "@web/model/relational_model/utils";
import {standardWidgetProps} from "@web/views/widgets/standard_widget_props";
import {Component, useState} from "@odoo/owl";

/** What Odoo calls itself when it applies, as in kube/resources.py. */
const FIELD_MANAGER = "vworkspace-odoo";

/** More rows than this are not drawn at once. */
const MAX_ROWS = 500;

const isOurs = ({name, operation, subresource}) =>
    name === FIELD_MANAGER && operation === "Apply" && !subresource;

const SHOWS = {
    all: () => true,
    ours: (field) => field.ours,
    drifted: (field) => field.drifted,
    others: (field) => field.managers.some((manager) => !isOurs(manager)),
};

/** Who manages which field of the object in the cluster, read when this is opened. */
export class Ownership extends Component {
    static template = "vworkspace_push.Ownership";
    static props = {...standardWidgetProps};

    setup() {
        this.orm = useService("orm");
        this.keepLast = new KeepLast();
        this.state = useState({
            isLoading: false,
            error: "",
            asOf: false,
            fields: [],
            show: "all",
            query: "",
        });
        let shownId, seen;
        useRecordObserver((record) => {
            const {resId, data} = record;
            const versions = `${data.resource_version} ${data.observed_resource_version}`;
            if (resId !== shownId) {
                Object.assign(this.state, {error: "", asOf: false, fields: []});
            } else if (versions === seen) {
                return;
            }
            shownId = resId;
            seen = versions;
            this.load(record); // not awaited: what is there stays readable
        });
    }

    /** Ask the cluster, through Odoo; the last question's answer is shown. */
    async load({resModel, resId} = this.props.record) {
        this.state.isLoading = true;
        try {
            const {as_of, error, fields} = await this.keepLast.add(
                resId
                    ? this.orm.call(resModel, "get_ownership", [[resId]])
                    : Promise.resolve({as_of: false, error: false, fields: []})
            );
            Object.assign(this.state, {asOf: as_of, error: error || "", fields});
        } catch (reason) {
            this.state.error = _t("The fields could not be read.");
            throw reason; // the web client tells more
        } finally {
            this.state.isLoading = false;
        }
    }

    // === WHAT IS SHOWN === //

    get toggles() {
        const labels = {
            all: _t("All"),
            ours: _t("Ours"),
            drifted: _t("Drifted"),
            others: _t("Others"),
        };
        return Object.entries(labels).map(([name, label]) => ({
            name,
            label,
            count: this.state.fields.filter(SHOWS[name]).length,
        }));
    }

    get found() {
        const query = this.state.query.trim().toLowerCase();
        return this.state.fields
            .filter(SHOWS[this.state.show])
            .filter(({field, managers}) =>
                [field, ...managers.map(({name}) => name)].some((text) =>
                    text.toLowerCase().includes(query)
                )
            );
    }

    get rows() {
        return this.found.slice(0, MAX_ROWS);
    }

    get asOf() {
        return this.formatTime(this.state.asOf);
    }

    get leftOut() {
        const total = this.found.length;
        return total > MAX_ROWS
            ? _t("The first %(shown)s of %(total)s fields; search to see others.", {
                  shown: MAX_ROWS,
                  total,
              })
            : "";
    }

    badge(manager) {
        return isOurs(manager) ? "text-bg-success" : "text-bg-secondary";
    }

    /** How and since when a manager has the field. */
    details({operation, since, subresource}) {
        const how = subresource
            ? _t("%(operation)s of %(subresource)s", {operation, subresource})
            : operation;
        return since
            ? _t("%(how)s, since %(time)s", {how, time: this.formatTime(since)})
            : how;
    }

    formatTime(text) {
        return text ? formatDateTime(deserializeDateTime(text)) : "";
    }
}

registry.category("view_widgets").add("vworkspace_ownership", {
    component: Ownership,
    fieldDependencies: [
        {name: "resource_version", type: "char"},
        {name: "observed_resource_version", type: "char"},
    ],
});
