import {deserializeDateTime, formatDateTime} from "@web/core/l10n/dates";
import {_t} from "@web/core/l10n/translation";
import {registry} from "@web/core/registry";
import {KeepLast} from "@web/core/utils/concurrency";
import {useService} from "@web/core/utils/hooks";
import {useRecordObserver} from "@web/model/relational_model/utils";
import {standardWidgetProps} from "@web/views/widgets/standard_widget_props";
import {useLiveRefresh} from "@vworkspace_push/live_refresh/live_refresh";
import {Component, useState} from "@odoo/owl";

const OPERATION = "vworkspace.operation";

/** So many rows are read at a time. */
const PAGE = 50;

/** What a change of the record can mean for its timeline */
const SEEN = [
    ...["health", "delivery_state", "intent_revision", "is_paused"],
    ...["resource_version", "observed_resource_version"],
];

const BADGES = {
    health: {
        ready: "text-bg-success",
        progressing: "text-bg-info",
        degraded: "text-bg-warning",
        blocked: "text-bg-warning",
        failed: "text-bg-danger",
    },
    delivery: {
        applied: "text-bg-success",
        deleted: "text-bg-success",
        pending: "text-bg-info",
        deleting: "text-bg-info",
        conflict: "text-bg-danger",
        denied: "text-bg-danger",
        failed: "text-bg-danger",
        lost: "text-bg-danger",
    },
};

/** What happened to a record: transitions, deliveries, and what people did. */
export class Timeline extends Component {
    static template = "vworkspace_push.Timeline";
    static props = {...standardWidgetProps};

    setup() {
        this.orm = useService("orm");
        this.keepLast = new KeepLast();
        this.state = useState({
            isLoading: false,
            error: "",
            rows: [],
            hasMore: false,
            kind: "all",
        });
        this.limit = PAGE;
        let shownId, seen;
        useRecordObserver((record) => {
            const now = SEEN.map((name) => record.data[name]).join(" ");
            if (record.resId === shownId && now === seen) {
                return;
            }
            if (record.resId !== shownId) {
                Object.assign(this.state, {rows: [], hasMore: false});
                this.limit = PAGE;
            }
            shownId = record.resId;
            seen = now;
            this.load(record); // not awaited: what is there stays readable
        });
        useLiveRefresh(
            // Which are this application's, only the server knows.
            ({model}) => this.isAboutOthers && model === OPERATION,
            () => this.state.isLoading,
            () => this.load()
        );
    }

    /** Ask Odoo; the last question's answer is shown. */
    async load({resModel, resId} = this.props.record) {
        this.state.isLoading = true;
        try {
            const {rows, more} = await this.keepLast.add(
                resId
                    ? this.orm.silent.call(resModel, "get_timeline", [[resId]], {
                          kind: this.state.kind,
                          limit: this.limit,
                      })
                    : Promise.resolve({rows: [], more: false})
            );
            Object.assign(this.state, {rows, hasMore: more, error: ""});
        } catch (reason) {
            this.state.error = _t("The timeline could not be read.");
            throw reason; // the web client tells more
        } finally {
            this.state.isLoading = false;
        }
    }

    // === WHAT IS SHOWN === //

    get toggles() {
        return Object.entries({
            all: _t("All"),
            health: _t("Health"),
            condition: _t("Conditions"),
            delivery: _t("Deliveries"),
            person: _t("People"),
            seen: _t("Seen in the Cluster"),
        }).map(([kind, label]) => ({kind, label}));
    }

    show(kind) {
        this.state.kind = kind;
        this.limit = PAGE;
        this.load();
    }

    showMore() {
        this.limit += PAGE;
        this.load();
    }

    /** An application's timeline has that of its operations, too. */
    get isAboutOthers() {
        return this.props.record.resModel !== OPERATION;
    }

    badge({kind, status}) {
        return BADGES[kind]?.[status] ?? "text-bg-secondary";
    }

    formatTime(text) {
        return text ? formatDateTime(deserializeDateTime(text)) : "";
    }
}

registry.category("view_widgets").add("vworkspace_timeline", {
    component: Timeline,
    fieldDependencies: [
        {name: "health", type: "selection"},
        {name: "delivery_state", type: "selection"},
        {name: "intent_revision", type: "integer"},
        {name: "is_paused", type: "boolean"},
        {name: "resource_version", type: "char"},
        {name: "observed_resource_version", type: "char"},
    ],
});
