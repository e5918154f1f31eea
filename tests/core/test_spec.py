"""Specs: what they mean, where exactly they are wrong, and what expansion may cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm.errors import ConfigError, SpecError
from aiollm.spec import MAX_TARGETS, Names, Plan, parse_spec
from aiollm.types import Target

PROVIDERS = ("m1", "m5", "my-prov", "openai", "openrouter")


def parse(spec: str, providers=PROVIDERS, **aliases: str) -> Plan:
    names = Names(aliases.get, providers.__contains__, lambda: [*providers, *aliases])
    return parse_spec(spec, names)


def steps(plan: Plan) -> list[list[str]]:
    return [[str(target) for target in step] for step in plan.steps]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("m1/a", [["m1/a"]]),
        ("m1/a,m5/b", [["m1/a"], ["m5/b"]]),
        ("m1/a|m5/b", [["m1/a", "m5/b"]]),
        ("m1/a|m5/b,m1/c", [["m1/a", "m5/b"], ["m1/c"]]),
        (" m1/a ,\tm5/b\n| m1/c ", [["m1/a"], ["m5/b", "m1/c"]]),
        ("openrouter/qwen/qwen3:30b@q4", [["openrouter/qwen/qwen3:30b@q4"]]),
        ("m1//a", [["m1//a"]]),
        ("m1/a/", [["m1/a/"]]),
        ("m1/a=b;c#d?e&f%20", [["m1/a=b;c#d?e&f%20"]]),
        ("m1/modèle-日本", [["m1/modèle-日本"]]),
        ("m1/a,m1/a", [["m1/a"]]),
        ("m1/a,m5/b,m1/a", [["m1/a"], ["m5/b"]]),
        ("m1/a|m1/a", [["m1/a"]]),
        ("m1/a,m1/a|m5/b", [["m1/a"], ["m5/b"]]),
        ("m1/a|m5/b,m5/b|m1/a", [["m1/a", "m5/b"]]),
        ("m1/a,m1/A", [["m1/a"], ["m1/A"]]),
    ],
)
def test_what_a_spec_means(spec, expected) -> None:
    assert steps(parse(spec)) == expected


@pytest.mark.parametrize(
    ("spec", "aliases", "expected"),
    [
        ("fast", {"fast": "m1/a"}, [["m1/a"]]),
        (" fast ", {"fast": " m1/a , m5/b "}, [["m1/a"], ["m5/b"]]),
        ("m5/x,fast,m5/y", {"fast": "m1/a,m1/b"}, [["m5/x"], ["m1/a"], ["m1/b"], ["m5/y"]]),
        ("a", {"a": "b,m5/z", "b": "m1/x,c", "c": "m1/y"}, [["m1/x"], ["m1/y"], ["m5/z"]]),
        ("fast|m5/b", {"fast": "m1/a"}, [["m1/a", "m5/b"]]),
        ("race|m5/c", {"race": "m1/a|m1/b"}, [["m1/a", "m1/b", "m5/c"]]),
        ("race,m5/c", {"race": "m1/a|m1/b"}, [["m1/a", "m1/b"], ["m5/c"]]),
        ("a,a", {"a": "m1/x"}, [["m1/x"]]),
        ("a,b", {"a": "c", "b": "c", "c": "m1/x"}, [["m1/x"]]),
        ("openai", {"openai": "m1/x"}, [["m1/x"]]),
    ],
)
def test_aliases_are_expanded_in_place(spec, aliases, expected) -> None:
    assert steps(parse(spec, **aliases)) == expected


@pytest.mark.parametrize(
    ("spec", "aliases", "reason", "shown", "column"),
    [
        ("", {}, "the spec is empty", " ", 0),
        ("  ", {}, "the spec is empty", "  ", 0),
        (",", {}, "an element is empty", ",", 0),
        ("m1/a,", {}, "an element is empty", "m1/a,", 5),
        ("m1/a, ,m1/b", {}, "an element is empty", "m1/a, ,m1/b", 6),
        ("m1/a||m1/b", {}, "an element is empty", "m1/a||m1/b", 5),
        ("m1/a|", {}, "an element is empty", "m1/a|", 5),
        ("m1/a b", {}, "white space or a control character inside an element", "m1/a b", 4),
        ("m1/a, m1/b\x00", {}, "white space or a control character inside an element",
         "m1/a, m1/b\x00", 10),
        ("m1/", {}, "'m1/' lacks its model", "m1/", 0),
        ("m1/a,/b", {}, "'/b' lacks its provider", "m1/a,/b", 5),
        ("/", {}, "'/' lacks its provider", "/", 0),
        ("m1/a, m6/b", {}, "unknown provider 'm6'", "m1/a, m6/b", 6),
        ("m1/a, openia/b", {}, "unknown provider 'openia'; did you mean 'openai'?",
         "m1/a, openia/b", 6),
        ("M1/a", {}, "unknown provider 'M1'; did you mean 'm1'?", "M1/a", 0),
        ("zzzzz/a", {}, "unknown provider 'zzzzz'", "zzzzz/a", 0),
        ("m1/a,fast/b", {"fast": "m1/a"},
         "'fast' is an alias, which stands alone, without a slash", "m1/a,fast/b", 5),
        ("m1/a|fats", {"fast": "m1/a"}, "unknown alias 'fats'; did you mean 'fast'?",
         "m1/a|fats", 5),
        ("FAST", {"Fast": "m1/a"}, "unknown alias 'FAST'; did you mean 'Fast'?", "FAST", 0),
        ("m1", {}, "unknown alias 'm1': a target is provider/model, for example m1/some-model",
         "m1", 0),
        ("qwen3:30b", {}, "unknown alias 'qwen3:30b'", "qwen3:30b", 0),
        ("a", {"a": "a"}, "alias cycle: a -> a (in alias 'a')", "a", 0),
        ("m1/x,a", {"a": "m1/y, b", "b": "c", "c": "m1/z|a"},
         "alias cycle: a -> b -> c -> a (in alias 'c')", "m1/z|a", 5),
        ("x", {"x": "a", "a": "b", "b": "a"}, "alias cycle: a -> b -> a (in alias 'b')", "a", 0),
        ("m1/a, two |m1/b", {"two": "m1/a,m1/b"},
         "alias 'two' has several steps and cannot be raced", "m1/a, two |m1/b", 6),
        ("m1/a|two", {"two": "m1/a,m1/b"}, "alias 'two' has several steps and cannot be raced",
         "m1/a|two", 5),
        ("m5/x,a", {"a": "m1/y,  n9/z"}, "unknown provider 'n9' (in alias 'a')",
         "m1/y,  n9/z", 7),
        ("a", {"a": "m1/x, b", "b": "m1/y,,m1/z"}, "an element is empty (in alias 'b')",
         "m1/y,,m1/z", 5),
        ("a", {"a": " "}, "the spec is empty (in alias 'a')", " ", 0),
        ("a", {"a": ""}, "the spec is empty (in alias 'a')", " ", 0),
        ("a", {"a": "b|m1/x", "b": "m1/x,m1/y"},
         "alias 'b' has several steps and cannot be raced (in alias 'a')", "b|m1/x", 0),
    ],
)  # fmt: skip
def test_an_error_shows_where_the_spec_is_wrong(spec, aliases, reason, shown, column) -> None:
    with pytest.raises(SpecError) as caught:
        parse(spec, **aliases)
    error = caught.value
    assert (error.spec, error.column) == (shown, column)
    text, line, caret = str(error).split("\n")
    assert text == reason
    assert line == "  " + shown.replace("\x00", " ")
    assert caret == " " * (column + 2) + "^"
    assert isinstance(error, ConfigError)


@pytest.mark.parametrize("spec", [None, 5, ["m1/a"], Target("m1", "a"), b"m1/a"])
def test_what_is_no_text_is_refused(spec) -> None:
    with pytest.raises(SpecError, match="a spec is a str or a Plan, not of type"):
        parse(spec)


def test_64_targets_are_the_most() -> None:
    assert len(parse(",".join(f"m1/{n}" for n in range(MAX_TARGETS))).targets) == 64
    spec = ",".join(f"m1/{n}" for n in range(65))
    with pytest.raises(SpecError, match="more than 64 targets after expansion") as caught:
        parse(spec)
    assert caught.value.spec[caught.value.column :] == "m1/64"


def test_repeats_count_before_they_are_dropped() -> None:
    with pytest.raises(SpecError, match="more than 64 targets"):
        parse(",".join(["m1/a"] * 65))


@pytest.mark.parametrize("separator", [",", "|"])
def test_an_alias_bomb_is_stopped_while_it_expands(separator) -> None:
    """2^60 targets: the parser looks up little more than it may keep."""
    aliases = {f"a{n}": f"a{n + 1}{separator}a{n + 1}" for n in range(60)} | {"a60": "m1/x"}
    looked_up = []

    def alias(name: str) -> str | None:
        looked_up.append(name)
        return aliases.get(name)

    with pytest.raises(SpecError, match="more than 64 targets"):
        parse_spec("a0", Names(alias, PROVIDERS.__contains__, list))
    assert len(looked_up) < 60 + 3 * MAX_TARGETS


def test_aliases_nest_64_deep_at_most() -> None:
    aliases = {f"a{n}": f"a{n + 1}" for n in range(63)} | {"a63": "m1/x"}
    assert steps(parse("a0", **aliases)) == [["m1/x"]]
    with pytest.raises(SpecError, match="more than 64 nested aliases"):
        parse("b", b="a0", **aliases)


def test_names_are_listed_only_for_an_error() -> None:
    def listed() -> list[str]:
        raise AssertionError

    names = Names({"a": "m1/x"}.get, PROVIDERS.__contains__, listed)
    assert steps(parse_spec("a,m1/y", names)) == [["m1/x"], ["m1/y"]]


class TestPlan:
    PLAN = Plan(((Target("m1", "a"), Target("m5", "b/c:d@e")), (Target("m1", "f"),)))

    def test_prints_as_a_spec(self) -> None:
        assert str(self.PLAN) == "m1/a|m5/b/c:d@e,m1/f"
        assert parse(str(self.PLAN)) == self.PLAN

    def test_lists_its_targets(self) -> None:
        assert [str(target) for target in self.PLAN.targets] == ["m1/a", "m5/b/c:d@e", "m1/f"]

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            self.PLAN.steps = ()  # type: ignore[misc]
        assert hash(self.PLAN) == hash(parse(str(self.PLAN)))


MODEL = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters=",|"), min_size=1
).filter(str.isprintable)
TARGET = st.builds("{}/{}".format, st.sampled_from(PROVIDERS), MODEL)
SPACE = st.sampled_from(["", "", " ", "\t", "\n "])


@st.composite
def spaced(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    """Return some steps of some items, with white space that means nothing."""
    count = st.integers(1, 3)
    return ",".join(
        "|".join(
            draw(SPACE) + draw(items) + draw(SPACE) for _ in range(draw(count))
        )
        for _ in range(draw(count))
    )  # fmt: skip


@given(spec=spaced(TARGET))
def test_a_plan_prints_back_as_a_spec_that_means_the_same(spec) -> None:
    plan = parse(spec)
    assert parse(str(plan)) == plan
    assert all(plan.steps)
    assert len(set(plan.targets)) == len(plan.targets)
    assert set(map(str, plan.targets)) == {
        item.strip() for step in spec.split(",") for item in step.split("|")
    }


@given(
    spec=spaced(TARGET | st.sampled_from(["one", "two", "race"])),
    one=TARGET,
    two=spaced(TARGET | st.just("one")),
    race=st.lists(TARGET, min_size=1, max_size=3).map("|".join),
)
def test_an_alias_means_the_text_in_its_place(spec, one, two, race) -> None:
    """Expansion equals substitution; only an alias of several steps cannot stand in a race."""
    two = two.replace("one", one)
    aliases = {"one": one, "two": two, "race": race}
    expanded, raced = [], False
    for step in spec.split(","):
        items = [item.strip() for item in step.split("|")]
        raced = raced or (len(items) > 1 and "two" in items and "," in two)
        expanded.append("|".join(aliases.get(item, item) for item in items))
    if raced:
        with pytest.raises(SpecError, match=r"alias 'two' has several steps"):
            parse(spec, **aliases)
    else:
        assert parse(spec, **aliases) == parse(",".join(expanded))


@given(spec=st.text(st.sampled_from("ab1/,| \t:@m")))
def test_any_text_is_a_plan_or_a_spec_error(spec) -> None:
    try:
        plan = parse(spec, a="m1/a", b="m5/b,a")
    except SpecError as error:
        wrong = error
    else:
        assert plan.targets
        return
    assert 0 <= wrong.column <= len(wrong.spec)
