"""What people do with the page, tried in a real browser. Called by terminal.sh with the binary, a directory for files,
one for pictures, and the process id of the third member. Ends with 0 if all of it works.
"""

import functools
import http.server
import os
import signal
import subprocess
import sys
import threading
import time

from browser import PATIENCE, Browser, check, eventually
from cluster import ONE, THREE, TWO, Newcomer, ask, change, members, read, setting, value
from selenium.webdriver.common.keys import Keys

KITH, WORK, SHOTS, THIRD = sys.argv[1:5]
VIEWS = ("cluster", "partitions", "convergence", "keys", "settings", "events")


def told(browser, part):
    """What came of something is said where screen readers hear it."""
    browser.shows("#result[aria-live=polite]", part)


def overview(browser):
    browser.open(ONE)
    eventually("three members are ready", lambda: [e.text for e in browser.all("#members .state")] == ["ready"] * 3)
    names = [element.text for element in browser.all("#members tr th a")]
    check(f"all are listed: {names}", names == ["member1", "member2", "member3"])
    link = browser.find("#members tr:nth-child(2) th a").get_attribute("href")
    check(f"another member's page is linked: {link}", link == f"{TWO}/")
    versions = {element.text for element in browser.all("#members tr td:nth-child(3)")}
    check(f"versions are shown: {versions}", versions == {read(ONE, "/v1/status")["version"]})
    check("clocks are shown", all(" ms" in element.text for element in browser.all("#members tr td:nth-child(4)")))
    browser.shows("#readouts", "3 of 3")
    browser.shows("#latest", "member2")
    browser.go("events")
    browser.shows("#events", "started here")
    browser.shows("#events", "member3 is alive")
    browser.go("cluster")
    check("nothing needs attention", not browser.find("#notes").is_displayed())
    line = lambda: browser.find(".plot path.line.line-0").get_attribute("d")
    eventually("a plot has a line", lambda: "L" in line())
    before = line()
    eventually("the plot moves", lambda: line() != before)
    check("one page has a title of its own", browser.driver.title == "Cluster · member1 · kith")
    for number in range(60):
        ask("PUT", ONE, f"/v1/kv/default/load-{number}", b"x" * 200)
        ask("GET", ONE, f"/v1/kv/default/load-{number}")
    eventually("operations are plotted", lambda: "0/s" != browser.text(".plot dd"))

    def numbers():
        ask("PUT", ONE, "/v1/kv/default/load-0", b"x")
        shown = {plot.find_element("css selector", "figcaption").text: [dd.text for dd in plot.find_elements("css selector", "dd")]
                 for plot in browser.all(".plot")}
        return len(shown) == 6 and all(any(map(str.isdigit, text)) for texts in shown.values() for text in texts)

    eventually("each plot shows numbers", numbers)
    browser.picture("cluster")
    browser.click("#add-button")
    browser.shows("#add-file", 'seeds = ["127.0.0.1:7400"')
    browser.picture("add-a-member")
    browser.click("#add-dialog .cancel")


