"""The simulated operator's control file: read, edited by command, obeyed at once."""

from pathlib import Path

import pytest

from environment.operator.control import Control, ControlFile, main, read, write
from environment.operator.resources import INSTANCE, OPERATION

SHOP = {"metadata": {"namespace": "demo", "name": "shop"}}


def annotated(behaviour: str) -> dict[str, dict[str, object]]:
    annotations = {"simulate.vworkspace.io/behaviour": behaviour}
    return {"metadata": {**SHOP["metadata"], "annotations": annotations}}


def test_no_file_and_an_empty_file_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "control"
    assert read(path) == Control()
    path.touch()
    assert read(path) == Control()


@pytest.mark.parametrize(
    "text", ["default: slow\ndelay: 0.5\n", '{"default": "slow", "delay": 0.5}']
)
def test_reads_yaml_and_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "control"
    path.write_text(text)
    assert read(path) == Control(default="slow", delay=0.5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("default: fast", "default: 'fast' is not one of null, slow, degrade"),
        ("admission: closed", "admission: 'closed' is not one of"),
        ("instances: {demo/shop: 5}", "instances: demo/shop: 5 is not one of"),
        ("instances: [demo/shop]", "instances: must map"),
        ("delay: soon", "delay: must be a number of seconds"),
        ("delay: -1", "delay: must be a number of seconds"),
        ("speed: 3", "unknown key speed"),
        ("- 1", "must be a mapping"),
        ("{", "neither YAML nor JSON"),
    ],
)
def test_complains_in_a_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "control"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read(path)


def test_a_change_counts_at_once_and_a_bad_one_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "control"
    file = ControlFile(path)
    assert file.current == Control()
    write(path, Control(admission="refuse"))
    assert file.current.admission == "refuse"
    path.write_text("{")
    assert file.current.admission == "refuse"
    path.unlink()
    assert file.current == Control()


def test_an_unchanged_file_is_the_same_object(tmp_path: Path) -> None:
    path = tmp_path / "control"
    write(path, Control(default="slow"))
    file = ControlFile(path)
    assert file.current is file.current


def test_the_annotation_overrules_the_entry_and_that_the_default() -> None:
    control = Control(instances={"demo/shop": "fail"}, default="slow")
    assert control.behaviour_of(INSTANCE, annotated("degrade")) == "degrade"
    assert control.behaviour_of(INSTANCE, annotated("dance")) == "fail"
    assert control.behaviour_of(INSTANCE, SHOP) == "fail"
    assert control.behaviour_of(OPERATION, SHOP) == "slow"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("degrade demo/shop", Control(instances={"demo/shop": "degrade"})),
        ("fail demo/b1 --operation", Control(operations={"demo/b1": "fail"})),
        ("heal demo/shop", Control()),
        ("default silent", Control(default="silent")),
        ("admission hang", Control(admission="hang")),
        ("admission ok", Control()),
        ("heartbeat off", Control(heartbeat=False)),
        ("delay 0.5", Control(delay=0.5)),
    ],
)
def test_the_command_edits_the_file(
    tmp_path: Path, arguments: str, expected: Control
) -> None:
    path = tmp_path / "control"
    main(["--control", str(path), *arguments.split()])
    assert read(path) == expected


def test_heal_undoes_one_object_alone(tmp_path: Path) -> None:
    path = tmp_path / "control"
    for arguments in (["fail", "demo/a"], ["fail", "demo/b"], ["heal", "demo/a"]):
        main(["--control", str(path), *arguments])
    assert read(path) == Control(instances={"demo/b": "fail"})
