"""The documentation site, built once for each worker, and a server that shows it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

import aiollm
from tests.house.conftest import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def public_names() -> set[str]:
    """Return every public name with the module that users import it from: the shortest one."""
    names = {f"aiollm.{name}" for name in aiollm.__all__ if name != "__version__"}
    for topic in load_script("public_api").MODULES[1:]:
        module = importlib.import_module(topic)
        names |= {
            f"{module.__name__}.{name}"
            for name in module.__all__
            if getattr(aiollm, name, None) is not getattr(module, name)
        }
    return names


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site strictly, with a proxy that is not there: a build that downloads fails."""
    home = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(home)],
        cwd=ROOT,
        env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
async def address(site: Path) -> AsyncIterator[str]:
    """Serve the site on this machine; return its URL."""

    async def page(request: web.Request) -> web.FileResponse:
        path = site / request.match_info["path"]
        return web.FileResponse(path / "index.html" if path.is_dir() else path)

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        server = web.TCPSite(runner, "127.0.0.1", 0)
        await server.start()
        yield server.name.rstrip("/").replace(":0", f":{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
