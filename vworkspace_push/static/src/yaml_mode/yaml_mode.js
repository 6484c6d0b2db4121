import {CodeEditor} from "@web/core/code_editor/code_editor";

// The mode itself is in static/ace, and loaded with the editor.
CodeEditor.MODES.push("yaml");
