import {_t} from "@web/core/l10n/translation";
import {deserializeDateTime, formatDateTime} from "@web/core/l10n/dates";
import {registry} from "@web/core/registry";
import {useService} from "@web/core/utils/hooks";
import {useRecordObserver} from "@web/model/relational_model/utils";
import {standardFieldProps} from "@web/views/fields/standard_field_props";
import {Component, onWillUnmount, useState} from "@odoo/owl";

/** How often what is shown grows older, in milliseconds. */
const TICK = 1000;

/** How often the server is asked whether there was news meanwhile, in milliseconds. */
const LOOK = 20_000;

const FIELDS = ["as_of", "as_of_age", "stale_after"];

/** One clock for all ages on the screen, and one question for all of a model. */
const freshness = {
    dependencies: ["orm"],
    start(env, {orm}) {
        const shown = new Set();
        let ticking = null;
        let lookedAt = 0;

        const look = async () => {
            lookedAt = Date.now();
            const all = [...shown].filter(({learn}) => learn);
            for (const model of new Set(all.map(({resModel}) => resModel))) {
                const entries = all.filter(({resModel}) => resModel === model);
                const ids = [...new Set(entries.map(({resId}) => resId))];
                const news = await orm.silent.read(model, ids, FIELDS);
                const byId = new Map(news.map((values) => [values.id, values]));
                for (const entry of entries) {
                    const values = byId.get(entry.resId);
                    if (values && shown.has(entry)) {
                        entry.learn(values);
                    }
                }
            }
        };
        const tick = () => {
            if (document.hidden) {
                return;
            }
            shown.forEach((entry) => entry.tick());
            if (Date.now() - lookedAt >= LOOK) {
                look().catch(() => {}); // what is shown grows older, and says so
            }
        };
        return {
            add(entry) {
                if (!shown.size) {
                    lookedAt = Date.now();
                    ticking = setInterval(tick, TICK);
                }
                shown.add(entry);
            },
            remove(entry) {
                shown.delete(entry);
                if (!shown.size) {
                    clearInterval(ticking);
                }
            },
        };
    },
};

/**
 * Say how long ago something was, in the largest unit that fits.
 *
 * @param {number} seconds
 */
export function ago(seconds) {
    if (seconds < 60) {
        return _t("%s s ago", Math.max(0, Math.floor(seconds)));
    }
    if (seconds < 3600) {
        return _t("%s min ago", Math.floor(seconds / 60));
    }
    if (seconds < 86_400) {
        return _t("%s h ago", Math.floor(seconds / 3600));
    }
    return _t("%s days ago", Math.floor(seconds / 86_400));
}

/**
 * How old what is shown is. It grows older by itself.
 *
 * The server says the age, since a browser's clock may be wrong.
 */
export class AsOf extends Component {
    static template = "vworkspace_push.AsOf";
    static props = {...standardFieldProps, isSentence: {type: Boolean, optional: true}};

    setup() {
        const service = useService("vworkspace_freshness");
        this.state = useState({text: "", exact: "", isStale: false});
        this.entry = {
            tick: () => this.tick(),
            learn: (values) =>
                this.learn({
                    ...values,
                    as_of: values.as_of && deserializeDateTime(values.as_of),
                }),
        };
        useRecordObserver((record) => {
            service.remove(this.entry);
            Object.assign(this.entry, {resModel: record.resModel, resId: record.resId});
            const {as_of, as_of_age, stale_after} = record.data;
            this.learn({as_of, as_of_age, stale_after});
            if (record.resId) {
                service.add(this.entry);
            }
        });
        onWillUnmount(() => service.remove(this.entry));
    }

    learn({as_of, as_of_age, stale_after}) {
        this.since = as_of ? Date.now() - as_of_age * 1000 : null;
        this.staleAfter = stale_after;
        this.state.exact = as_of ? formatDateTime(as_of) : "";
        this.tick();
    }

    tick() {
        if (this.since === null) {
            Object.assign(this.state, {text: "", isStale: false});
            return;
        }
        const age = (Date.now() - this.since) / 1000;
        this.state.text = this.props.isSentence ? _t("as of %s", ago(age)) : ago(age);
        this.state.isStale = age > this.staleAfter;
    }
}

/** How long ago something was, where the cluster says when. */
export class Ago extends Component {
    static template = "vworkspace_push.AsOf";
    static props = {...standardFieldProps};

    setup() {
        const service = useService("vworkspace_freshness");
        this.state = useState({text: "", exact: "", isStale: false});
        const entry = {tick: () => this.tick()};
        useRecordObserver((record) => {
            this.value = record.data[this.props.name];
            this.state.exact = this.value ? formatDateTime(this.value) : "";
            this.tick();
        });
        service.add(entry);
        onWillUnmount(() => service.remove(entry));
    }

    tick() {
        const seconds = this.value ? (Date.now() - this.value.toMillis()) / 1000 : 0;
        this.state.text = this.value ? ago(seconds) : "";
    }
}

registry.category("services").add("vworkspace_freshness", freshness);
registry.category("fields").add("vworkspace_ago", {
    component: Ago,
    supportedTypes: ["datetime"],
});
registry.category("fields").add("vworkspace_as_of", {
    component: AsOf,
    supportedTypes: ["datetime"],
    fieldDependencies: [
        {name: "as_of_age", type: "integer"},
        {name: "stale_after", type: "integer"},
    ],
    extractProps: ({viewType, options}) => ({
        isSentence: viewType !== "list" && !options.short,
    }),
});
