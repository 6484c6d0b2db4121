"""From an entry of the catalog to an application that can be deployed."""

import pytest

CATALOG = "vworkspace.catalog.entry"
INSTANCE = "vworkspace.application.instance"
CAPABILITY = "vworkspace.capability"

CHART = {
    "chart_source_type": "helm",
    "chart_url": "https://charts.example.com",
    "chart_name": "wiki",
    "chart_version": "2.1.0",
}


def test_the_form_of_a_new_application_is_filled_from_the_entry(database, entry):
    action = database.call("admin", CATALOG, "action_deploy_new", entry.ids)

    shown = open_form(database, action)

    assert {name: shown[name] for name in CHART} == CHART
    assert shown["catalog_id"] == "wiki"
    assert (shown["mode"], shown["values_source"]) == ("managed", "inline")
    assert shown["values_yaml"] == "replicas: 2\n"
    rows = [values for _command, _id, values in shown["capability_ids"] if values]
    assert [(row["capability"], row["engine"]) for row in rows] == [
        ("backup", "velero")
    ]


def test_choosing_another_entry_warns_of_what_was_entered_and_is_replaced(
    database, entry, make_instance
):
    with database.transaction() as env:
        other = env[CATALOG].create(
            {"name": "Blog", "catalog_id": "blog", **CHART, "chart_name": "blog"}
        )
        values = env[CATALOG].browse(entry.ids)._instance_values()
    untouched = make_instance(**values, catalog_entry_id=entry.id)
    values |= {"values_yaml": "replicas: 9\n"}
    edited = make_instance("edited", **values, catalog_entry_id=entry.id)

    with database.transaction() as env:
        asked = (
            {"catalog_entry_id": other.id},
            ["catalog_entry_id"],
            {"values_yaml": {}},
        )
        quiet = env[INSTANCE].browse(untouched.ids).onchange(*asked)
        loud = env[INSTANCE].browse(edited.ids).onchange(*asked)

    assert "warning" not in quiet
    assert "entered under Values is gone" in loud["warning"]["message"]


def test_what_the_entry_fills_in_can_be_deployed(
    database, cluster, namespace_record, entry, deploy, control_plane, namespace
):
    with database.transaction() as env:
        instance = env[INSTANCE].create(
            {
                **env[CATALOG].browse(entry.ids)._instance_values(),
                "name": "wiki",
                "catalog_entry_id": entry.id,
                "cluster_id": cluster.id,
                "namespace_id": namespace_record.id,
            }
        )

    deploy(instance)

    path = f"/apis/apps.vworkspace.io/v1alpha1/namespaces/{namespace}"
    live = control_plane.request("GET", f"{path}/applicationinstances/wiki")
    assert live["spec"]["chart"]["version"] == "2.1.0"
    assert live["spec"]["values"]["inline"] == {"replicas": 2}
    annotations = live["metadata"]["annotations"]
    assert annotations["ops.vworkspace.io/backup"] == "velero"


def test_changing_an_entry_changes_no_application(
    database, cluster, entry, make_instance
):
    instance = make_instance(catalog_entry_id=entry.id)

    database.call("admin", CATALOG, "write", entry.ids, {"chart_version": "3.0.0"})

    assert database.read(instance, "chart_version") == "1.4.2"


def test_an_entry_counts_its_applications_and_those_of_another_version(
    database, entry, make_instance
):
    make_instance("old", catalog_entry_id=entry.id)
    make_instance("new", catalog_entry_id=entry.id, **CHART)

    counts = database.read(entry, "instance_count", "other_version_count")
    action = database.call("admin", CATALOG, "action_open_other_versions", entry.ids)

    assert (counts["instance_count"], counts["other_version_count"]) == (2, 1)
    with database.transaction() as env:
        assert env[INSTANCE].search(action["domain"]).mapped("name") == ["old"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"chart_version": "latest"}, "Chart Version: "),
        ({"chart_url": "ftp://example.com"}, "Chart Address: "),
        ({"chart_name": False}, "Chart Name: "),
        ({"values_yaml": "a: [1"}, "not valid YAML"),
        ({"values_yaml": "auth:\n  password: hunter2\n"}, "auth.password"),
    ],
    ids=["version", "scheme", "chart", "yaml", "secret"],
)
def test_an_entry_that_cannot_be_deployed_is_kept_and_says_why(
    database, entry, values, sentence
):
    database.call("admin", CATALOG, "write", entry.ids, values)

    assert sentence in database.read(entry, "problems")


def test_a_sound_entry_has_no_problems(database, entry):
    assert database.read(entry, "problems") is False


@pytest.mark.expect_log("catalog_id_uniq")
def test_a_catalog_id_is_given_once_in_a_company(database, entry):
    from psycopg2.errors import UniqueViolation

    with pytest.raises(UniqueViolation), database.transaction() as env:
        env[CATALOG].create({"name": "Another", "catalog_id": "wiki"})


def test_a_copy_gets_a_catalog_id_of_its_own(database, entry):
    (copied,) = database.call("admin", CATALOG, "copy", entry.ids)

    with database.transaction() as env:
        copied = env[CATALOG].browse(copied)
        assert copied.catalog_id == "wiki-copy"
        assert copied.capability_ids.mapped("engine") == ["velero"]
        copied.unlink()


def test_operators_change_capabilities_of_applications_but_not_of_the_catalog(
    database, operator, entry, make_instance
):
    from odoo.exceptions import AccessError

    instance = make_instance(
        capability_ids=[(0, 0, {"capability": "backup", "engine": "velero"})]
    )
    own = database.read(instance, "capability_ids")
    theirs = database.read(entry, "capability_ids")

    database.call(operator, CAPABILITY, "write", own, {"engine": "volsync"})
    for method, *arguments in [
        ("write", theirs, {"engine": "volsync"}),
        ("unlink", theirs),
        (
            "create",
            {"catalog_entry_id": entry.id, "capability": "runbook", "engine": "x"},
        ),
    ]:
        with pytest.raises(AccessError):
            database.call(operator, CAPABILITY, method, *arguments)

    assert database.read(entry, "capability_ids") == theirs


# === FIXTURES === #


@pytest.fixture
def entry(database):
    with database.transaction() as env:
        made = env[CATALOG].create(
            {
                "name": "Wiki",
                "catalog_id": "wiki",
                **CHART,
                "values_yaml": "replicas: 2\n",
                "capability_ids": [
                    (0, 0, {"capability": "backup", "engine": "velero"})
                ],
            }
        )
    yield made
    with database.transaction() as env:
        env[CATALOG].browse(made.ids).unlink()


@pytest.fixture(scope="module")
def operator(database):
    with database.transaction() as env:
        group = env.ref("vworkspace_push.group_operator")
        env["res.users"].create(
            {
                "name": "Operator",
                "login": "catalog_operator",
                "group_ids": [(6, 0, group.ids)],
            }
        )
    return "catalog_operator"


# === HELPERS === #


def open_form(database, action):
    """Return what the web client shows in the form that `action` opens."""
    with database.transaction() as env:
        model = env[action["res_model"]].with_context(action["context"])
        spec = {
            name: {}
            for name in (
                *("catalog_entry_id", "catalog_id", "mode", *CHART),
                *("values_source", "values_yaml"),
            )
        }
        rows = {"fields": {"capability": {}, "engine": {}}}
        return model.onchange({}, [], {**spec, "capability_ids": rows})["value"]
