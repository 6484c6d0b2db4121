import {_t} from "@web/core/l10n/translation";
import {registry} from "@web/core/registry";
import {standardFieldProps} from "@web/views/fields/standard_field_props";
import {Component} from "@odoo/owl";

const KIND = {"+": "added", "-": "removed", "~": "changed"};

/** Text of which each line says by its first character what becomes of it: + - ~ */
export class DiffField extends Component {
    static template = "vworkspace_push.DiffField";
    static props = {
        ...standardFieldProps,
        empty: {type: String, optional: true},
    };

    get label() {
        return this.props.record.fields[this.props.name].string;
    }

    get text() {
        return this.props.record.data[this.props.name];
    }

    get lines() {
        return this.text
            .replace(/\n$/, "")
            .split("\n")
            .map((line) => ({text: line, kind: KIND[line[0]] ?? "same"}));
    }

    get empty() {
        return this.props.empty ?? _t("No difference.");
    }
}

registry.category("fields").add("vworkspace_diff", {
    component: DiffField,
    displayName: _t("Difference"),
    supportedOptions: [
        {label: _t("Text for no difference"), name: "empty", type: "string"},
    ],
    supportedTypes: ["text"],
    // Without text there is something to say as well.
    isEmpty: () => false,
    extractProps: ({options}) => ({empty: options.empty}),
});
