"""A lazy codec is the codec that it names from its first use on."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from aiollm.providers.lazy import (
    LazyCodec,
    LazyCodecs,
    codec_named,
    imported,
    is_imported,
    loader_of,
    module_of,
)
from aiollm.providers.schemes import SCHEMES

NAMES = sorted({name for row in SCHEMES.values() for name in (row.codec, *row.apis.values())})
FAMILIES = {
    name: row.make_codec(api).family
    for row in SCHEMES.values()
    for api, name in (("", row.codec), *row.apis.items())
}


@pytest.mark.parametrize("name", NAMES)
def test_a_codec_is_of_the_family_that_is_known_before_it_is_imported(name):
    assert imported(name).family == FAMILIES[name]


@pytest.mark.parametrize("name", NAMES)
def test_its_first_use_makes_it_the_codec_itself(name):
    codec = LazyCodec(name, FAMILIES[name])
    assert codec.family == FAMILIES[name]
    assert type(codec) is LazyCodec
    codec.decoder()
    assert type(codec) is type(imported(name))
    assert loader_of(codec) is None


def test_what_loads_it_may_be_called_when_another_call_has_loaded_it():
    codec = LazyCodec(NAMES[0], "a")
    load = loader_of(codec)
    codec.decoder()
    load()
    assert type(codec) is type(imported(NAMES[0]))


def test_copying_or_showing_it_loads_nothing():
    codec = LazyCodec("aiollm.no_such_module:Codec", "a")
    assert "LazyCodec" in repr(codec)
    assert not hasattr(codec, "__deepcopy__")
    assert type(codec) is LazyCodec


def test_the_codecs_of_an_operation_are_loaded_once_their_modules_are():
    codecs = LazyCodecs(SCHEMES["openai"].operations["embed"])
    assert len(codecs()) == 2
    assert codecs.is_loaded
    assert loader_of(codecs) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_module_that_another_thread_is_importing_is_not_waited_for(name, monkeypatch):
    imported(name)
    assert type(codec_named(name, "a")) is not LazyCodec
    module = sys.modules[module_of(name)]
    begun = SimpleNamespace(__spec__=SimpleNamespace(_initializing=True))
    monkeypatch.setitem(sys.modules, module.__name__, begun)
    assert not is_imported(module.__name__)
    assert type(codec_named(name, "a")) is LazyCodec
    assert loader_of(LazyCodecs((name,))) is not None
