"""A token goes in, is stored sealed, and never comes out again."""

import json
import secrets

import pytest
from cryptography.fernet import Fernet

TEXT_TYPES = ("text", "character varying", "json", "jsonb", "bytea")


# === IT NEVER LEAVES === #


def test_no_call_of_the_interface_gives_the_token(database, secret_cluster, token):
    cluster = secret_cluster
    everything = {"credential_ids": {"fields": {"display_name": {}, "kind": {}}}}
    with database.transaction() as env:
        names = list(env[cluster._name].fields_get())
    specification = {**{name: {} for name in names}, **everything}
    calls = [
        ("read", cluster.ids, names),
        ("web_read", cluster.ids, specification),
        ("search_read", [("id", "in", cluster.ids)], names),
        ("web_search_read", [("id", "in", cluster.ids)], specification),
        ("export_data", cluster.ids, ["name", "token", "credential_ids/kind"]),
        ("copy_data", cluster.ids),
        ("fields_get",),
        ("default_get", names),
        ("name_search", token),
        ("onchange", cluster.ids, {"name": "x", "token": token}, ["name"], everything),
        ("web_save", cluster.ids, {"token": token}, specification),
    ]

    for name, *arguments in calls:
        answer = database.call("admin", cluster._name, name, *arguments)
        assert token not in str(answer), name


def test_a_new_record_does_not_echo_its_token(database, token):
    values = {
        "name": "Echo",
        "cluster_id": "echo",
        "server_url": "https://127.0.0.1:1",
        "token": token,
    }

    answer = database.call(
        "admin", "vworkspace.cluster", "web_save", [], values, {"token": {}}
    )

    assert answer == [{"id": answer[0]["id"], "token": False}]


def test_superuser_mode_cannot_read_it_either(database, secret_cluster, token):
    with database.transaction() as env:
        cluster_sudo = env[secret_cluster._name].browse(secret_cluster.ids).sudo()
        assert token not in str(cluster_sudo.read())
        assert token not in str(cluster_sudo.credential_ids.read())
        assert token not in str(cluster_sudo.copy().read())


def test_a_copy_has_no_credential(database, secret_cluster):
    with database.transaction() as env:
        copy = env[secret_cluster._name].browse(secret_cluster.ids).copy()
        assert copy.has_credential is False


@pytest.mark.expect_log("cannot be searched")
def test_a_search_does_not_tell_a_right_guess_from_a_wrong_one(
    database, secret_cluster, token
):
    def search(guess):
        try:
            domain = [("token", "=", guess)]
            return database.call("admin", secret_cluster._name, "search", domain)
        except ValueError as refusal:
            return str(refusal).replace(guess, "…")

    assert search(token) == search(f"{token}-wrong")


def test_the_database_holds_it_nowhere_in_clear(database, secret_cluster, token):
    assert database.sql("SELECT 1 FROM mail_message WHERE body LIKE '%credential%'")
    assert find_in_database(database, token) == []


def test_the_search_of_the_database_finds_what_is_there(database, secret_cluster):
    database.sql("UPDATE vworkspace_cluster SET check_message = 'needle-in-text'")

    assert find_in_database(database, "needle-in-text") == ["vworkspace_cluster"]


def test_logs_do_not_hold_it(database, make_cluster, token, caplog):
    caplog.set_level("INFO")

    make_cluster(token=token)

    assert token not in caplog.text


# === IT OPENS ONLY WHERE IT BELONGS === #


def test_a_sealed_token_moved_to_another_record_does_not_open(
    database, sealing, make_cluster, token
):
    source, target = make_cluster(token=token), make_cluster(token="another-token")
    database.sql(
        """UPDATE vworkspace_cluster_credential
              SET sealed_secret = (SELECT sealed_secret
                                     FROM vworkspace_cluster_credential
                                    WHERE cluster_id = %s)
            WHERE cluster_id = %s""",
        source.id,
        target.id,
    )

    with pytest.raises(sealing.SealingError, match="another record"):
        unseal(database, target)
    assert unseal(database, source) == token


def test_a_sealed_token_in_a_copied_database_does_not_open(
    database, sealing, make_cluster, token
):
    cluster = make_cluster(token=token)
    with database.transaction() as env:
        credential_sudo = env[cluster._name].browse(cluster.ids).sudo().credential_ids
        env["ir.config_parameter"].set_param("database.uuid", "another-database")
        with pytest.raises(sealing.SealingError, match="looks like a copy"):
            credential_sudo._open()
        env.cr.rollback()
        env.registry.clear_all_caches()


# === WITHOUT THE RIGHT KEY === #


def test_without_a_key_nothing_is_stored_and_the_form_says_what_to_do(
    database, make_cluster, token, monkeypatch
):
    from odoo.exceptions import UserError

    monkeypatch.delenv("VWORKSPACE_PUSH_KEYS_FILE")
    cluster = make_cluster(token=False)

    with pytest.raises(UserError, match="odoo vworkspace_key generate"):
        database.call("admin", cluster._name, "write", cluster.ids, {"token": token})

    stored = database.read(cluster, "has_credential", "key_problem")
    assert stored["has_credential"] is False
    assert "There is no key" in stored["key_problem"]


def test_with_a_key_the_form_has_no_key_problem(database, secret_cluster):
    assert database.read(secret_cluster, "key_problem") is False


def test_a_deploy_with_the_wrong_key_fails_with_the_sentence_and_waits(
    database, cluster, make_instance, deploy, monkeypatch
):
    from odoo.addons.vworkspace_push.connections import connections

    instance = make_instance()
    version = database.read(cluster, "connection_version")
    connections.drop((database.name, cluster.id), version)
    monkeypatch.setenv("VWORKSPACE_PUSH_KEYS", new_key())

    deploy(instance)

    stored = database.read(
        instance, "delivery_state", "delivery_message", "next_attempt_at"
    )
    assert stored["delivery_state"] == "failed"
    assert "None of the configured keys opens" in stored["delivery_message"]
    assert stored["next_attempt_at"]