def keys_and_values(browser):
    browser.go("keys")
    browser.click("#new-key")
    browser.write("#record-key", "greeting")
    browser.write("#record-value", "hello")
    browser.click("#record-save")
    told(browser, "greeting is stored, durable on")
    check("another member has it", value(TWO, "greeting") == b"hello")

    # Names from outside are text, whatever they look like.
    hostile = "<img src=x onerror=document.title='taken'>"
    for key in (hostile, "a\u202eb", "greeting/2", "greeting 2%"):
        ask("PUT", ONE, f"/v1/kv/default/{quoted(key)}", b"1")
    ask("PUT", ONE, "/v1/kv/default/%FF%00x", b"\x00\xfe bytes")
    ask("PUT", ONE, "/v1/kv/default/short?ttl=90s", b"lived")
    browser.write("#browse-prefix", "greet")
    browser.click("#browse-form button[type=submit]")
    browser.shows("#title-listing", "3 keys in default that begin with greet")
    listed = [element.text for element in browser.all("#listing .key")]
    check(f"in order: {listed}", listed == ["greeting", "greeting 2%", "greeting/2"])
    browser.click("#listing tr:first-child .key")
    browser.shows("#title-record", "greeting")
    check("it is read", browser.find("#record-value").get_property("value") == "hello")
    check("it lasts, and will", browser.find("#record-ttl").get_property("value") == "none")
    browser.picture("keys")

    # Somebody else changes it meanwhile: nothing is lost unseen.
    ask("PUT", TWO, "/v1/kv/default/greeting", b"from elsewhere")
    browser.write("#record-value", "hello again")
    browser.click("#record-save")
    browser.shows("#record-error", "somebody changed it meanwhile")
    check("nothing was changed", value(ONE, "greeting") == b"from elsewhere")
    browser.click("#record-unchanged")
    browser.click("#record-save")
    told(browser, "greeting is stored")
    check("it is replaced", value(TWO, "greeting") == b"hello again")
    browser.write("#record-ttl", "soon")
    browser.click("#record-save")
    browser.shows("#record-error", "length of time")

    browser.click("#record-delete")
    browser.shows("#delete-what", "greeting in the collection default")
    browser.click("#delete-dialog .cancel")
    check("asking deletes nothing", value(ONE, "greeting") == b"hello again")
    browser.click("#record-delete")
    browser.click("#delete-dialog button.danger")
    told(browser, "greeting is deleted")
    check("it is gone", value(TWO, "greeting") is None)

    browser.write("#browse-prefix", "")
    browser.click("#browse-form button[type=submit]")
    browser.shows("#title-listing", "and others")
    check("a name is no markup", not browser.all("#listing img") and "taken" not in browser.driver.title)
    browser.shows("#listing .key", "<img src=x")
    browser.shows("#listing .key", "a\\u{202e}b")
    browser.click("#next-page")
    browser.shows("#title-listing", "more in default")
    last = lambda: browser.all("#listing .key")[-1]
    eventually("bytes that are no text come last", lambda: last().text == "\\xff\\x00x")
    last().click()
    browser.shows("#record-about", "hexadecimal")
    check("its bytes are shown", "00 fe 20 62 79" in browser.find("#record-value").get_property("value"))
    check("its name is escaped", browser.find("#record-key").get_property("value") == "%FF%00x")
    browser.click("#record-delete")
    browser.click("#delete-dialog button.danger")
    told(browser, "\\xff\\x00x is deleted")
    check("it is gone by its bytes", ask("GET", ONE, "/v1/kv/default/%FF%00x")[0] == 404)

    # What others count on meanwhile is not replaced by a number that was read before.
    ask("POST", ONE, "/v1/kv/tallies/visits?increment=41")
    browser.find("#browse-prefix").click()
    browser.click("#browse-collection")
    offered = lambda: [option.get_attribute("value") for option in browser.all("#collections option")]
    eventually("collections are offered", lambda: {"default", "tallies"} <= set(offered()))
    browser.write("#browse-collection", "tallies")
    browser.click("#browse-form button[type=submit]")
    browser.shows("#title-listing", "1 key in tallies")
    browser.click("#listing .key")
    browser.shows("#record-about", "a counter")
    check("its number is shown", browser.find("#record-value").get_property("value") == "41")
    check("it can't be saved", not browser.find("#record-save").is_enabled())
    check("nor written over", browser.find("#record-value").get_property("readOnly"))
    browser.write("#browse-collection", "default")
    browser.click("#browse-form button[type=submit]")
    browser.shows("#title-listing", "in default")

    # A path can't name these.
    for name in (".", ".."):
        browser.click("#new-key")
        browser.write("#record-key", name)
        browser.write("#record-value", f"under {name}")
        browser.click("#record-save")
        told(browser, f"{name} is stored")
    entries = read(ONE, "/v1/kv/default?prefix=.")["entries"]
    check(f"they are stored: {entries}", [e["value"] for e in entries] == ["under .", "under .."])


def quoted(key):
    return "".join(f"%{byte:02X}" for byte in key.encode())


