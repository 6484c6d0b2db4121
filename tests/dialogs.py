"""What a user does in a dialog: open it, read it, fill it in, press its buttons."""


class Dialog:
    """A dialog that an action opened, driven as the web client drives it."""

    def __init__(self, database, action, login):
        self.database = database
        self.login = login
        self.model, self.ids = action["res_model"], [action["res_id"]]

    def read(self, *fields):
        """Return its fields; several in a dict, one by itself."""
        (values,) = self.database.call(
            self.login, self.model, "read", self.ids, list(fields)
        )
        return values if len(fields) > 1 else values[fields[0]]

    def lines(self, field, *names):
        """Return a list of dicts: the lines behind `field`, with these fields."""
        ids = self.read(field)
        model = self.database.registry[self.model]._fields[field].comodel_name
        rows = self.database.call(self.login, model, "read", ids, list(names))
        return [{name: row[name] for name in names} for row in rows]

    def fill(self, **values):
        self.database.call(self.login, self.model, "write", self.ids, values)

    def fill_line(self, field, key, **values):
        """Fill in the one line whose fields have the values of the dict `key`."""
        ids = self.read(field)
        model = self.database.registry[self.model]._fields[field].comodel_name
        rows = self.database.call(self.login, model, "read", ids, list(key))
        (row,) = [r for r in rows if all(r[name] == key[name] for name in key)]
        self.fill(**{field: [(1, row["id"], values)]})

    def press(self, button):
        """Press a button and return the action that follows."""
        return self.database.call(self.login, self.model, button, self.ids)


def open_dialog(database, records, method, *, login="admin"):
    """Press a button of `records` that opens a dialog, and return that."""
    action = database.call(login, records._name, method, records.ids)
    assert action["target"] == "new"
    return Dialog(database, action, login)
