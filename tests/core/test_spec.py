"""Specs: what they mean, where exactly they are wrong, and what expansion may cost."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm.errors import ConfigError, SpecError
from aiollm.spec import MAX_TARGETS, KnownNames, Plan, Step, parse_spec
from aiollm.types import Target

PROVIDERS = ("m1", "m5", "my-prov", "openai", "openrouter")


def parse(spec: str, providers=PROVIDERS, **aliases: str) -> Plan:
    names = KnownNames(aliases.get, providers.__contains__, lambda: [*providers, *aliases])
    return parse_spec(spec, names)


def steps(plan: Plan) -> list[list[str]]:
    return [[str(target) for target in step.targets] for step in plan.steps]


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
        ("m1/a=b;c#d?e%20", [["m1/a=b;c#d?e%20"]]),
        ("m1/modèle-日本", [["m1/modèle-日本"]]),
        ("m1/a,m1/a", [["m1/a"]]),
        ("m1/a,m5/b,m1/a", [["m1/a"], ["m5/b"]]),
        ("m1/a|m1/a", [["m1/a"]]),
        ("m1/a,m1/a|m5/b", [["m1/a"], ["m5/b"]]),
        ("m1/a|m5/b,m5/b|m1/a", [["m1/a", "m5/b"]]),
        ("m1/a,m1/A", [["m1/a"], ["m1/A"]]),
        ("2\x1c * m1/a", [["m1/a"]]),
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
    ("spec", "expected"),
    [
        ("m1/a&m5/b", "m1/a&m5/b"),
        ("3*m1/a&m5/b", "3*m1/a&m5/b"),
        ("m1/a&1000*m5/b", "m1/a&1000*m5/b"),
        (" 3 * m1/a\t&\nm5/b , m1/c ", "3*m1/a&m5/b,m1/c"),
        ("m1/a|m5/b,m1/c&m5/d", "m1/a|m5/b,m1/c&m5/d"),
        # in lowest terms, and one target has nothing to share the load with
        ("4*m1/a&6*m5/b", "2*m1/a&3*m5/b"),
        ("7*m1/a&7*m5/b", "m1/a&m5/b"),
        ("3*m1/a", "m1/a"),
        ("3*m1/a&m1/a", "m1/a"),
        # repeats
        ("m1/a&m5/b&2*m1/a", "3*m1/a&m5/b"),
        ("m1/a,2*m1/a&5*m5/b", "m1/a,m5/b"),
        ("m1/a,9*m1/a&2*m5/b&4*m5/c", "m1/a,m5/b&2*m5/c"),
        # a weight is at the start of an item, and nothing else is one
        ("m1/3*a&m5/*", "m1/3*a&m5/*"),
        ("2*m1/3*a&m5/b*2", "2*m1/3*a&m5/b*2"),
        ("m1/llama(q4)&m5/b", "m1/llama(q4)&m5/b"),
    ],
)
def test_what_a_spread_means(spec, expected) -> None:
    plan = parse(spec)
    assert str(plan) == expected
    assert parse(expected) == plan


def test_a_spread_keeps_its_weights_beside_its_targets() -> None:
    even, uneven, alone = parse("m1/a&m5/b,3*m1/c&m5/d,5*m1/e").steps
    assert (even.mode, even.weights) == ("spread", ())
    assert (uneven.mode, uneven.weights) == ("spread", (3, 1))
    assert (alone.mode, alone.weights) == ("race", ())


@pytest.mark.parametrize(
    ("spec", "aliases", "expected"),
    [
        ("one&m5/b", {"one": "m1/a"}, "m1/a&m5/b"),
        ("2*one&m5/b", {"one": "m1/a"}, "2*m1/a&m5/b"),
        ("two&m5/c", {"two": "m1/a&m1/b"}, "m1/a&m1/b&m5/c"),
        ("2*two&m5/c", {"two": "m1/a&3*m1/b"}, "2*m1/a&6*m1/b&m5/c"),
        ("3*two", {"two": "m1/a&2*m1/b"}, "m1/a&2*m1/b"),
        ("two,m5/c", {"two": "m1/a&m1/b"}, "m1/a&m1/b,m5/c"),
        ("a&m5/x", {"a": "2*b&m5/y", "b": "5*m1/x&m1/y"}, "10*m1/x&2*m1/y&m5/y&m5/x"),
        ("two&two", {"two": "m1/a&3*m1/b"}, "m1/a&3*m1/b"),
        # an alias means its text: its weights are not in lowest terms before they are joined
        ("one&m5/b", {"one": "3*m1/a"}, "3*m1/a&m5/b"),
        ("two&m5/c", {"two": "2*m1/a&2*m1/b"}, "2*m1/a&2*m1/b&m5/c"),
        ("one|m5/b", {"one": "3*m1/a"}, "m1/a|m5/b"),
        ("one|one|two", {"one": "1000*m1/a", "two": "m1/b"}, "m1/a|m1/b"),
        ("1000*a&1000*m5/c", {"a": "1000*m1/a&m1/b"}, "1000*m1/a&m1/b&m5/c"),
    ],
)
def test_an_alias_in_a_spread_brings_its_items(spec, aliases, expected) -> None:
    plan = parse(spec, **aliases)
    assert str(plan) == expected
    assert parse(expected) == plan


MIXED = (
    "a step uses '|' (a race) or '&' (a spread), not both, even through an alias: "
    "write ',' here to make two steps"
)
WEIGHT = "a weight is an integer from 1 to 1000, as in 3*provider/model"
PARENTHESES = "parentheses are not supported: ',' separates steps, '|' or '&' their items"
TARGET_IS = ": a target is provider/model"
QUICK = "and LLM_QUICK=alias:provider/model would set this alias"
IN_CODE = "in code, `await local.start(registry)` comes first"
AS_IN = ", as in openai+http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("spec", "aliases", "reason", "shown", "column"),
    [
        ("m1/a|m1/b&m1/c", {}, MIXED, "m1/a|m1/b&m1/c", 9),
        ("m1/x, m1/a&m1/b|m1/c&m1/d", {}, MIXED, "m1/x, m1/a&m1/b|m1/c&m1/d", 15),
        ("a", {"a": "m1/a&m1/b|m1/c"}, f"{MIXED} (in alias 'a')", "m1/a&m1/b|m1/c", 9),
        ("(m1/a|m1/b),m1/c", {}, PARENTHESES, "(m1/a|m1/b),m1/c", 0),
        ("m1/c, (m1/a)", {}, PARENTHESES, "m1/c, (m1/a)", 6),
        ("m1/c&a)", {}, PARENTHESES, "m1/c&a)", 6),
        ("2*(m1/a&m1/b)&m1/c", {}, PARENTHESES, "2*(m1/a&m1/b)&m1/c", 2),
        ("0*m1/a&m1/b", {}, WEIGHT, "0*m1/a&m1/b", 0),
        ("m1/b& -1*m1/a", {}, WEIGHT, "m1/b& -1*m1/a", 6),
        ("1.5*m1/a", {}, WEIGHT, "1.5*m1/a", 0),
        ("x*m1/a", {}, WEIGHT, "x*m1/a", 0),
        ("*m1/a", {}, WEIGHT, "*m1/a", 0),
        ("03*m1/a", {}, WEIGHT, "03*m1/a", 0),
        ("1001*m1/a", {}, WEIGHT, "1001*m1/a", 0),
        ("٣*m1/a", {}, WEIGHT, "٣*m1/a", 0),
        ("3 4*m1/a", {}, WEIGHT, "3 4*m1/a", 0),
        ("m1*/a", {}, WEIGHT, "m1*/a", 0),
        ("2* 3*m1/a", {}, "an item can have only one weight", "2* 3*m1/a", 3),
        ("m1/b&3*", {}, "an element is empty", "m1/b&3*", 7),
        ("m1/b&", {}, "an element is empty", "m1/b&", 5),
        ("m1/b&&m1/c", {}, "an element is empty", "m1/b&&m1/c", 5),
        ("m1/a| 2*m1/b", {}, "a race has no weights: '&' shares the load by weight",
         "m1/a| 2*m1/b", 6),
        ("2*m7/b", {}, "unknown provider 'm7': set LLM_M7=scheme://[token@]host" + AS_IN,
         "2*m7/b", 2),
        ("m1/a& 2 * fats", {"fast": "m1/a"}, "unknown alias 'fats'; did you mean 'fast'?",
         "m1/a& 2 * fats", 10),
        ("m1/a&two", {"two": "m1/a,m1/b"}, "alias 'two' has several steps and cannot be spread",
         "m1/a&two", 5),
        ("3*two", {"two": "m1/a,m1/b"}, "alias 'two' has several steps and cannot be spread",
         "3*two", 2),
        ("m1/a&2*two", {"two": "m1/a|m1/b"}, "alias 'two' is a race and cannot be spread",
         "m1/a&2*two", 7),
        ("two |m1/a", {"two": "m1/a&m1/b"}, "alias 'two' is a spread and cannot be raced",
         "two |m1/a", 0),
        ("m5/x, 1000*a&m5/y", {"a": "3*m1/a&m1/b"},
         "the weights of a step come to 3000: at most 1000", "m5/x, 1000*a&m5/y", 6),
        ("1000*m1/a&1000*m1/a&m1/b", {}, "the weights of a step come to 2000: at most 1000",
         "1000*m1/a&1000*m1/a&m1/b", 0),
    ],
)  # fmt: skip
def test_an_error_shows_where_a_spread_is_wrong(spec, aliases, reason, shown, column) -> None:
    test_an_error_shows_where_the_spec_is_wrong(spec, aliases, reason, shown, column)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("gpt-5", "; did you mean 'openai/gpt-5' or 'gpt-x/MODEL'?"),
        ("GPT-5.1-SOL", "; did you mean 'openai/GPT-5.1-SOL'?"),
        ("o4-mini", "; did you mean 'openai/o4-mini'?"),
        ("claude-sonnet-5", "; did you mean 'anthropic/claude-sonnet-5'?"),
        ("gemini-3-pro", "; did you mean 'google/gemini-3-pro'?"),
        ("gpt5", "; did you mean 'gpt-x/MODEL'?"),
        ("openai:gpt-5", "; did you mean 'openai/gpt-5'?"),
        ("openai.gpt-5", "; did you mean 'openai/gpt-5'?"),
        ("openai\\gpt-5", "; did you mean 'openai/gpt-5'?"),
        ("openai:", "; did you mean 'openai/MODEL'?"),
        ("other:x", ": a target is provider/model"),
    ],
)
def test_the_model_of_a_known_family_is_told_its_provider(spec, hint) -> None:
    names = ("openai", "anthropic", "google", "gpt-x")
    with pytest.raises(SpecError) as caught:
        parse(spec, names)
    assert str(caught.value).split("\n")[0] == f"unknown alias {spec!r}{hint}"


@pytest.mark.parametrize(
    ("spec", "aliases"),
    [
        ("openai://sk-secret@host/v1", {}),
        ("m1/a, openai://sk-secret@host", {}),
        ("m7/a|2 * m1://sk-secret@host", {}),
        ("http://host/?key=sk-secret", {}),
        ("openai:/sk-secret@host", {}),
        ("sk-secret@host/v1", {}),
        ("m1/a,box", {"box": "openai://sk-secret@host"}),
    ],
)
def test_an_address_in_place_of_a_spec_is_not_shown(spec, aliases) -> None:
    with pytest.raises(SpecError, match="this is an address, not a spec") as caught:
        parse(spec, **aliases)
    assert "secret" not in f"{caught.value!r}{caught.value.spec}"


def test_a_model_may_look_like_an_address() -> None:
    models = ("s3://bucket/m", "m@q4:8b", "a*b@c")
    assert [str(parse(f"m1/{model}")) for model in models] == [f"m1/{each}" for each in models]


def test_no_provider_is_suggested_that_does_not_exist() -> None:
    with pytest.raises(SpecError) as caught:
        parse("gpt-5", ("m1",))
    assert "did you mean" not in str(caught.value)


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
        ("m1/", {}, "'m1/' has no model", "m1/", 0),
        ("m1/a,/b", {}, "'/b' has no provider", "m1/a,/b", 5),
        ("/", {}, "'/' has no provider", "/", 0),
        ("m1/a, m6/b", {}, "unknown provider 'm6': set LLM_M6=scheme://[token@]host" + AS_IN,
         "m1/a, m6/b", 6),
        ("m1/a, openia/b", {}, "unknown provider 'openia'; did you mean 'openai'? "
         "If not, set LLM_OPENIA=scheme://[token@]host" + AS_IN,
         "m1/a, openia/b", 6),
        ("M1/a", {}, "unknown provider 'M1'; did you mean 'm1'?", "M1/a", 0),
        ("zzzzz/a", {}, "unknown provider 'zzzzz': set LLM_ZZZZZ=scheme://[token@]host" + AS_IN,
         "zzzzz/a", 0),
        ("big-gpu/a", {},
         "unknown provider 'big-gpu': set LLM_BIG_GPU=scheme://[token@]host" + AS_IN,
         "big-gpu/a", 0),
        ("zz_z/a", {}, "unknown provider 'zz_z': set LLM_ZZ_Z=scheme://[token@]host" + AS_IN
         + ", and write 'zz-z'", "zz_z/a", 0),
        ("zz__z/a", {}, "unknown provider 'zz__z'", "zz__z/a", 0),
        ("local/a", {}, f"unknown provider 'local': {IN_CODE}; "
         "or set LLM_LOCAL=scheme://[token@]host" + AS_IN, "local/a", 0),
        ("m1/a,fast/b", {"fast": "m1/a"},
         "'fast' is an alias: write it alone, without a slash", "m1/a,fast/b", 5),
        ("m1/a|fats", {"fast": "m1/a"}, "unknown alias 'fats'; did you mean 'fast'?",
         "m1/a|fats", 5),
        ("FAST", {"Fast": "m1/a"}, "unknown alias 'FAST'; did you mean 'Fast'?", "FAST", 0),
        ("m1", {}, "unknown alias 'm1': a target is provider/model, for example m1/some-model",
         "m1", 0),
        ("qwen3:30b", {}, f"unknown alias 'qwen3:30b'{TARGET_IS}", "qwen3:30b", 0),
        ("quick", {}, f"unknown alias 'quick'{TARGET_IS}, {QUICK}", "quick", 0),
        ("a", {"a": "a"}, "alias cycle: a -> a (in alias 'a')", "a", 0),
        ("m1/x,a", {"a": "m1/y, b", "b": "c", "c": "m1/z|a"},
         "alias cycle: a -> b -> c -> a (in alias 'c')", "m1/z|a", 5),
        ("x", {"x": "a", "a": "b", "b": "a"}, "alias cycle: a -> b -> a (in alias 'b')", "a", 0),
        ("m1/a, two |m1/b", {"two": "m1/a,m1/b"},
         "alias 'two' has several steps and cannot be raced", "m1/a, two |m1/b", 6),
        ("m1/a|two", {"two": "m1/a,m1/b"}, "alias 'two' has several steps and cannot be raced",
         "m1/a|two", 5),
        ("m5/x,a", {"a": "m1/y,  n9/z"},
         "unknown provider 'n9': set LLM_N9=scheme://[token@]host" + AS_IN + " (in alias 'a')",
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


@pytest.mark.parametrize("separator", [",", "|", "&", "&2*"])
def test_an_alias_bomb_is_stopped_while_it_expands(separator) -> None:
    """2^60 targets: the parser looks up little more than it may keep."""
    aliases = {f"a{n}": f"a{n + 1}{separator}a{n + 1}" for n in range(60)} | {"a60": "m1/x"}
    looked_up = []

    def alias(name: str) -> str | None:
        looked_up.append(name)
        return aliases.get(name)

    with pytest.raises(SpecError, match="more than 64 targets"):
        parse_spec("a0", KnownNames(alias, PROVIDERS.__contains__, list))
    assert len(looked_up) < 60 + 3 * MAX_TARGETS


def test_aliases_nest_64_deep_at_most() -> None:
    aliases = {f"a{n}": f"a{n + 1}" for n in range(63)} | {"a63": "m1/x"}
    assert steps(parse("a0", **aliases)) == [["m1/x"]]
    with pytest.raises(SpecError, match="more than 64 nested aliases"):
        parse("b", b="a0", **aliases)


def test_names_are_listed_only_for_an_error() -> None:
    def listed() -> list[str]:
        raise AssertionError

    names = KnownNames({"a": "m1/x"}.get, PROVIDERS.__contains__, listed)
    assert steps(parse_spec("a,m1/y", names)) == [["m1/x"], ["m1/y"]]


A, B, C = Target("m1", "a"), Target("m5", "b/c:d@e"), Target("m1", "f")


class TestPlan:
    PLAN = Plan(((A, B), (C,)))

    def test_prints_as_a_spec(self) -> None:
        assert str(self.PLAN) == "m1/a|m5/b/c:d@e,m1/f"
        assert parse(str(self.PLAN)) == self.PLAN

    def test_lists_its_targets(self) -> None:
        assert self.PLAN.targets == (A, B, C)

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            self.PLAN.steps = ()  # type: ignore[misc]
        assert hash(self.PLAN) == hash(parse(str(self.PLAN)))

    def test_takes_bare_targets_as_a_race(self) -> None:
        assert self.PLAN.steps == (Step((A, B)), Step((C,)))
        assert Plan([[A, B], [C]]) == self.PLAN
        assert Plan([Step([A, B]), (C,)]) == self.PLAN
        assert self.PLAN.steps[0].mode == "race"

    @pytest.mark.parametrize(
        ("steps", "reason"),
        [
            ("m1/a", "a plan is a tuple of steps, not of type str"),
            (A, "a plan is a tuple of steps, not of type Target"),
            ((A, B), "a step is a tuple of targets, not of type Target"),
            (("m1/a",), "a step is a tuple of targets, not of type str"),
            ((("m1/a",),), "a step is made of targets, not of type str"),
            (((A, None),), "a step is made of targets, not of type NoneType"),
        ],
    )
    def test_says_what_it_is_made_of(self, steps, reason) -> None:
        with pytest.raises(SpecError) as caught:
            Plan(steps)
        assert str(caught.value) == reason


class TestStep:
    def test_keeps_weights_in_lowest_terms(self) -> None:
        step = Step([A, B], "spread", [4, 6])
        assert (step.targets, step.weights) == ((A, B), (2, 3))
        assert str(Plan((step, (C,)))) == "2*m1/a&3*m5/b/c:d@e,m1/f"
        assert Step((A, B), "spread", (5, 5)) == Step((A, B), "spread")

    def test_of_one_target_is_a_race(self) -> None:
        assert Step((A,), "spread", (3,)) == Step((A,))

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (((A, B), "sum"), "a step's mode is 'race' or 'spread', not 'sum'"),
            (((A, B), "race", (1, 2)), "only a spread has weights, one for each of its targets"),
            (((A, B), "spread", (2,)), "only a spread has weights, one for each of its targets"),
            (((A, B), "spread", (1, 0)), "a weight is an integer, 1 or more, not 0"),
            (((A, B), "spread", (1, 1.5)), "a weight is an integer, 1 or more, not 1.5"),
            (((A, B), "spread", (True, 2)), "a weight is an integer, 1 or more, not True"),
            (((A, B), "spread", (1, 1001)),
             "a weight is at most 1000, in lowest terms, not 1001"),
        ],
    )  # fmt: skip
    def test_says_what_is_wrong(self, arguments, reason) -> None:
        with pytest.raises(SpecError) as caught:
            Step(*arguments)
        assert str(caught.value) == reason


MODEL = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters=",|&"), min_size=1
).filter(str.isprintable)
TARGET = st.builds("{}/{}".format, st.sampled_from(PROVIDERS), MODEL)
SPACE = st.sampled_from(["", "", " ", "\t", "\n "])
WEIGHTS = st.sampled_from(["", "", "1*", "2 *", "3*", "40* "])


@st.composite
def spaced(draw: st.DrawFn, items: st.SearchStrategy[str], operators: str = "|&") -> str:
    """Return some steps of some items, with white space that means nothing."""
    count = st.integers(1, 3)
    steps = []
    for _ in range(draw(count)):
        operator = draw(st.sampled_from(operators))
        weights = WEIGHTS if operator == "&" else st.just("")
        steps.append(
            operator.join(
                draw(SPACE) + draw(weights) + draw(items) + draw(SPACE) for _ in range(draw(count))
            )
        )
    return ",".join(steps)


@given(spec=spaced(TARGET))
def test_a_plan_prints_back_as_a_spec_that_means_the_same(spec) -> None:
    plan = parse(spec)
    assert parse(str(plan)) == plan
    assert len(set(plan.targets)) == len(plan.targets)
    for step in plan.steps:
        assert step.targets
        assert len(step.weights) in (0, len(step.targets))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Return a plan made in code, in which no target occurs twice."""
    targets = iter(draw(st.lists(TARGET, min_size=1, max_size=9, unique=True)))
    steps = []
    for text in targets:
        found = [text, *islice(targets, draw(st.integers(0, 3)))]
        split = tuple(Target(*each.split("/", 1)) for each in found)
        weight = st.lists(st.integers(1, 1000), min_size=len(split), max_size=len(split))
        weights = draw(st.none() | st.just(()) | weight.map(tuple))
        steps.append(Step(split) if weights is None else Step(split, "spread", weights))
    return Plan(tuple(steps))


