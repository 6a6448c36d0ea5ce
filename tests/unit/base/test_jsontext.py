"""Our door to JSON says what `json` says, and is stricter about what is none."""

import json
import subprocess
import sys

import pytest

from runtime.base.jsontext import dumps, loads, loads_or

VALUES = [
    None, True, 1, -1.5e300, "a", "é\n\"\\\ud83d", "", [], {}, [1, [2, {"b": None}]], {"b": 1, "a": [True, "x"]},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_text_is_that_of_json(value: object) -> None:
    assert dumps(value) == json.dumps(value)
    assert dumps(value, compact=True, sort_keys=True) == json.dumps(value, separators=(",", ":"), sort_keys=True)
    assert loads(f" \n{dumps(value)}\t") == value


@pytest.mark.parametrize("text", ["", " ", "{", '{"a"}', '{"a": 1,}', "[1", "1 2", "tru", "'a'", '"\n"', "﻿1", "NaN"])
def test_what_is_no_json_is_refused_with_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        loads(text)
    assert loads_or(text, "default") == "default"


def test_it_works_where_nobody_has_imported_json() -> None:
    """The C half then wants to raise an exception that does not exist yet."""
    code = (
        "import sys; from runtime.base.jsontext import loads_or, loads; assert 'json' not in sys.modules;"
        "print([loads_or(t, 'none') for t in ('{', '[1,', 'x', '{\"a\": 2}')], 'json' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=".")
    assert out.stdout == "['none', 'none', 'none', {'a': 2}] False\n"


def test_what_has_no_form_is_named() -> None:
    with pytest.raises(TypeError, match="object has no form in JSON"):
        dumps({"a": object()})