def with_keys_alone(browser):
    browser.open(ONE)
    browser.shows("#members .state", "ready")
    browser.press(Keys.TAB)
    browser.shows("a.skip", "Skip to the content")
    browser.tab_to('nav a[href="#/keys"]')
    browser.press(Keys.ENTER)
    eventually("the view has the focus", lambda: browser.js("return document.activeElement.id") == "title-keys")
    browser.tab_to("#new-key")
    browser.press(Keys.ENTER)
    eventually("the key is asked for", lambda: browser.js("return document.activeElement.id") == "record-key")
    browser.press("by-keyboard", Keys.TAB)
    browser.tab_to("#record-value")
    browser.press("typed")
    browser.tab_to("#record-save")
    browser.picture("keyboard")
    browser.press(Keys.ENTER)
    told(browser, "by-keyboard is stored")
    check("it is stored", value(TWO, "by-keyboard") == b"typed")
    browser.tab_to("#record-delete")
    browser.press(Keys.SPACE)
    browser.shows("#delete-what", "by-keyboard")
    browser.press(Keys.ESCAPE)
    eventually("escape leaves the dialog", lambda: not browser.find("#delete-dialog").is_displayed())
    check("and deletes nothing", value(ONE, "by-keyboard") == b"typed")
    focus = browser.js("return document.activeElement.id")
    check(f"the focus is where it was: {focus}", focus == "record-delete")


def settings(browser):
    browser.go("settings")
    before = setting(ONE, "write_timeout")
    check("another value is tried than the one in force", before != "3s")
    check("nothing to show yet", not browser.find("#settings-difference").is_enabled())
    check("what follows by itself can't be edited", browser.find("#setting-replication_factor_in_force").get_property("readOnly"))
    browser.write("#setting-write_timeout", "3s")
    browser.click("#settings-difference")
    browser.shows("#difference", "write_timeout")
    browser.shows("#difference del", before)
    browser.shows("#difference ins", "3s")
    check("one setting differs", len(browser.all("#difference tr")) == 1)
    browser.picture("settings-difference")
    browser.click("#difference-dialog .cancel")
    check("showing changes nothing", setting(ONE, "write_timeout") == before)
    browser.picture("settings")
    browser.click("#settings-difference")
    browser.click("#difference-form button[type=submit]")
    told(browser, "1 setting is changed")
    eventually("another member has it", lambda: setting(TWO, "write_timeout") == "3s")
    check("it is in force here", browser.find("#setting-write_timeout").get_property("value") == "3s")

    browser.write("#setting-gossip_interval", "1h")
    browser.write("#setting-write_timeout", "2s")
    browser.click("#settings-difference")
    browser.click("#difference-form button[type=submit]")
    browser.shows("#difference-error", "gossip_interval")
    browser.picture("settings-refused")
    browser.click("#difference-dialog .cancel")
    browser.shows("#settings-error", "gossip_interval")
    check("nothing of it was changed", setting(ONE, "write_timeout") == "3s")
    browser.click("#settings-reset")
    check("edits are discarded", browser.find("#setting-gossip_interval").get_property("value") == setting(ONE, "gossip_interval"))
    browser.go("events")
    browser.shows("#events", f"the setting write_timeout is 3s; it was {before}")


def versions(browser):
    """What was changed is listed; it is taken back with keys alone, and not if it is something else by then."""
    rows = lambda: [element.text for element in browser.all("#versions > li")]
    first = lambda part: part in rows()[0]
    browser.go("settings")
    before = read(ONE, "/v1/settings/history")["versions"]
    eventually("all versions are listed", lambda: len(rows()) == len(before) == 2)
    check(f"the last is in force: {rows()}", "in force" in rows()[0] and before[0]["version"] in rows()[0])
    check(f"what it changed is told: {rows()}", "write_timeout 1s → 3s" in rows()[0] and "member1 was asked" in rows()[0])
    check(f"how all began is told: {rows()}", "created" in rows()[1])

    change(TWO, {"settings": {"write_timeout": "7s"}, "collections": {"shop": {"default_ttl": "1h"}}})
    eventually("what others change is listed", lambda: len(rows()) == 3 and first("shop: default_ttl not set → 1h"))
    check(f"it can be taken back: {rows()}", "Take back…" in rows()[0] and "Back to this…" in rows()[1])
    browser.js("document.getElementById('title-settings').focus()")
    browser.tab_to("#versions li:first-child button")
    browser.picture("versions")
    browser.press(Keys.ENTER)
    browser.shows("#difference-about", before[0]["version"])
    differences = lambda: sorted(element.text for element in browser.all("#difference tr"))
    check(f"it is shown first: {differences()}", differences() == ["shop: default_ttl 1h not set", "write_timeout 7s 3s"])
    browser.picture("versions-difference")
    browser.press(Keys.ESCAPE)
    eventually("escape leaves the dialog", lambda: not browser.find("#difference-dialog").is_displayed())
    check("showing changes nothing", setting(ONE, "write_timeout") == "7s")
    check("the focus is where it was", browser.js("return document.activeElement.matches('#versions li:first-child button')"))

    browser.press(Keys.ENTER)
    browser.shows("#difference del", "7s")
    change(TWO, {"settings": {"write_timeout": "8s"}})
    eventually("the asked member knows", lambda: setting(ONE, "write_timeout") == "8s")
    browser.click("#difference-form button[type=submit]")
    browser.shows("#difference-error", "changed the settings meanwhile")
    browser.shows("#difference del", "8s")
    check("nothing was changed that was not shown", setting(ONE, "write_timeout") == "8s")
    browser.picture("versions-changed-meanwhile")
    browser.press(Keys.ENTER)
    told(browser, f"back at the version {before[0]['version']}")
    eventually("another member has it", lambda: setting(TWO, "write_timeout") == "3s")
    check("all of it is back", read(ONE, "/v1/settings")["collections"] == [])
    eventually("it is a version too", lambda: len(rows()) == 5 and first(f"back to {before[0]['version']}"))
    check("the form has what is in force", browser.find("#setting-write_timeout").get_property("value") == "3s")


