"""Drives a headless Chromium, in which tests look at pages."""

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

# A browser without a network: names are not found, and addresses of other machines are refused.
ARGUMENTS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-default-apps --mute-audio --no-proxy-server "
    "--host-resolver-rules=MAP*~NOTFOUND,EXCLUDElocalhost,EXCLUDE127.0.0.1 --use-fake-device-for-media-stream "
    "--use-fake-ui-for-media-stream --force-color-profile=srgb"
).split()
LOCAL = {"", "localhost", "127.0.0.1"}
PHONE = 390  # pixels


class Browser:
    """Starts the browser; quits it at the end of the `with` block.

    Args:
        folder: for its profile, for downloads and, without the environment variable TEST_ARTEFACTS, for screenshots.

    Attributes:
        driver: selenium's `WebDriver`.
        downloads: folder of what pages download.
    """

    def __init__(self, folder: Path):
        webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (the extra dev)")
        programs = [
            next(filter(None, map(shutil.which, names)), None)
            for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
        ]
        if None in programs:
            pytest.skip("no chromium or no chromedriver (on Debian: apt-get install chromium chromium-driver)")
        options = webdriver.ChromeOptions()
        options.binary_location = programs[0]
        for argument in ARGUMENTS:
            options.add_argument(argument.replace("MAP*~", "MAP * ~").replace("EXCLUDE", " EXCLUDE "))
        options.add_argument(f"--user-data-dir={folder / 'profile'}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        self.folder = Path(os.environ.get("TEST_ARTEFACTS") or folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
        self.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self.driver.quit()

    def command(self, name: str, **arguments) -> dict[str, Any]:
        """Sends a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def open(self, address: str | Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Opens a page in a window of `width` pixels; a narrow one is a telephone's."""
        for kind in ("performance", "browser"):
            self.driver.get_log(kind)  # which forgets what earlier pages did
        self.look(width, height, dark)
        self.driver.get(address.as_uri() if isinstance(address, Path) else address)

    def look(self, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Changes the size of the window, and the system's light or dark setting."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, name: str) -> Path:
        """Writes a picture of the whole page, as far as 4,000 pixels down; returns its path."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000), "scale": 1}
        picture = self.command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path = self.folder / f"{name}.png"
        path.write_bytes(base64.b64decode(picture["data"]))
        return path

    def run(self, script: str, *arguments) -> Any:
        """Returns what a script returns in the page."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def find_all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """Returns the first true value of `condition`; fails with the page's errors if there is none in time."""
        from selenium.common.exceptions import TimeoutException, WebDriverException
        from selenium.webdriver.support.ui import WebDriverWait

        try:
            waiting = WebDriverWait(self.driver, seconds, 0.1, ignored_exceptions=[WebDriverException])
            return waiting.until(lambda _: condition())
        except TimeoutException:
            pytest.fail(f"not in {seconds} s; the page's errors: {self.errors()}; {self.screenshot('not-in-time')}")

    def is_wider_than_window(self) -> bool:
        """Returns whether one must scroll sideways to see the whole page."""
        return self.run("return document.documentElement.scrollWidth > document.documentElement.clientWidth")

    def errors(self) -> list[str]:
        """Returns errors of scripts, of files that are missing and of the content security policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def strangers(self) -> list[str]:
        """Returns the addresses that the page has asked for at other machines, since the last call or `open`."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        addresses = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in addresses if urlsplit(address).hostname and not _is_local(address)]


def _is_local(address: str) -> bool:
    return urlsplit(address).hostname in LOCAL or urlsplit(address).scheme in ("data", "blob", "file")
