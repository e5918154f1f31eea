"""The constructors of the kit have one shape, and take no keyword that they do not know."""

from __future__ import annotations

import inspect

import pytest

import aiollm.media
import aiollm.testing
from aiollm.testing import FakeProvider, FaultServer, Loopback, Recorder, ReplayServer, chat

MADE = {
    FakeProvider: ("hi",),
    FaultServer: (chat("hi"),),
    ReplayServer: ("cassette.json",),
    Recorder: ("http://127.0.0.1:9", "cassette.json"),
}


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_an_unknown_keyword_is_a_type_error(kind):
    for wrong in ({"port": 18123}, {"read_bodys": False}):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(wrong))}'"):
            kind(*MADE[kind], **wrong)


@pytest.mark.parametrize("kind", [FakeProvider, FaultServer, ReplayServer])
def test_scripts_come_one_by_one_and_settings_by_keyword(kind):
    first, *rest = inspect.signature(kind).parameters.values()
    assert first.kind is inspect.Parameter.VAR_POSITIONAL
    named = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    assert {each.kind for each in rest} <= named


def test_every_keyword_of_a_loopback_server_is_documented():
    documented = inspect.getdoc(Loopback)
    for name in inspect.signature(Loopback).parameters:
        assert f"`{name}`:" in documented


def test_the_keywords_of_subclasses_are_those_of_the_base():
    known = set(inspect.signature(Loopback).parameters)
    assert set(aiollm.testing.LoopbackOptions.__annotations__) == known


def test_an_unknown_way_to_connect_is_a_value_error():
    with pytest.raises(
        ValueError, match="on_connect is 'rest': expected one of serve, close, reset, deaf"
    ):
        FaultServer(on_connect="rest")


@pytest.mark.parametrize("module", [aiollm.testing, aiollm.media], ids=lambda each: each.__name__)
def test_dir_lists_what_is_loaded_on_first_use(module):
    assert dir(module) == sorted(module.__all__)