def a_way_back_is_refused(browser):
    """Two members can't hold three copies."""
    change(TWO, {"settings": {"replication_factor": "2"}})
    browser.go("settings")
    browser.shows("#versions li:first-child", "replication_factor 3 → 2")
    browser.click("#versions li:first-child button")
    browser.shows("#versions-error", "the cluster has 2 members")
    check("nothing is asked", not browser.find("#difference-dialog").is_displayed())
    check("nothing was changed", setting(ONE, "replication_factor") == "2")
    browser.picture("versions-refused")
    browser.go("cluster")


def placement(browser):
    browser.go("partitions")
    browser.shows("#partitions-summary", "256 partitions; each has 3 live owners")
    check("each member has a strip", len(browser.all("#strips .strip")) == 3)
    browser.write("#owners-key", "by-keyboard")
    browser.click("#owners-form button[type=submit]")
    browser.shows("#owners-answer", "by-keyboard lies in partition")
    row = read(ONE, "/v1/cluster/placement?key=by-keyboard")["rows"][0]
    browser.shows("#owners-answer", f"partition {row['partition']}: {row['home']} (home)")
    browser.click("#partition-details summary")
    eventually("all are listed", lambda: len(browser.all("#partition-rows tr")) == 256)
    browser.js("window.scrollTo(0, 0)")
    browser.picture("partitions")
    browser.go("convergence")
    browser.shows("#verdict", "all hold the same")
    check("both others are compared with", len(browser.all("#peers tr")) == 2)
    browser.picture("convergence")


def a_member_comes_and_goes(browser, newcomer):
    newcomer.start()
    browser.open(newcomer.address)
    browser.shows("#member-state", "no cluster")
    browser.write("#join-address", "127.0.0.1:1")
    browser.press(Keys.ENTER)
    browser.shows("#join-error", "127.0.0.1:1")
    browser.picture("join-refused")
    browser.write("#join-address", "127.0.0.1:7400")
    browser.picture("join")
    browser.click("#join-form button")
    eventually("four are ready", lambda: [e.text for e in browser.all("#members .state")] == ["ready"] * 4, 60)
    check("the others have it", members(TWO)["member4"]["standing"] == "active")
    check("it may not join twice", not browser.find("#joining").is_displayed())
    browser.picture("joined")

    # One that lives is not removed by mistake.
    browser.open(ONE)
    browser.click('button[aria-label="Remove member4"]')
    browser.shows("#remove-what", "not known to be dead")
    browser.driver.set_network_conditions(offline=False, latency=1500, throughput=10 << 20)
    browser.click("#remove-dialog button.danger")
    browser.press(Keys.ESCAPE)
    check("what is under way is not left", browser.find("#remove-dialog").is_displayed())
    check("nor by its button", not browser.find("#remove-dialog .cancel").is_enabled())
    browser.shows("#remove-error", "member4")
    browser.driver.delete_network_conditions()
    browser.picture("remove-refused")
    browser.click("#remove-dialog .cancel")
    check("it is still there", members(TWO)["member4"]["standing"] == "active")

    browser.open(newcomer.address)
    browser.click('button[aria-label="Leave the cluster with member4"]')
    browser.shows("#leave-what", "member4 hands what it holds")
    browser.picture("leave")
    browser.click("#leave-dialog button.danger")
    told(browser, "member4 leaves")
    eventually("it left", lambda: browser.text("#member-state") == "left", 60)
    eventually("the others know", lambda: "member4" not in members(TWO))
    browser.shows("#notes", "left")
    browser.picture("left")
    browser.collect()
    newcomer.stop()
    browser.shows("#answering", "no answer since", 30)
    browser.shows("#notes", "does not answer since")
    browser.picture("silent")
    browser.open(ONE, "events")
    for part in ("member4 was let in", "member4 is active", "member4 leaves", "member4 left"):
        browser.shows("#events", part)
    browser.picture("events")
    # Nobody was there to answer.
    browser.forget()


