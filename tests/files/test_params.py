"""YAML as people write it is read as they mean it; what is ambiguous or beyond all measure is refused in a line."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest

from steerlib import SteerlibError
from steerlib.files import params

LAUGHS = "a: &a [" + "lol, " * 10 + "]\n"
LAUGHS += "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefghi"))


def read(tmp_path, content):
    path = tmp_path / "some.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return params.read(path)


@pytest.mark.parametrize(
    ("written", "meant"),
    [(word, word) for word in ("yes", "No", "on", "OFF", "y", "1:30", "010", "007", "0x1F", "2024-02-30", "2024-01-01")]
    + [("9" * 900, "9" * 900), ("1_000", 1000), ("-3", -3), ("0", 0), ("1e3", 1000.0), ("1.", 1.0), (".5", 0.5)]
    + [("true", True), ("FALSE", False), ("~", None), ("null", None), ("", None), ("'1'", "1"), ("NO", "NO")],
)
def test_plain_words_are_what_they_look_like(tmp_path, written, meant):
    data = read(tmp_path, f"key: {written}\nkeys: {{{written or 'null'}: 1}}\n")
    assert data["key"] == meant and type(data["key"]) is type(meant)
    assert [*data["keys"]] == [meant]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: not valid YAML: key 'a' stands in line 1 already; keep one"),
        ("a:\n  - {b: 1,\n     b: 1}\n", "line 3: not valid YAML: key 'b' stands in line 2 already; keep one"),
        ("a: {x: 1, 'x': 2}", "key 'x' stands in line 1 already"),
        ("a: {1: 1, 1.0: 2}", "key '1.0' stands in line 1 already"),
        ("a: &a {x: 1}\nb: {<<: *a,\n  <<: *a}", "line 3: not valid YAML: key '<<' stands in line 2 already"),
        ("a: &a {x: 1}\nb: &b {x: 2}\nc: {<<: [*a, *b]}", "'x' is in several of what is merged"),
        ("a: &a {x: 1}\nb: &b {<<: *a}\nc: {<<: [*b, {x: 2}]}", "'x' is in several of what is merged"),
        (LAUGHS, "its aliases or its nesting make too much of it"),
        (LAUGHS.replace("[", "{x: [").replace("]", "]}"), "its aliases or its nesting make too much of it"),
        ("a: &a [" + "l" * 90_000 + "]\nb: [" + "*a, " * 90 + "]", "line 2: not valid YAML: its aliases"),
        ("a: &a [*a]", "line 1: not valid YAML: its aliases"),
        ("a: " + "[" * 60 + "]" * 60, "its aliases or its nesting"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a0: &a0 [1]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}]\n" for k in range(1, 99)), "its aliases or its nesting"),
        ("a: &a 1\nb: &a 2\n", "line 2: not valid YAML: found duplicate anchor 'a'"),
        (
            "a: 1\n\tb: 2",
            "found character '\\t' that cannot start any token; indent with spaces",
        ),
        ("a: 1\n---\na: 2", "line 2: not valid YAML: expected a single document in the stream, but found another"),
        ("a: *b", "line 1: not valid YAML: found undefined alias 'b'"),
        ("a: !!timestamp 2024-02-30", "line 1: not valid YAML: could not determine a constructor"),
        ("a: !!python/object:os.system []", "line 1: not valid YAML: could not determine a constructor"),
        ("a: !!int many", "not valid YAML: invalid literal"),
        ("a: !!bool maybe", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!float _", "not valid YAML"),
        ("? [a]\n: 1", "found unhashable key"),
        ("a: b\x1b[2J\x07", "unacceptable character"),
        ("a: *" + "b" * 50_000, "found undefined alias"),
        (b"\xef\xbb\xbfa: \x00", "line 1: holds a zero byte"),
        (b"a: 1\nb: caf\xe9", "line 2: not UTF-8 text (byte 6 of the line); save it as UTF-8"),
    ],
)
def test_what_is_no_yaml_is_told_in_a_line(tmp_path, content, said):
    with pytest.raises(SteerlibError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'some.yaml'}: ") and said in message
    assert len(message) < 1500 and message.isprintable()


def test_what_is_merged_may_be_changed_again_and_again(tmp_path):
    content = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\nd: {<<: [*a, *b], x: 4, y: 4}\n"
    data = read(tmp_path, content + "e: {<<: [*b, {x: 2}]}\n")
    assert (data["b"], data["c"], data["d"]) == ({"x": 2, "y": 1}, {"x": 2, "y": 3}, {"x": 4, "y": 4}) != data["e"]
    assert data["e"] == data["b"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_of_other_systems_is_read(tmp_path, encoding, end):
    assert read(tmp_path, f"a: café{end}b: 2{end}".encode(encoding)) == {"a": "café", "b": 2}


def test_a_message_never_holds_more_than_lines_of_what_it_quotes():
    error = SteerlibError(f"some.yaml: {'x' * 10**6}: \x1b[31m\x9bno\r\n; mend it", "other.yaml: \u202eright")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    first, second = str(error).splitlines()
    assert len(first) < 1100 and first.startswith("some.yaml: xxx") and first.endswith("; mend it")
    assert r"\x1b[31m\x9bno\r\n" in first and second == r"other.yaml: \u202eright"
