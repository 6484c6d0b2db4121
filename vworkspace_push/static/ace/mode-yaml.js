/* global ace */

/**
 * YAML for Odoo's code editor, as the server reads it: what it refuses is shown as
 * invalid, and its words for true and false are YAML 1.1's.
 */
ace.define(
    "ace/mode/yaml",
    ["require", "exports", "ace/range", "ace/mode/text", "ace/mode/folding/fold_mode"],
    function (require, exports) {
        "use strict";

        const Range = require("ace/range").Range;
        const TextMode = require("ace/mode/text").Mode;
        const BaseFoldMode = require("ace/mode/folding/fold_mode").FoldMode;

        const INDENT = 2; // columns

        const LITERAL =
            /^(?:~|null|true|false|yes|no|on|off|Null|True|False|Yes|No|On|Off|NULL|TRUE|FALSE|YES|NO|ON|OFF)$/;
        const NUMBER =
            /^(?:[-+]?(?:0b[01_]+|0x[\da-fA-F_]+|0[0-7_]*|[1-9][\d_]*|(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+))$/;

        const LEAD = /^ *(?:- +)*/; // before a line's key
        const DASH = /^ *-(?:\s|$)/;
        const OPENS = /^\s*[^\s#].*?(?::|\s[|>][-+\d]*)\s*(?:\s#.*)?$/; // has lines below it

        // Unquoted text ends at ": ", at " #" and, inside brackets, at these as well.
        const PLAIN = {
            block: String.raw`(?:[^\s#&*!|>'"%@\x60,[\]{}:?-]|[:?-](?=\S))(?:[^\s:]|:(?=\S)|\s+(?=[^\s#]))*`,
            flow: String.raw`(?:[^\s#&*!|>'"%@\x60,[\]{}:?-]|[:?-](?=[^\s,[\]{}]))(?:[^\s:,[\]{}]|:(?=[^\s,[\]{}])|\s+(?=[^\s#,[\]{}]))*`,
        };
        const QUOTED = String.raw`"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'`;
        const END_OF_QUOTED = {'"': /(?:[^"\\]|\\.)*"/y, "'": /(?:[^']|'')*'/y};

        const shared = [
            ["comment", /(?:^|\s+)#.*/y],
            ["invalid", /^ *\t+/y], // YAML is not indented by tabs
            ["text", /\s+/y],
            ["meta.tag", new RegExp(`(?:${QUOTED})(?=\\s*:)`, "y")],
            ["string", new RegExp(QUOTED, "y")],
            ["unclosed", /["'].*/y],
            ["invalid", /[&*!][^\s,[\]{}]*/y], // anchors, aliases, tags
            ["open", /[[{]/y],
            ["close", /[\]}]/y],
        ];
        const RULES = {
            block: [
                ["keyword", /^(?:---|\.\.\.)(?=\s|$)/y],
                ["keyword.operator", /[-?:](?=\s|$)/y],
                ["block", /[|>][-+\d]*(?=\s*$|\s+#)/y],
                ...shared,
                ["meta.tag", new RegExp(`${PLAIN.block}(?=\\s*:(?:\\s|$))`, "y")],
                ["plain", new RegExp(PLAIN.block, "y")],
            ],
            flow: [
                ...shared,
                ["keyword.operator", /[,?:]/y],
                [
                    "meta.tag",
                    new RegExp(`${PLAIN.flow}(?=\\s*:(?:[\\s,[\\]{}]|$))`, "y"),
                ],
                ["plain", new RegExp(PLAIN.flow, "y")],
            ],
        };

        /** What starts at a column: its type and text. */
        function match(rules, line, column) {
            for (const [type, regexp] of rules) {
                regexp.lastIndex = column;
                const found = regexp.exec(line);
                if (found) {
                    return [type, found[0]];
                }
            }
            return ["invalid", line[column]];
        }

        function typeOfPlain(text) {
            if (LITERAL.test(text)) {
                return "constant.language";
            }
            return NUMBER.test(text) ? "constant.numeric" : "string";
        }

        function indentation(line) {
            return line.search(/[^ ]|$/);
        }

        /**
         * The column of what a block of text belongs to: its key, or the dash before
         * it. The text is indented by more than that.
         */
        function parentColumn(line, column) {
            const lead = line.match(LEAD)[0];
            if (lead.length < column) {
                return lead.length;
            }
            // With neither, the key is in a line above.
            return lead.includes("-") ? lead.lastIndexOf("-") : column - 1;
        }

        /**
         * Ace's tokenizer. What goes on in the next line is a text, as Ace compares it:
         * "start", or one of "flow", "text" (a block of text), '"' and "'" with a number:
         * how many brackets are open, or the column of the block's parent.
         */
        const tokenizer = {
            getLineTokens(line, state) {
                const tokens = [];
                const [context, rest] = (state || "start").split(" ");
                let number = Number(rest || 0);
                let column = 0;
                const add = (type, value) => {
                    tokens.push({type, value});
                    column += value.length;
                };

                if (context === "text") {
                    if (!line.trim() || indentation(line) > number) {
                        return {tokens: [{type: "string", value: line}], state};
                    }
                    number = 0;
                }
                if (context in END_OF_QUOTED) {
                    const end = END_OF_QUOTED[context];
                    end.lastIndex = 0;
                    const found = end.exec(line);
                    if (!found) {
                        return {tokens: [{type: "string", value: line}], state};
                    }
                    add("string", found[0]);
                }
                while (column < line.length) {
                    const rules = number ? RULES.flow : RULES.block;
                    const [type, value] = match(rules, line, column);
                    switch (type) {
                        case "open":
                            number++;
                            add("paren.lparen", value);
                            break;
                        case "close":
                            add(number ? "paren.rparen" : "invalid", value);
                            number = Math.max(0, number - 1);
                            break;
                        case "unclosed":
                            add("string", value);
                            return {tokens, state: `${value[0]} ${number}`};
                        case "block":
                            number = parentColumn(line, column);
                            add("keyword.operator", value);
                            if (column < line.length) {
                                add("comment", line.slice(column));
                            }
                            return {tokens, state: `text ${number}`};
                        case "plain":
                            add(typeOfPlain(value), value);
                            break;
                        default:
                            add(type, value);
                    }
                }
                return {tokens, state: number ? `flow ${number}` : "start"};
            },
        };

        class FoldMode extends BaseFoldMode {
            /** Ace remembers the answer until the line itself changes. */
            getFoldWidget(session, foldStyle, row) {
                return OPENS.test(session.getLine(row)) ? "start" : "";
            }

            /** The lines below that are indented by more, or a list in line with its key. */
            getFoldWidgetRange(session, foldStyle, row) {
                const line = session.getLine(row);
                const column = indentation(line);
                let last = row;
                for (let below = row + 1; below < session.getLength(); below++) {
                    const text = session.getLine(below);
                    if (!text.trim()) {
                        continue;
                    }
                    const isInList = DASH.test(text) && !DASH.test(line);
                    if (indentation(text) < column + (isInList ? 0 : 1)) {
                        break;
                    }
                    last = below;
                }
                return last > row
                    ? new Range(row, line.length, last, session.getLine(last).length)
                    : null;
            }
        }

        class Mode extends TextMode {
            constructor() {
                super();
                this.$id = "ace/mode/yaml";
                this.lineCommentStart = "#";
                this.foldingRules = new FoldMode();
            }

            getTokenizer() {
                return tokenizer;
            }

            attachToSession(session) {
                session.setOptions({tabSize: INDENT, useSoftTabs: true});
            }

            /** Go on below the key of a list's item, and deeper after what opens a block. */
            getNextLineIndent(state, line) {
                const [context, parent] = state.split(" ");
                if (context === "text" && indentation(line) > Number(parent)) {
                    return " ".repeat(indentation(line));
                }
                const {tokens} = tokenizer.getLineTokens(line, "start");
                const lead = line.match(LEAD)[0];
                const hasKey = tokens.some(({type}) => type === "meta.tag");
                const last = tokens.findLast(
                    ({type, value}) => type !== "comment" && value.trim()
                );
                const opens =
                    last?.type === "paren.lparen" ||
                    (last?.type === "keyword.operator" && /[:|>]/.test(last.value));
                return " ".repeat(
                    (hasKey ? lead.length : indentation(line)) + (opens ? INDENT : 0)
                );
            }
        }

        exports.Mode = Mode;
    }
);
