import {_t} from "@web/core/l10n/translation";
import {registry} from "@web/core/registry";
import {useService} from "@web/core/utils/hooks";
import {TextField, textField} from "@web/views/fields/text/text_field";
import {useEffect} from "@odoo/owl";

/** What a dropped file may have, in bytes; the server has the last word. */
const MAX_SIZE = 64 * 1024;

/** A text field into which a text file can be dropped. The file is not uploaded. */
export class FileDropField extends TextField {
    setup() {
        super.setup();
        this.notification = useService("notification");
        useEffect(
            (el) => {
                if (!el) {
                    return;
                }
                const onDragOver = (ev) => ev.preventDefault();
                const onDrop = (ev) => this.onDrop(ev);
                el.addEventListener("dragover", onDragOver);
                el.addEventListener("drop", onDrop);
                return () => {
                    el.removeEventListener("dragover", onDragOver);
                    el.removeEventListener("drop", onDrop);
                };
            },
            () => [this.textareaRef.el]
        );
    }

    async onDrop(ev) {
        const file = ev.dataTransfer.files[0];
        if (!file) {
            return; // text that is dragged is the browser's to insert
        }
        ev.preventDefault();
        if (file.size > MAX_SIZE) {
            this.notification.add(_t("This file is too large to be a kubeconfig."), {
                type: "danger",
            });
            return;
        }
        await this.props.record.update({[this.props.name]: await file.text()});
    }
}

registry.category("fields").add("vworkspace_file_drop", {
    ...textField,
    component: FileDropField,
});
