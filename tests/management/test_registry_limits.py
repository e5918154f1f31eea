"""Limits that code gives a registry's providers and targets."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from aiollm import ConfigError, Limits, Registry, Target
from aiollm.testing import FaultServer, Gate, chat

BOX = "openai+http://box?rpm=60&max_concurrency=2"
M = Target("box", "m")
N = Target("box", "n/o")


@pytest.fixture
def reg() -> Registry:
    return Registry(env={"LLM_BOX": BOX, "LLM_BAD": "openai://", "LLM_FAST": "alias:box/m"})


def test_a_dsn_limits_the_provider(reg) -> None:
    assert reg._catalog.limits_of(M) == (Limits(rpm=60, max_concurrency=2), Limits())


def test_a_provider_and_its_targets_are_limited_in_code(reg) -> None:
    reg.limit("box", Limits(rpm=5))
    reg.limit("box/m", Limits(tpm=100))
    reg.limit(N, Limits(tpm=200))
    own = Limits(rpm=5, max_concurrency=2)
    assert reg._catalog.limits_of(M) == (own, Limits(tpm=100))
    assert reg._catalog.limits_of(N) == (own, Limits(tpm=200))
    assert reg._catalog.limits_of(Target("box", "other")) == (own, Limits())
    assert reg.provider("box").limits_of("m") == (own, Limits(tpm=100))


def test_a_limit_takes_the_place_of_the_one_before(reg) -> None:
    reg.limit("box", Limits(rpm=5, max_concurrency=9))
    reg.limit("box", Limits(tpm=7))
    assert reg._catalog.limits_of(M)[0] == Limits(rpm=60, tpm=7, max_concurrency=2)


def test_a_limit_holds_for_the_next_call_of_a_spec_in_use(reg) -> None:
    before = reg._catalog.resolve("box/m", None)[1][M]
    reg.limit("box", Limits(max_concurrency=7))
    assert before.max_concurrency == 2
    assert reg._catalog.resolve("box/m", None)[1][M].max_concurrency == 7


def test_a_provider_is_registered_with_limits(reg) -> None:
    reg.register("new", "openai+http://new?tpm=100", limits=Limits(rpm=5))
    assert reg._catalog.limits_of(Target("new", "m"))[0] == Limits(rpm=5, tpm=100)
    reg.limit("new/m", Limits(rpm=1))
    reg.register("new", "openai+http://again")
    assert reg._catalog.limits_of(Target("new", "m")) == (Limits(), Limits())


def test_the_limits_of_a_row_hold_where_none_take_their_place(reg) -> None:
    limits = {"*": Limits(rpm=1), "m": Limits(tpm=1)}
    reg.register("row", msgspec.structs.replace(reg.provider("box"), name="row", limits=limits))
    reg.limit("row", Limits(rpm=2))
    own, model = reg._catalog.limits_of(Target("row", "m"))
    assert (own.rpm, model.tpm) == (2, 1)


def test_limits_outlive_what_else_is_registered_and_learned(reg) -> None:
    reg.limit("box", Limits(rpm=5))
    reg.register("other", "openai+http://other")
    reg._catalog.learn(M, {"tools": False})
    row = reg.provider("box")
    assert row.limits_of("m")[0].rpm == 5
    assert row.capabilities("m").tools is False


@pytest.mark.parametrize(
    ("name", "limits", "reason"),
    [
        ("bxo", Limits(rpm=1), "'bxo' is neither a provider's name nor a target"),
        ("bxo/m", Limits(rpm=1), "'bxo/m' is neither a provider's name nor a target"),
        ("fast", Limits(rpm=1), "'fast' is neither a provider's name nor a target"),
        ("box/", Limits(rpm=1), "'box/' is neither a provider's name nor a target"),
        ("/m", Limits(rpm=1), "'/m' is neither a provider's name nor a target"),
        ("", Limits(rpm=1), "'' is neither a provider's name nor a target"),
        (None, Limits(rpm=1), "expected a provider's name or a target, not of type"),
        ("box", None, "the limits of 'box' must be Limits, not of type NoneType"),
        ("box/m", {"rpm": 1}, "the limits of 'box/m' must be Limits, not of type dict"),
    ],
)
def test_what_cannot_be_limited_is_refused(reg, name, limits, reason) -> None:
    with pytest.raises(ConfigError, match=reason):
        reg.limit(name, limits)
    assert reg._catalog.limits_of(M) == (Limits(rpm=60, max_concurrency=2), Limits())


def test_a_provider_is_not_registered_with_what_are_no_limits(reg) -> None:
    with pytest.raises(ConfigError, match="the limits of 'new' must be Limits, not of type int"):
        reg.register("new", "openai+http://new", limits=5)
    assert "new" not in reg.providers()


def test_a_malformed_entry_fails_when_it_is_used_not_when_it_is_limited(reg) -> None:
    reg.limit("bad", Limits(rpm=1))
    with pytest.raises(ConfigError, match="LLM_BAD"):
        reg._catalog.limits_of(Target("bad", "m"))


async def _at_once(dsn: str, limits: Limits, count: int, expected: int) -> None:
    """See how many of `count` calls run at once."""
    gate = Gate()
    async with FaultServer(chat("x", gate)) as server, Registry(env={}) as reg:
        reg.register("a", dsn.format(server.url), limits=limits)
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(reg.generate("a/m", "hi"))
            await gate.reached(expected)
            assert server.counts.requests == expected
            gate.open()


async def test_streams_at_a_time_that_code_gives_win_over_the_dsn() -> None:
    await _at_once("openai+{}/v1?max_concurrency=4", Limits(max_concurrency=1), 3, 1)


@pytest.mark.parametrize("word", ["auto", "off"])
async def test_a_word_for_streams_at_a_time_is_accepted(word) -> None:
    await _at_once("openai+{}/v1?max_concurrency=1", Limits(max_concurrency=word), 2, 2)