def a_dead_member_is_removed(browser):
    browser.go("cluster")
    os.kill(int(THIRD), signal.SIGKILL)
    state = lambda: browser.text("#members tr:nth-child(3) .state")
    eventually("it is seen to be dead", lambda: state() == "dead", 30)
    browser.shows("#latest", "member3 is dead")
    browser.picture("dead")
    browser.go("partitions")
    browser.shows("#strips", "dead, 256 owned")
    browser.picture("partitions-dead")
    browser.go("cluster")
    browser.click('button[aria-label="Remove member3"]')
    browser.shows("#remove-what", "member3 is dead")
    browser.picture("remove")
    browser.click("#remove-dialog button.danger")
    told(browser, "member3 is removed")
    eventually("two are left", lambda: len(browser.all("#members tr")) == 2)
    check("the other one knows", "member3" not in members(TWO))
    browser.shows("#latest", "member3 is out of the cluster")


class Stranger(http.server.BaseHTTPRequestHandler):
    """A page of somebody else, which sends here what a browser lets it send."""

    PAGE = """<!doctype html><title>strange</title><p id=done></p><script>
      const sent = (path, options) => fetch(TARGET + path, {mode: 'no-cors', ...options}).catch(() => {});
      const drawn = (path) => new Promise((end) => {
        const image = new Image(); image.onload = image.onerror = end; image.src = TARGET + path; });
      Promise.all([
        sent('/v1/kv/default/forged?increment=1', {method: 'POST'}),
        sent('/v1/batch', {method: 'POST', body: '{"key": "forged", "value": "x"}'}),
        sent('/v1/kv/default/forged', {method: 'PUT', body: 'x', mode: 'cors'}),
        drawn('/v1/kv/default/by-keyboard'),
      ]).then(() => { document.getElementById('done').textContent = 'sent'; });
    </script>"""

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(self.PAGE.replace("TARGET", f"'{ONE}'").encode())

    def log_message(self, *_):
        pass


def strangers_are_refused(browser):
    browser.collect()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        # Of another site, and of another port of this very machine.
        for host in ("localhost", "127.0.0.1"):
            browser.driver.get(f"http://{host}:{server.server_port}/")
            browser.shows("#done", "sent")
    finally:
        server.shutdown()
    check("nothing was forged", value(ONE, "forged") is None)
    on_keys, in_batches = refused("/v1/kv/{collection}/{key}"), refused("/v1/batch")
    check(f"all of it came here, and was refused: {on_keys}, {in_batches}", on_keys >= 6 and in_batches >= 2)
    # A name that somebody made point here: the page comes, and is told nothing.
    browser.open("http://rebound.example:7401")
    browser.shows("#notes", "not come from another site's page")
    check("nothing is shown", not browser.all("#members tr"))
    browser.picture("rebound")
    browser.forget()


def refused(route):
    """How many requests of a route the first member has refused."""
    series = f'kith_http_requests_total{{route="{route}",code="403"}} '
    lines = ask("GET", ONE, "/metrics")[1].decode().splitlines()
    return sum(int(line.removeprefix(series)) for line in lines if line.startswith(series))


