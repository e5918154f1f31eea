"""The recipes for clouds, with stand-ins for the packages that they import."""

from __future__ import annotations

import re
import sys
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aiollm import Registry
from aiollm.dsn import Network
from aiollm.testing import chat

PAGES = Path(__file__).parents[2] / "docs" / "recipes"
CLOUDS = ["azure", "vertex", "bedrock"]
BLOCK = re.compile(r"^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RECIPES = [BLOCK.search((PAGES / f"{name}.md").read_text()).group(1) for name in CLOUDS]


class Credential:
    """What azure-identity and google-auth give, as far as the recipes use it."""

    token = ""
    expiry = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)

    def get_token(self, scope: str) -> Any:
        assert scope.endswith("/.default")
        soon = int(datetime.now(UTC).timestamp()) + 600
        return types.SimpleNamespace(token="fresh", expires_on=soon)

    def refresh(self, _request: object) -> None:
        self.token = "fresh"


@pytest.fixture
def packages(monkeypatch):
    def add(name: str, **names: object) -> None:
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)

    for name in ("azure", "google", "google.auth.transport"):
        add(name)
    add("azure.identity", DefaultAzureCredential=Credential)
    add("google.auth", default=lambda scopes: (Credential(), f"project{len(scopes)}"))
    sys.modules["google"].auth = sys.modules["google.auth"]
    add("google.auth.transport.requests", Request=object)


@pytest.mark.parametrize("recipe", RECIPES, ids=CLOUDS)
async def test_a_recipe_reaches_its_host_with_its_token(
    packages, serve, registry, make_proxy, pki, recipe
):
    names: dict[str, Any] = {}
    exec(recipe, names)
    reg: Registry = names["reg"]
    made = [name for name, origin in reg.providers().items() if origin == "code"]
    server = await serve(chat("well"), ssl=pki.context())
    async with make_proxy(server.port) as proxy, reg:
        for name in made:
            provider = reg.provider(name)
            network = Network(verify=False, proxy=f"http://{proxy.place}")
            reg.register(name, provider, network=network)
            if provider.scheme == "openai":
                assert (await reg.generate(f"{name}/m", "hi", retries=0)).text == "well"
            else:
                with pytest.raises(BaseExceptionGroup):
                    await reg.generate(f"{name}/m", "hi", retries=0)
            host = provider.host.encode()
            assert proxy.heads[-1].startswith(b"CONNECT " + host + b":443 ")
            token = server.requests[-1].headers["authorization"]
            assert token == ("Bearer KEY" if "KEY" in recipe else "Bearer fresh")