@pytest.mark.parametrize(
    "malformed",
    ["two words-of-text", "line\nbreak-within", "long" * 5000, "tökén-with-umlauts"],
    ids=["blanks", "lines", "too long", "not ASCII"],
)
def test_what_is_no_token_is_refused_without_repeating_it(make_cluster, malformed):
    from odoo.exceptions import ValidationError

    with pytest.raises(ValidationError, match="token") as refusal:
        make_cluster(token=malformed)
    assert malformed not in str(refusal.value)


def test_blanks_around_a_pasted_token_do_not_matter(database, make_cluster, token):
    assert unseal(database, make_cluster(token=f"  {token}\n")) == token


# === WHERE KEYS COME FROM === #


def test_the_first_place_that_has_keys_is_used(
    tmp_path, monkeypatch, sealing, settings
):
    places = {name: new_key() for name in ("env", "env file", "config", "config file")}
    for name in ("env file", "config file"):
        (tmp_path / name).write_text(f"# a comment\n{places[name]}\n")
    configuration = tmp_path / "odoo.conf"
    monkeypatch.setattr(settings, "config", {"config": str(configuration)})

    configuration.write_text(
        f"[vworkspace_push]\nkeys_file = {tmp_path / 'config file'}\n"
    )
    monkeypatch.delenv("VWORKSPACE_PUSH_KEYS_FILE")
    assert sealed_with(sealing) == places["config file"]

    with configuration.open("a") as file:
        file.write(f"keys = {places['config']}\n")
    assert sealed_with(sealing) == places["config"]

    monkeypatch.setenv("VWORKSPACE_PUSH_KEYS_FILE", str(tmp_path / "env file"))
    assert sealed_with(sealing) == places["env file"]

    monkeypatch.setenv("VWORKSPACE_PUSH_KEYS", places["env"])
    assert sealed_with(sealing) == places["env"]


def test_the_first_key_seals_and_all_open(monkeypatch, sealing):
    old, new = new_key(), new_key()
    monkeypatch.setenv("VWORKSPACE_PUSH_KEYS", old)
    sealed = sealing.seal("a secret", place(sealing))
    monkeypatch.setenv("VWORKSPACE_PUSH_KEYS", f"{new},{old}")

    assert sealing.unseal(sealed, place(sealing)) == "a secret"
    assert Fernet(new).decrypt(sealing.seal("a secret", place(sealing)).encode())


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("VWORKSPACE_PUSH_KEYS", "not-a-key", "not a Fernet key"),
        ("VWORKSPACE_PUSH_KEYS_FILE", "/nonexistent/keys", "cannot be read"),
    ],
)
def test_unusable_keys_are_named_as_such(
    monkeypatch, sealing, variable, value, sentence
):
    monkeypatch.setenv(variable, value)

    with pytest.raises(sealing.SealingError, match=sentence) as refusal:
        sealing.check_keys()
    assert value not in str(refusal.value)


# === FIXTURES AND HELPERS === #


@pytest.fixture
def sealing(odoo_in_process):
    from odoo.addons.vworkspace_push import sealing

    return sealing


@pytest.fixture
def settings(odoo_in_process):
    from odoo.addons.vworkspace_push import settings

    return settings


@pytest.fixture
def token():
    return f"token-{secrets.token_hex(16)}"


@pytest.fixture
def make_cluster(database):
    def make(**values):
        with database.transaction() as env:
            return env["vworkspace.cluster"].create(
                {
                    "name": "Secret",
                    "cluster_id": f"secret-{secrets.token_hex(4)}",
                    "server_url": "https://127.0.0.1:1",
                    **values,
                }
            )

    return make


@pytest.fixture
def secret_cluster(make_cluster, token):
    return make_cluster(token=token)


def new_key():
    return Fernet.generate_key().decode()


def unseal(database, cluster):
    with database.transaction() as env:
        credential_sudo = env[cluster._name].browse(cluster.ids).sudo().credential_ids
        return credential_sudo._open()["token"]


def place(sealing):
    return sealing.Place(
        database="d", record="r,1", purpose="credential", destination="there"
    )


def sealed_with(sealing):
    """Return the text of the key that seals at present."""
    (key,) = sealing._configured_keys()
    sealed = sealing.seal("x", place(sealing))
    assert json.loads(Fernet(key).decrypt(sealed.encode()))["secret"] == "x"
    return key


def find_in_database(database, needle):
    """Return the tables that hold `needle` in any column of text, JSON or bytes."""
    columns = database.sql(
        """SELECT c.table_name, c.column_name, c.data_type
             FROM information_schema.columns c
             JOIN information_schema.tables t USING (table_schema, table_name)
            WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE'
              AND c.data_type IN %s""",
        TEXT_TYPES,
    )
    assert ("vworkspace_cluster_credential", "sealed_secret", "text") in columns
    tables = {}
    for table, column, kind in columns:
        tables.setdefault(table, []).append(
            f'position(%(needle)s::bytea IN "{column}") > 0'
            if kind == "bytea"
            else f'position(%(text)s IN "{column}"::text) > 0'
        )
    parameters = {"needle": needle.encode(), "text": needle}
    with database.registry.cursor() as cr:
        return [
            table
            for table, tests in tables.items()
            if _holds(cr, table, tests, parameters)
        ]


def _holds(cr, table, tests, parameters):
    query = f'SELECT 1 FROM "{table}" WHERE {" OR ".join(tests)} LIMIT 1'  # noqa: S608
    cr.execute(query, parameters)
    return bool(cr.fetchone())
