"""No repr, pickle or traceback of a setting shows what it holds."""

from __future__ import annotations

import copy
import pickle

import pytest

from aiollm import ConfigError, Network, Registry
from aiollm.dsn import parse_dsn

SECRET = "5ekret"
DSN = f"openai://k@h?header.X-Key={SECRET}&query.sig={SECRET}&proxy=http://u:{SECRET}@p"


def settings() -> list[object]:
    provider = Registry(env={"LLM_A": DSN}).provider("a")
    return [parse_dsn(DSN), provider, provider.query, provider.headers, provider.network]


@pytest.mark.parametrize("number", range(5))
def test_a_setting_shows_no_value_and_is_not_pickled(number):
    setting = settings()[number]
    shown = [repr(setting), str(setting), repr(list(setting.__rich_repr__()))]
    assert SECRET not in "".join(shown)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(setting)
    copies = copy.copy(setting), copy.deepcopy(setting)
    assert all(repr(each) == repr(setting) for each in copies)


def test_a_network_without_a_login_can_be_pickled():
    network = Network(ca="/a.pem", proxy="http://p")
    assert pickle.loads(pickle.dumps(network)) == network


def registered(**settings: object) -> None:
    Registry(env={}).register("a", "openai://h", **settings)


ENV = {"LLM_A": "openai://h", "HTTPS_PROXY": f"socks5://u:{SECRET}@p"}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Registry(env={"LLM_A": DSN.replace("http:", "socks5:")}).provider("a"),
        lambda: Registry(env=ENV, trust_env=True).provider("a"),
        lambda: Registry(env=ENV, trust_env=True).register("b", "openai://h"),
        lambda: Network(proxy=f"socks5://u:{SECRET}@p"),
        lambda: registered(token=f"{SECRET}\n"),
        lambda: registered(headers={"X": f"{SECRET}\n"}),
        lambda: registered(headers={"Host": SECRET}),
        lambda: registered(query={"": SECRET}),
    ],
)
def test_a_mistake_leaves_no_value_in_the_variables_of_its_frames(wrong):
    with pytest.raises(ConfigError) as caught:
        wrong()
    assert SECRET not in str(caught.value)
    trace = caught.value.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals["__name__"].startswith("aiollm"):
            assert SECRET not in repr(trace.tb_frame.f_locals), trace.tb_frame.f_code.co_name
        trace = trace.tb_next
