import {onWillUnmount} from "@odoo/owl";
import {useBus, useService} from "@web/core/utils/hooks";
import {registry} from "@web/core/registry";
import {RelationalModel} from "@web/model/relational_model/relational_model";
import {formView} from "@web/views/form/form_view";
import {kanbanView} from "@web/views/kanban/kanban_view";
import {listView} from "@web/views/list/list_view";

/** At most one refresh of a view in this time, in milliseconds. */
const REFRESH_INTERVAL = 1000;

/** The first refresh waits this long for more messages, in milliseconds. */
const GATHER = 100;

/** A view whose refresh takes long waits so many times as long for the next. */
const REST = 4;

const CLUSTER = "vworkspace.cluster";

/** What a view of a model shows of others: their changes concern it, too. */
const SHOWS = {
    [CLUSTER]: ["vworkspace.application.instance"],
    "vworkspace.timeline": ["vworkspace.application.instance", "vworkspace.operation"],
};

/**
 * Reload a view's records when the server says that some of them changed.
 *
 * A page that nobody sees is not refreshed; it catches up when it is seen again.
 *
 * @param {(message: {model: string, ids: number[], any?: boolean}) => boolean} concerns
 *  whether the message is about something that this view shows; `any` is instead of ids
 *  where there are too many
 * @param {() => boolean} isBusy whether a reload would take something from the user
 * @param {() => Promise<void>} reload
 */
export function useLiveRefresh(concerns, isBusy, reload) {
    const bus = useService("bus_service");
    let timer = null;
    let notBefore = 0;
    let isMissed = false; // what changed while nobody saw the page
    let isRefreshing = false;

    const schedule = () => {
        if (timer) {
            return;
        }
        timer = setTimeout(refresh, Math.max(GATHER, notBefore - Date.now()));
    };
    const refresh = async () => {
        timer = null;
        notBefore = Date.now() + REFRESH_INTERVAL;
        if (document.hidden) {
            isMissed = true;
            return;
        }
        if (isRefreshing || isBusy()) {
            schedule(); // as soon as the user is done
            return;
        }
        isRefreshing = true;
        const started = Date.now();
        try {
            await reload();
        } finally {
            isRefreshing = false;
            const took = Date.now() - started;
            notBefore = Math.max(notBefore, Date.now() + REST * took);
        }
    };
    const onUpdated = (message) => {
        if (concerns(message)) {
            schedule();
        }
    };
    const onSeen = () => {
        if (isMissed && !document.hidden) {
            isMissed = false;
            schedule();
        }
    };

    bus.subscribe("vworkspace_push/updated", onUpdated);
    bus.start();
    document.addEventListener("visibilitychange", onSeen);
    onWillUnmount(() => {
        bus.unsubscribe("vworkspace_push/updated", onUpdated);
        document.removeEventListener("visibilitychange", onSeen);
        clearTimeout(timer);
    });
}

const isShownBy = (resModel, model) => (SHOWS[resModel] ?? []).includes(model);

const LiveForm = (Controller) =>
    class extends Controller {
        setup() {
            super.setup();
            // What is being typed is not in the record yet; the field says so here.
            let isTyping = false;
            useBus(this.model.bus, "FIELD_IS_DIRTY", (ev) => (isTyping = ev.detail));
            useLiveRefresh(
                ({model, ids, any}) => {
                    // Before the first load there is no root yet.
                    const {resId, data} = this.model.root ?? this.props;
                    const isAbout = (id) => any || ids.includes(id);
                    return (
                        isShownBy(this.props.resModel, model) ||
                        (model === this.props.resModel && isAbout(resId)) ||
                        // A record says how its cluster is followed.
                        (model === CLUSTER && isAbout(data?.cluster_id?.id))
                    );
                },
                // A form that is being edited keeps what was entered.
                () =>
                    !this.model.isReady ||
                    this.model.root.dirty ||
                    isTyping ||
                    this.ui.isBlocked,
                async () => {
                    if (this.model.root.resId) {
                        await this.model.root.load();
                    }
                }
            );
        }
    };

const LiveMulti = (Controller) =>
    class extends Controller {
        setup() {
            super.setup();
            useLiveRefresh(
                // Any record may have entered or left what the filter shows.
                ({model}) =>
                    model === this.props.resModel ||
                    isShownBy(this.props.resModel, model),
                () =>
                    !this.model.isReady ||
                    Boolean(this.model.root.editedRecord) ||
                    this.model.root.selection?.length > 0,
                () => this.model.load()
            );
        }
    };

/** Core titles the group of records without a value, but not that of a selection. */
class TitledGroup extends RelationalModel.Group {
    setup() {
        super.setup(...arguments);
        this.displayName ??= this.groupByField.falsy_value_label;
    }
}

class LiveModel extends RelationalModel {
    static Group = TitledGroup;
}

registry.category("views").add("vworkspace_form", {
    ...formView,
    Controller: LiveForm(formView.Controller),
});
registry.category("views").add("vworkspace_list", {
    ...listView,
    Model: LiveModel,
    Controller: LiveMulti(listView.Controller),
});
registry.category("views").add("vworkspace_kanban", {
    ...kanbanView,
    Model: LiveModel,
    Controller: LiveMulti(kanbanView.Controller),
});
