"""Chromium shows the site: search finds, and no page scrolls sideways on a phone.

It is driven over its DevTools socket. Without Chromium these tests are skipped.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.programs import ending_with_us

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-port=0", "--hide-scrollbars"),
)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
DESK = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt-get install chromium)"),
    pytest.mark.timeout(180),
]


class Tab:
    """One tab of the browser: it calls methods of DevTools and waits for events."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await self._until(lambda said: said.get("id") == number)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self._until(lambda said: said.get("method") == "Page.loadEventFired")

    async def run(self, script: str) -> Any:
        said = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        return said["result"]["result"].get("value")

    async def _until(self, is_it: Any) -> dict[str, Any]:
        while True:
            message = await self._socket.receive()
            assert message.type is aiohttp.WSMsgType.TEXT, message
            if is_it(said := json.loads(message.data)):
                assert "error" not in said, said
                return said


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    """Start a browser with a profile of its own; return its tab."""
    browser = await asyncio.create_subprocess_exec(
        *ending_with_us(CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "about:blank"),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        place = ""
        while not place:
            line = (await browser.stderr.readline()).decode()
            assert line, "Chromium ended"
            place = "".join(re.findall(r"ws://([^/]+)/", line))
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{place}/json") as reply:
                tabs = await reply.json(content_type=None)
            url = next(each["webSocketDebuggerUrl"] for each in tabs if each["type"] == "page")
            async with session.ws_connect(url, max_msg_size=0) as socket:
                made = Tab(socket)
                await made.call("Page.enable")
                yield made
                await made.call("Browser.close")
    finally:
        if browser.returncode is None:
            browser.kill()
        await browser.communicate()


FIRST = """new Promise(found => {
    const look = () => {
        const link = document.querySelector(".md-search-result__link");
        const told = document.querySelector(".md-search-result__meta")?.textContent ?? "";
        if (link) found(link.getAttribute("href"));
        else if (/^\\s*No /.test(told)) found("");
        else requestAnimationFrame(look);
    };
    look();
})"""
"""The address of the first page that a search found, "" for none."""


async def test_search_finds_the_guide_to_rate_limits(tab, address) -> None:
    await tab.call("Emulation.setDeviceMetricsOverride", **DESK)
    await tab.open(f"{address}/?q=rate+limit")
    assert "rate-limits/" in await tab.run(FIRST)


async def test_search_finds_a_word_where_it_is_and_no_other(tab, address, site) -> None:
    """Words in the text of one page alone, whichever these are."""
    await tab.call("Emulation.setDeviceMetricsOverride", **DESK)
    pages: dict[str, set[str]] = {}
    for path in site.rglob("index.html"):
        text = re.sub(r"<[^>]+>", " ", path.read_text().partition("<article")[2]).lower()
        for start in {word[:6] for word in re.findall(r"[a-z]{6,}", text)}:
            pages.setdefault(start, set()).add(path.parent.relative_to(site).as_posix())
    for page in ("mcp", "media", "embeddings"):
        start = next(start for start, found in sorted(pages.items()) if found == {page})
        await tab.open(f"{address}/?q={start}")
        assert f"/{page}/" in await tab.run(FIRST), start
    await tab.open(f"{address}/?q=qqzzxx")
    assert await tab.run(FIRST) == ""


async def test_no_page_scrolls_sideways_on_a_phone(tab, address, site) -> None:
    await tab.call("Emulation.setDeviceMetricsOverride", **PHONE)
    await tab.call("Network.enable")
    await tab.call("Network.setBlockedURLs", urls=["*search_index.json"])  # read by every page
    wide = {}
    for page in sorted(site.rglob("index.html")):
        path = page.parent.relative_to(site).as_posix()
        await tab.open(f"{address}/{path}/")
        width = await tab.run("document.scrollingElement.scrollWidth")
        if width > PHONE["width"]:
            wide[path] = width
    assert not wide


async def test_the_reader_s_setting_decides_between_light_and_dark(tab, address) -> None:
    schemes = []
    for wish in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": wish}]
        await tab.call("Emulation.setEmulatedMedia", features=features)
        await tab.open(f"{address}/why/")
        schemes.append(await tab.run("document.body.getAttribute('data-md-color-scheme')"))
    assert schemes == ["default", "slate"]
