"""User options into templates: quoted, strict, sandboxed."""

from __future__ import annotations

import shlex
import subprocess

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from parsl_globus.endpoint.multiuser.template import quote, render
from parsl_globus.errors import ConfigError


@pytest.fixture
def fill(tmp_path):
    def fill(template, options=None, runtime=None, schema=None, **more):
        return render(
            template,
            file=tmp_path / "user_config_template.yaml.j2",
            user_options=options or {},
            user_runtime=runtime or {},
            schema=schema,
            **more,
        )

    return fill


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_stays_one_value(text):
    assert yaml.safe_load(f"key: {quote(text)}") == {"key": text} or any(0xD800 <= ord(c) <= 0xDFFF for c in text)


def test_options_cannot_inject_yaml(fill):
    evil = '10\nengine: {type: Evil}\n"'
    assert yaml.safe_load(fill("account: {{ account }}\n", {"account": evil})) == {"account": evil}


def test_options_cannot_inject_shell(fill):
    evil = "x; rm -rf $HOME `id`"
    document = yaml.safe_load(fill("init: {{ name | shell_escape }}", {"name": evil}))
    assert shlex.split(document["init"]) == [evil]


#: What users may try: to end the value, to begin a key, a document, a tag, an anchor, a template, a command.
EVIL = [
    "x\nevil: 1",
    "x\r\nevil: 1",
    "x\u0085evil: 1",
    "x\u2028evil: 1",
    '"\nevil: 1\n"',
    "', evil: 1, x: '",
    '", evil: 1, x: "',
    "}\nevil: {a: 1",
    "x # ",
    "--- \nevil: 1",
    "!!python/object/apply:os.system [id]",
    "*anchor",
    "&anchor x",
    "<<: {evil: 1}",
    "{{ 7 * 7 }}{% set evil = 1 %}",
    "$(touch evil)",
    "`touch evil`",
    "'; touch evil; '",
    '"; touch evil; "',
    "\\",
    "x\\",
    "%YAML 1.1",
    "\x00",
]
#: Where templates put values; the last ones are where they shouldn't.
PLACES = [
    "a: {{ v }}\nb: 1\n",
    "{a: {{ v }}, b: 1}",
    "- {{ v }}\n- 1\n",
    "a: 'x {{ v }}'\nb: 1\n",
    "{a: 'x {{ v }}', b: 1}",
]


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize("place", PLACES)
def test_no_text_becomes_more_than_one_value(fill, place, text):
    document = yaml.safe_load(fill(place, {"v": text}))
    assert len(document) == 2
    if "'" not in place:
        assert text in (document if isinstance(document, list) else document.values())


@pytest.mark.parametrize("text", EVIL)
def test_no_key_becomes_more_than_one_value(fill, text):
    document = yaml.safe_load(fill("a: {{ v }}\nb: 1\n", {"v": {text: [text, {"k": text}]}}))
    assert document == {"a": {text: [text, {"k": text}]}, "b": 1}


@pytest.mark.parametrize("text", [text for text in EVIL if "\0" not in text])
@pytest.mark.parametrize(
    "place",
    [
        "a: printf %s {{ v }}",
        "a: printf %s {{ v | shell_escape }}",
        "a: |\n  printf %s {{ v }}\n",
        "a: |\n  printf %s {{ v | shell_escape }}\n",
    ],
)
def test_no_text_becomes_a_command(fill, place, text, tmp_path):
    """Where YAML takes the line as it is, what YAML would read as quotes are the shell's."""
    try:
        commands = yaml.safe_load(fill(place, {"v": text}))["a"]
    except yaml.YAMLError:
        return
    subprocess.run(["bash", "-c", str(commands)], cwd=tmp_path, capture_output=True, check=False)
    assert list(tmp_path.iterdir()) == []


def test_what_an_account_says_of_itself_is_quoted(fill):
    local = {"uname": "ada", "uid": 7, "gid": 7, "gecos": "x\nevil: 1", "shell": "/bin/sh", "dir": "/h", "groups": [7]}
    template = "name: {{ _GC.mapped_identity.local.uname }}\nsays: {{ mapped_identity.local.gecos }}\n"
    text = fill(template, identity={"local": local, "globus": {"id": None}})
    assert yaml.safe_load(text) == {"name": "ada", "says": "x\nevil: 1"}


def test_neighbours_come_along_where_their_folder_is_closed(fill):
    assert fill("{% include 'part.j2' %}", neighbours={"part.j2": "a: {{ 1 }}"}) == "a: 1"
    with pytest.raises(ConfigError, match="TemplateNotFound"):
        fill("{% include '../../etc/passwd' %}", neighbours={})


def test_structures_print_as_yaml(fill):
    options = {"a": {"k'\"ey": ["x: y", 1, True, None]}}
    assert yaml.safe_load(fill("a: {{ a }}", options)) == options


def test_a_missing_option_is_named(fill):
    with pytest.raises(ConfigError, match="queue"):
        fill("queue: {{ queue }}")
    assert fill("queue: {{ queue|default('debug') }}") == "queue: debug"


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__ }}", "{{ a.__init__.__globals__ }}", "{{ _GC.env.clear() }}", "{{ a.pop('k') }}"],
)
def test_templates_are_sandboxed(fill, template):
    with pytest.raises(ConfigError):
        fill(template, {"a": {"k": 1}})


def test_reserved_names_are_refused(fill):
    with pytest.raises(ConfigError, match="_GC"):
        fill("", {"_GC": 1})


def test_options_are_checked_by_the_schema(fill):
    schema = {"type": "object", "properties": {"nodes": {"type": "integer"}}, "additionalProperties": False}
    assert fill("{{ nodes }}", {"nodes": 2}, schema=schema) == "2"
    with pytest.raises(ConfigError, match=r"user_endpoint_config\.nodes"):
        fill("{{ nodes }}", {"nodes": "two"}, schema=schema)
    with pytest.raises(ConfigError, match="other"):
        fill("", {"other": 1}, schema=schema)


def test_runtime_and_identity_are_there(fill):
    text = fill(
        "v: {{ _GC.user_runtime.python_version }}\nu: {{ mapped_identity.local.uid }}",
        runtime={"python_version": "3.11"},
    )
    document = yaml.safe_load(text)
    assert document["v"] == "3.11"
    assert isinstance(document["u"], int)


def test_templates_can_include_their_neighbours(fill, tmp_path):
    (tmp_path / "common.j2").write_text("shared: true\n")
    assert fill("{% include 'common.j2' %}") == "shared: true"


def test_a_broken_template_names_its_line(fill):
    with pytest.raises(ConfigError) as caught:
        fill("a: 1\n{% if %}\n")
    assert caught.value.line == 2