def kith(*arguments, token=None):
    environment = {**os.environ, **({"KITH_TOKEN": token} if token else {})}
    done = subprocess.run([KITH, *arguments, "--address", "127.0.0.1:7401"], env=environment, capture_output=True, text=True, timeout=30)
    check(f"kith {arguments}: {done.stderr}", done.returncode == 0)
    return done.stdout.strip()


def tokens(browser):
    browser.open(ONE)
    browser.shows("#members .state", "ready")
    admin = kith("token", "create", "admin", "--role", "admin")
    reader = kith("token", "create", "reader", "--role", "read", token=admin)
    browser.shows("#token-why", "show one")
    browser.picture("token")
    kept = lambda: browser.js("return [Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
    for wrong in ("kith_admin_0000", "nonsense ü"):
        browser.write("#token-text", wrong)
        browser.press(Keys.ENTER)
        browser.shows("#token-error", "no token")
        check(f"a wrong token is not kept: {kept()}", kept() == [[], [], ""])
    browser.picture("token-refused")
    browser.click("#token-cancel")
    browser.shows("#notes", "until there is a token")
    # Who has no token changes nothing, though the page still shows its forms.
    browser.go("keys")
    browser.click("#new-key")
    browser.write("#record-key", "untold")
    browser.write("#record-value", "x")
    browser.click("#record-save")
    browser.shows("#token-why", "show one")
    check("nothing was changed", value(ONE, "untold", token=admin) is None)

    browser.write("#token-text", reader)
    browser.press(Keys.ENTER)
    told(browser, "The token is in use")
    browser.click("#record-save")
    browser.shows("#record-error", "role `write`")
    browser.go("settings")
    browser.write("#setting-write_timeout", "4s")
    browser.click("#settings-difference")
    browser.click("#difference-form button[type=submit]")
    browser.shows("#difference-error", "role `admin`")
    browser.click("#difference-dialog .cancel")
    check("nothing was changed", setting(ONE, "write_timeout", admin) == "3s")
    browser.click("#versions li:first-child button")
    browser.shows("#versions-error", "role `admin`")

    browser.click("#token-button")
    browser.write("#token-text", admin)
    browser.press(Keys.ENTER)
    told(browser, "The token is in use")
    browser.click("#settings-difference")
    browser.click("#difference-form button[type=submit]")
    told(browser, "1 setting is changed")
    eventually("the right token changes it", lambda: setting(TWO, "write_timeout", admin) == "4s")
    check("it is kept for this tab only", kept() == [[admin], [], ""])
    browser.driver.refresh()
    browser.go("cluster")
    browser.shows("#members .state", "ready")
    check("it is in no address", admin not in browser.driver.current_url)
    browser.collect()
    check("nor in any request's", not [url for _, url in browser.requests if admin in url or reader in url])
    browser.click("#token-button")
    browser.click("#token-forget")
    browser.shows("#token-why", "show one")
    check("it is forgotten", kept() == [[], [], ""])
    browser.write("#token-text", admin)
    browser.press(Keys.ENTER)
    browser.shows("#members .state", "ready")


def looks(browser):
    """Each view on a phone and on a desk, in light and dark, is as wide as the window and can be read."""
    papers = set()
    for scheme in ("light", "dark"):
        browser.emulate(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        papers.add(browser.js("return getComputedStyle(document.documentElement).backgroundColor"))
        for size in ("desk", "phone"):
            getattr(browser, size)()
            for view in VIEWS:
                browser.go(view)
                if view == "keys":
                    browser.click("#browse-form button[type=submit]")
                    browser.click("#listing tr:nth-child(2) .key")
                    browser.shows("#title-record", "..")
                if view == "settings":
                    browser.shows("label", "write_timeout")
                    browser.shows("#versions > li", "in force")
                if view == "partitions":
                    browser.shows("#strips", "member2")
                wide = browser.js("return document.scrollingElement.scrollWidth")
                check(f"{view} fits a {size}: it is {wide} wide", wide <= (360 if size == "phone" else 1280))
                low = contrasts(browser)
                check(f"{view} can be read in {scheme} on a {size}: {low}", not low)
                browser.js("window.scrollTo(0, 0)")
                browser.picture(f"{size}-{scheme}-{view}", whole=True)
    check(f"light and dark differ: {papers}", len(papers) == 2)
    line = browser.find(".plot path.line.line-0")
    browser.go("cluster")
    before = line.get_attribute("d")
    eventually("plots go on", lambda: line.get_attribute("d") != before)
    check("nothing glides for who wants no motion", browser.js("return document.getAnimations().length") == 0)
    browser.emulate()
    browser.desk()


def contrasts(browser):
    """Texts that stand out from what is behind them by less than 4.5 to 1, fields and partitions by less than 3 to 1."""
    return browser.js(
        """
        const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
          .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
          .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
        const behind = (node) => {
          for (let at = node; at; at = at.parentElement) {
            const colour = numbers(getComputedStyle(at).backgroundColor);
            if (colour.length < 4 || colour[3] > 0.99) return colour;
          }
          return [255, 255, 255];
        };
        const found = [];
        const compare = (what, colour, ground, least) => {
          const [one, other] = [light(numbers(colour)), light(ground)].sort((a, b) => b - a);
          const ratio = (one + 0.05) / (other + 0.05);
          if (ratio < least) found.push(`${what}: ${ratio.toFixed(2)}`);
        };
        for (const node of document.querySelectorAll('body *')) {
          const text = [...node.childNodes].filter((child) => child.nodeType === 3).map((child) => child.data.trim()).join('');
          if (text === '' || !node.checkVisibility() || node.matches(':disabled, .skip, script, noscript *')) continue;
          compare(text.slice(0, 30), getComputedStyle(node).color, behind(node), 4.5);
        }
        for (const node of document.querySelectorAll('input:not([type=checkbox]), select, textarea')) {
          if (!node.checkVisibility()) continue;
          compare(`the border of ${node.id}`, getComputedStyle(node).borderTopColor, behind(node.parentElement), 3);
          const { color, opacity } = getComputedStyle(node, '::placeholder');
          if (node.placeholder) compare(`the placeholder of ${node.id}`, opacity === '1' ? color : 'rgb(128, 128, 128)', behind(node), 4.5);
        }
        for (const node of document.querySelectorAll('.strip path:not([d=""])')) {
          const { fill, opacity } = getComputedStyle(node);
          if (node.checkVisibility()) compare(`partitions: ${node.classList}`, opacity === '1' ? fill : 'rgb(128, 128, 128)', behind(node.parentElement), 3);
        }
        return found;
        """
    )


def nothing_from_elsewhere(browser):
    browser.collect()
    own = (ONE, TWO, THREE)
    strange = {url for document, url in browser.requests if not url.startswith(("data:", "about:", "blob:"))
               and not (document.startswith("http") and url.startswith("/".join(document.split("/")[:3]) + "/"))}
    check(f"nothing is asked of others: {strange}", not strange)
    check("members were asked at all", sum(url.startswith(own) for _, url in browser.requests) > 50)
    check(f"the browser complains of nothing: {browser.complaints}", not browser.complaints)


def main():
    browser, newcomer = Browser(SHOTS), Newcomer(KITH, WORK)
    steps = [
        ("what there is, and plots that move", overview),
        ("keys are written, browsed, read and deleted", keys_and_values),
        ("with keys alone", with_keys_alone),
        ("settings, the difference first", settings),
        ("versions of the settings, and the way back", versions),
        ("partitions and convergence", placement),
        ("a member joins and leaves", functools.partial(a_member_comes_and_goes, newcomer=newcomer)),
        ("a dead member is removed", a_dead_member_is_removed),
        ("a way back that can't be is refused", a_way_back_is_refused),
        ("strangers' pages are refused", strangers_are_refused),
        ("tokens", tokens),
        ("on a phone and a desk, light and dark", looks),
        ("nothing from elsewhere, no complaints", nothing_from_elsewhere),
    ]
    step = "the browser starts"
    try:
        for step, act in steps:
            began = time.monotonic()
            act(browser)
            browser.collect()
            print(f"page: {step} ({time.monotonic() - began:.1f} s)", flush=True)
    except BaseException:
        browser.collect()
        print(f"page: FAILED in: {step}; the browser complained of {browser.complaints}", file=sys.stderr, flush=True)
        browser.picture("failed")
        raise
    finally:
        browser.close()
        newcomer.stop()


main()
