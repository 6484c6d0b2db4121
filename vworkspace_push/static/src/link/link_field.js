import {registry} from "@web/core/registry";
import {standardFieldProps} from "@web/views/fields/standard_field_props";
import {Component} from "@odoo/owl";

const SAFE = ["http:", "https:"];

/** An address that a cluster reported: a link if it leads to the web, else text. */
export class LinkField extends Component {
    static template = "vworkspace_push.LinkField";
    static props = {...standardFieldProps};

    get text() {
        return this.props.record.data[this.props.name] || "";
    }

    get href() {
        const address = URL.canParse(this.text) && new URL(this.text);
        return address && SAFE.includes(address.protocol) ? address.href : "";
    }
}

registry.category("fields").add("vworkspace_link", {
    component: LinkField,
    supportedTypes: ["char"],
});
