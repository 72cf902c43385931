"""Chromium without a window, driven over the DevTools protocol."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from attrs import frozen

PATIENCE = 20.0
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}


def chromium() -> str | None:
    """Return the path of a chromium, by METERING_TEST_CHROMIUM or on PATH."""
    named = os.environ.get("METERING_TEST_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.asynccontextmanager
async def open_browser(program: str, profile: Path) -> AsyncIterator["Browser"]:
    """Start chromium with a *profile* directory of its own, and end it with all its children."""
    process = await asyncio.create_subprocess_exec(
        program,
        "--headless=new",
        "--no-sandbox",  # of the browser: tests may run as root, and visit only our own page
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-extensions",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = await _address(profile / "DevToolsActivePort", process)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            browser = Browser(socket)
            listening = asyncio.create_task(browser.listen())
            try:
                yield browser
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _address(file: Path, process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(PATIENCE):
        while True:
            lines = file.read_text().split() if file.exists() else []  # noqa: ASYNC240 - tiny
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            if process.returncode is not None:
                raise RuntimeError(f"chromium ended with {process.returncode}")
            await asyncio.sleep(0.05)


class Browser:
    """A running chromium."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._idle: list[_Tab] = []

    async def listen(self) -> None:
        """Sort what comes: answers to whom they are for, events to their page."""
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._waiting.pop(told["id"]).set_result(told)
            elif page := self._pages.get(told.get("sessionId", "")):
                page.heard(told["method"], told["params"])

    async def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        order = {"id": number, "method": method, "params": params}
        await self._socket.send_json(order | ({"sessionId": session} if session else {}))
        async with asyncio.timeout(PATIENCE):
            told: dict[str, Any] = await future
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        result: dict[str, Any] = told["result"]
        return result

    @contextlib.asynccontextmanager
    async def open(
        self, url: str, *, width: int = 1440, height: int = 1000, scheme: str = "light"
    ) -> AsyncIterator["Page"]:
        """
        Lend a page with *url*, in a light or dark *scheme*.

        It stands in a tab that another test gave back, where there is one: a new one costs a second
        of the CPU. Given back, it has forgotten what was kept in it and closed what it opened.
        """
        tab = self._idle.pop() if self._idle else await self._new_tab()
        page = self._pages[tab.session] = Page(self, tab.session)
        await page.size(width, height)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await page.send("Emulation.setEmulatedMedia", features=[feature])
        await page.send("Page.navigate", url=url)
        await page.until("location.href !== 'about:blank' && document.readyState === 'complete'")
        yield page
        await page.run("sessionStorage.clear()")
        await page.send("Page.navigate", url="about:blank")
        await page.until("location.href === 'about:blank' && document.readyState === 'complete'")
        for target in (await self.send("Target.getTargets"))["targetInfos"]:
            if tab.context == target["browserContextId"] and tab.target != target["targetId"]:
                await self.send("Target.closeTarget", targetId=target["targetId"])
        self._idle.append(tab)

    async def _new_tab(self) -> "_Tab":
        context = (await self.send("Target.createBrowserContext"))["browserContextId"]
        target = await self.send("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.send(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility", "DOM"):
            await self.send(f"{domain}.enable", attached["sessionId"])
        return _Tab(context, target["targetId"], attached["sessionId"])


@frozen
class _Tab:
    """A tab in a context of its own, which shares nothing with others."""

    context: str
    target: str
    session: str


class Page:
    """
    A page of the browser.

    Attributes:
        complaints: Errors and warnings of its console, and what it failed to load.
        requested: The addresses that it asked for.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.requested: list[str] = []

    def heard(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                thrown = details.get("exception", {}).get("description", "")
                self.complaints.append(f"{details['text']} {thrown}")
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                entry = params["entry"]
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.send(method, self._session, **params)

    async def run(self, script: str) -> Any:
        """Return the value of an expression in the page, awaited."""
        told = await self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in told:
            raise RuntimeError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait for an expression to be true, and return its value."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not (value := await self.run(script)):  # noqa: ASYNC110 - over a wire
                    await asyncio.sleep(0.05)
        except TimeoutError:
            text = await self.run("document.body.innerText")
            raise AssertionError(f"{script} did not come true; the page shows:\n{text}") from None
        return value

    async def shows(self, text: str, where: str = "body") -> None:
        """Wait until *where*, a selector, shows a *text*."""
        await self.until(
            f"document.querySelector({json.dumps(where)})?.innerText.includes({json.dumps(text)})"
        )

    async def click(self, selector: str) -> None:
        """Click in the middle of an element, as a mouse does."""
        box = await self.until(
            f"""(() => {{ const node = document.querySelector({json.dumps(selector)});
            if (!node) return null;
            node.scrollIntoView({{block: "center", behavior: "instant"}});
            const box = node.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send(
                "Input.dispatchMouseEvent",
                type=kind,
                x=box[0],
                y=box[1],
                button="left",
                clickCount=1,
            )

    async def fill(self, selector: str, text: str) -> None:
        """Type a *text* in place of what a field holds."""
        await self.until(f"document.querySelector({json.dumps(selector)}) !== null")
        await self.run(f"document.querySelector({json.dumps(selector)}).select()")
        await self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.send("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press a key."""
        code = _KEYS[key]
        text = {"Enter": "\r", " ": " "}.get(key)
        common: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        if text:
            common["text"] = text
        await self.send("Input.dispatchKeyEvent", type="keyDown", **common)
        common.pop("text", None)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def size(self, width: int, height: int) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    async def tree(self) -> list[dict[str, Any]]:
        """Return the nodes of the accessibility tree that are not ignored."""
        told = await self.send("Accessibility.getFullAXTree")
        return [node for node in told["nodes"] if not node.get("ignored")]

    async def picture(self, path: Path, *, whole: bool = True) -> None:
        """Save a PNG of what is seen, or of the *whole* page."""
        told = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))  # noqa: ASYNC240 - a test's own file
