"""A real browser without a window, and what a person does with it. Everything waits for what it needs to see."""

import base64
import json
import pathlib
import re
import time

from selenium import webdriver
from selenium.common.exceptions import JavascriptException, NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

PATIENCE = 20
# What the browser itself reports of answers that are no success, which the page shows to the person.
REFUSAL = re.compile(r"Failed to load resource: the server responded with a status of [45]\d\d")


def check(what, condition):
    if not condition:
        raise AssertionError(what)


def eventually(what, condition, patience=PATIENCE):
    end = time.monotonic() + patience
    while True:
        try:
            found = condition()
        except (NoSuchElementException, StaleElementReferenceException, JavascriptException):
            found = None
        if found:
            return found
        check(f"this did not come true in {patience} s: {what}", time.monotonic() < end)
        time.sleep(0.05)


class Browser:
    """One window. `shots` is where pictures go."""

    def __init__(self, shots):
        options = webdriver.ChromeOptions()
        for argument in (
            "--headless=new",
            "--window-size=1280,900",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            # A name that its owner made point at this machine.
            "--host-resolver-rules=MAP rebound.example 127.0.0.1",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # Both by the name that Debian's packages give them, so that nothing is fetched from elsewhere.
        options.binary_location = program("chromium")
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(program("chromedriver")))
        self.driver.set_page_load_timeout(30)
        self.shots = pathlib.Path(shots)
        self.requests = []
        self.complaints = []
        self.desk()

    def close(self):
        self.driver.quit()

    # What it shows

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.find(selector).text

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def shows(self, selector, part, patience=PATIENCE):
        """Waits until a visible element has a text."""
        def is_shown():
            return any(part in element.text for element in self.all(selector) if element.is_displayed())
        try:
            eventually(f"{selector} shows {part!r}", is_shown, patience)
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows {[element.text for element in self.all(selector)]}") from None

    def picture(self, name, whole=False):
        """Keeps what is seen, or the whole page."""
        if whole:
            # A window as high as the page, so that what sticks to an edge of it is where it belongs.
            self.size(height=max(700, self.js("return document.documentElement.scrollHeight")))
        data = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        (self.shots / f"{name}.png").write_bytes(base64.b64decode(data))
        if whole:
            self.size()

    # What a person does

    def open(self, address, view="cluster"):
        self.driver.get("about:blank")
        self.driver.get(f"{address}/#/{view}")

    def go(self, view):
        self.find(f'nav a[href="#/{view}"]').click()
        eventually(f"the view {view} is shown", lambda: self.find(f"#view-{view}").is_displayed())

    def click(self, selector):
        def is_there():
            element = self.find(selector)
            return element if element.is_displayed() and element.is_enabled() else None
        element = eventually(f"{selector} can be pressed", is_there)
        # Not below the bar, where nobody would press it.
        self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def write(self, selector, text):
        element = eventually(f"{selector} is there", lambda: self.find(selector) if self.find(selector).is_displayed() else None)
        element.clear()
        element.send_keys(text)

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, selector, most=60):
        """Goes on with the tab key until the element has the focus; each stop on the way must be seen to have it."""
        for _ in range(most):
            self.press(Keys.TAB)
            focus = self.js(
                "const at = document.activeElement; const style = getComputedStyle(at);"
                "return [at.matches(arguments[0]), at.tagName, at.id,"
                " style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0, at === document.body]",
                selector,
            )
            is_there, tag, name, is_seen, is_nowhere = focus
            check(f"the focus is seen on {tag} {name}", is_seen or is_nowhere)
            if is_there:
                return
        raise AssertionError(f"{most} times the tab key did not lead to {selector}")

    # How it is looked at

    def emulate(self, **features):
        names = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": names})

    def phone(self):
        self.metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        self.size()

    def desk(self):
        self.metrics = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.size()

    def size(self, **other):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**self.metrics, **other})

    # What it did behind that

    def collect(self):
        """Takes what the browser noted since the last time."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append((message["params"]["documentURL"], message["params"]["request"]["url"]))
        for entry in self.driver.get_log("browser"):
            if not REFUSAL.search(entry["message"]):
                self.complaints.append(entry["message"])

    def forget(self):
        """What was noted since the last time is not held against the page."""
        self.driver.get_log("performance")
        self.driver.get_log("browser")


def program(name):
    for folder in ("/usr/bin", "/usr/local/bin", "/snap/bin"):
        path = pathlib.Path(folder) / name
        if path.exists():
            return str(path)
    raise SystemExit(f"page: {name} is not installed (Debian: chromium, chromium-driver)")
