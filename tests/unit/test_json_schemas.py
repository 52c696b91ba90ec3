"""JSON Schemas that strangers send: which an agent can be given, and what answers are checked by, in bounded time."""

from typing import Any

import pytest

from strandline._agents.checked_answer import MOST_FAULTS, CannotCheck, CheckedAnswer
from strandline._agents.json_schemas import MOST_LEVELS, NoSchema, object_schema


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"in": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "array"}, 'with "type": "object"'),
        ({"type": ["object", "null"]}, 'with "type": "object"'),
        ({"properties": {"a": {"type": "text"}}}, r"one of array, .* at \$\.properties\.a\.type"),
        ({"properties": {"a": {"type": [["string"]]}}}, "one of array"),
        ({"properties": ["a"]}, r"an object of schemas at \$\.properties"),
        ({"properties": {"a": "string"}}, r"a schema, which is an object, at \$\.properties\.a"),
        ({"anyOf": []}, r"a list of at least one schema at \$\.anyOf"),
        ({"required": "a"}, "a list of names"),
        ({"dependentRequired": {"a": "b"}}, "an object of lists of names"),
        ({"enum": "a"}, "a list"),
        ({"minProperties": -1}, "a number of at least 0"),
        ({"minimum": True}, "a number"),
        ({"multipleOf": 0}, "a number above 0"),
        ({"$ref": "http://127.0.0.1/x"}, "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
        ({"$ref": "#/$defs/a"}, "nothing is fetched"),
        ({"$ref": "#anchor"}, "nothing is fetched"),
        ({"$ref": {}}, "nothing is fetched"),
        ({"allOf": [{}], "$ref": "#/allOf/1"}, "nothing is fetched"),
        ({"$id": "http://x/"}, "must not have"),
        ({"$dynamicRef": "#a"}, "must not have"),
        (nested(MOST_LEVELS + 1), f"at most {MOST_LEVELS} levels"),
    ],
)
def test_what_is_no_schema_of_an_object_is_refused_with_its_place(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(NoSchema, match=why):
        object_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"$ref": {"type": "string"}, "pattern": {}, "items": True}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "object"}}},
        {"allOf": [{"type": "object"}], "properties": {"self": {"$ref": "#"}, "first": {"$ref": "#/allOf/0"}}},
        {"properties": {"a": {"enum": [{"$ref": "http://x"}], "default": {"type": "text"}}}},
        nested(MOST_LEVELS),
    ],
)
def test_schemas_are_read_as_what_they_are(schema: dict[str, Any]) -> None:
    assert object_schema(schema) == schema


def test_older_tuples_are_those_of_today() -> None:
    assert object_schema({"properties": {"a": {"items": [{}, {}]}}}) == {"properties": {"a": {"prefixItems": [{}, {}]}}}


def test_an_answer_is_checked_and_the_model_is_told_where_it_is_wrong() -> None:
    answer = CheckedAnswer({"properties": {"a": {"type": "integer"}}, "required": ["a"]})
    with pytest.raises(ValueError, match=r"\$\.a: 'x' is not of type 'integer'"):
        answer.check({"a": "x"})
    with pytest.raises(ValueError, match="'a' is a required property"):
        answer.check({})
    assert (answer.given, answer.misses) == (None, 2)
    answer.check({"a": 1, "b": 2})
    assert answer.given == {"a": 1, "b": 2}


def test_the_model_is_told_a_bounded_number_of_faults_each_short() -> None:
    answer = CheckedAnswer({"properties": {"a": {"items": {"type": "integer"}}}})
    with pytest.raises(ValueError, match="not of type") as found:
        answer.check({"a": ["x" * 10_000] * 1000})
    assert len(str(found.value).split("; ")) == MOST_FAULTS
    assert len(str(found.value)) < 5000


def test_expressions_of_a_stranger_are_not_evaluated() -> None:
    """Each of them would take years."""
    evil = "(a+)+$"
    answer = CheckedAnswer(
        {
            "properties": {"a": {"type": "string", "pattern": evil}},
            "patternProperties": {evil: {"type": "null"}},
            "additionalProperties": False,
        }
    )
    given = {"a": "a" * 100 + "!", "a" * 100 + "!": 1}
    answer.check(given)
    assert answer.given == given


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(
            {
                "$ref": "#/$defs/a40",
                "$defs": {
                    "a0": {},
                    **{f"a{at}": {"allOf": [{"$ref": f"#/$defs/a{at - 1}"}] * 2} for at in range(1, 41)},
                },
            },
            id="2 ** 40 steps",
        ),
        pytest.param({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, id="without end"),
        pytest.param({"properties": {"list": {"items": {"enum": list(range(5000))}}}}, id="long lists"),
    ],
)
def test_an_answer_is_checked_in_bounded_steps(schema: dict[str, Any]) -> None:
    with pytest.raises(CannotCheck):
        CheckedAnswer(schema).check({"list": [4999] * 1000})


def test_numbers_that_no_check_can_divide_are_no_crash() -> None:
    with pytest.raises(CannotCheck):
        CheckedAnswer({"properties": {"a": {"multipleOf": 1.5}}}).check({"a": 10**400})


@pytest.mark.parametrize("alternative", [False, {"type": "string"}], ids=["nothing", "text"])
def test_faults_of_alternatives_are_counted_by_what_they_hold(alternative: Any) -> None:
    """Each has the value in its text, and all of them are collected: 21,000 of 50 KB would be a gigabyte."""
    answer = CheckedAnswer({"properties": {"x": {"anyOf": [alternative] * 21_000}}})
    with pytest.raises(CannotCheck, match="too many steps"):
        answer.check({"x": list(range(10_000))})
    few = CheckedAnswer({"properties": {"x": {"anyOf": [alternative] * 3}}})
    with pytest.raises(ValueError, match="is not valid under any"):
        few.check({"x": list(range(10_000))})