@given(plan=plans())
def test_a_plan_made_in_code_prints_as_its_spec(plan) -> None:
    assert parse(str(plan)) == plan


@given(
    spec=spaced(TARGET | st.sampled_from(["one", "two", "race"]), "|"),
    one=TARGET,
    two=spaced(TARGET | st.just("one"), "|"),
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


WEIGHTED = st.lists(st.tuples(st.integers(1, 9), TARGET), min_size=2, max_size=4)


@given(
    items=st.lists(st.tuples(st.integers(1, 9), TARGET | st.just("load")), min_size=2, max_size=4),
    load=WEIGHTED,
)
def test_the_weight_of_an_alias_multiplies_those_of_its_items(items, load) -> None:
    expected: dict[str, int] = {}
    for outer, item in items:
        for inner, target in load if item == "load" else [(1, item)]:
            expected[target] = expected.get(target, 0) + outer * inner
    spec, alias = ("&".join(f"{n}*{item}" for n, item in each) for each in (items, load))
    plan = parse(spec, load=alias)
    assert plan == parse("&".join(f"{n}*{target}" for target, n in expected.items()))
    assert list(map(str, plan.targets)) == list(expected)


@given(spec=st.text(st.sampled_from("ab1/,|&*23 \t:@m()")))
def test_any_text_is_a_plan_or_a_spec_error(spec) -> None:
    try:
        plan = parse(spec, a="m1/a", b="m5/b&3*a")
    except SpecError as error:
        wrong = error
    else:
        assert plan.targets
        assert parse(str(plan)) == plan
        return
    assert 0 <= wrong.column <= len(wrong.spec)
