"""Takes screenshots of TensorBoard over a log folder in headless Chromium, such as the pictures in the README.

Usage: python tools/screenshot.py FOLDER_OF_LOGS OUTPUT_FOLDER [VIEW ...]
"""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

IG = "integrated_gradients"
CURVES = (
    "^fairness/sex/demographic_parity_difference/(value|bound)|^gate/open|^attribution/.*share|^drift/.*/cosine/first/mean"
    "|^utility/balanced_accuracy/bound"
)
SHORTCUT = f"^attribution/{IG}/region|^drift/{IG}/(cosine/previous/mean|alarm$)"


class View(NamedTuple):
    """A view of a log folder: a pattern for curves and pictures (None: the page of all pictures), and sizes."""

    log: str
    names: str | None
    height: int
    width: int | None = None
    actual: bool = False


VIEWS = {
    "tensorboard": View("adult", CURVES, 1140),
    "tensorboard_images": View("adult", None, 1140),
    "fairness": View("adult", "^fairness/sex/(rates|calibration)$|^gate/timeline", 1420, 560),
    "shortcut_curves": View("mnist", SHORTCUT, 730),
    "shortcut_maps": View("mnist", f"^attribution/{IG}/(film|average)", 1060, 440),
    "text": View("text", f"^attribution/{IG}/tokens", 660, 860, actual=True),
    "motion": View("motion", f"^attribution/{IG}/(series|importance)", 660, 560),
}


def free_port() -> int:
    """An unused port on this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def tensorboard(logdir: Path, *options: str) -> Iterator[str]:
    """The address of a real TensorBoard over ``logdir``, once it answers; stopped on exit."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(logdir),
        "--port",
        str(port),
        "--host=127.0.0.1",
    ]
    server = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            with contextlib.suppress(URLError, ConnectionError, TimeoutError):
                if b"[" in urllib.request.urlopen(f"{address}data/runs", timeout=5).read():
                    break
            time.sleep(0.25)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def missing_browser() -> str:
    """Why no browser can be started, or an empty string if one can."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (Debian packages chromium and chromium-driver)" if missing else ""


@contextlib.contextmanager
def browser(width: int = 1500, height: int = 1140) -> Iterator[webdriver.Chrome]:
    """A headless Chromium with a profile of its own."""
    with tempfile.TemporaryDirectory() as profile:
        options = Options()
        quiet = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update"
        for flag in [*quiet.split(), "disable-sync", f"user-data-dir={profile}", f"window-size={width},{height}"]:
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def main() -> None:
    """Save one picture per view."""
    logs, folder, chosen = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(VIEWS)
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        view = VIEWS[name]
        page = "#images" if view.names is None else f"?smoothing=0&tagFilter={quote(view.names)}#timeseries"
        shown = tensorboard(logs / view.log, "--samples_per_plugin", "images=500")
        with shown as address, browser(height=view.height) as driver:
            if view.width is not None:
                driver.get(address)
                setting = f"JSON.stringify({{timeSeriesCardMinWidth: {view.width}}})"
                driver.execute_script(f"localStorage.setItem('_tb_global_settings', {setting})")
            driver.get("about:blank")
            driver.get(address + page)
            time.sleep(10)
            for button in driver.find_elements(By.CSS_SELECTOR, "button.settings-button.checked"):
                button.click()
            for button in driver.find_elements(By.CSS_SELECTOR, "image-card-component button[title*='actual']"):
                if view.actual:
                    button.click()
            time.sleep(2)
            driver.save_screenshot(str(folder / f"{name}.png"))


if __name__ == "__main__":
    main()
