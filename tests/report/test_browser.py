"""The page in a real browser, which is started once for all of it."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

FIGURES = 7  # size, latency, effects, sensitivity and three curves

# Before the page's own scripts: what goes wrong, and what is asked of the network.
WATCH = """
window.problems = [];
addEventListener("error", (e) => problems.push(String(e.message || e.target)), true);
addEventListener("unhandledrejection", (e) => problems.push(String(e.reason)));
document.addEventListener("securitypolicyviolation",
                          (e) => problems.push("blocked: " + e.blockedURI));
const say = console.error;
console.error = (...words) => { problems.push(words.join(" ")); say(...words); };
"""
# After them: a user who sorts, filters, follows a link and chooses a view.
USE = """
const one = (selector) => document.querySelector(selector);
const all = (selector) => Array.from(document.querySelectorAll(selector));
const names = () => all("#results tbody tr")
  .filter((row) => !row.hidden).map((row) => row.cells[0].dataset.value);
const values = (key) => {
  const at = headings.findIndex((h) => h.dataset.key === key);
  return all("#results tbody tr").map((row) => row.cells[at].dataset.value);
};
const click = (key) => one(`[data-key=${key}] button`).click();
const set = (name, value) => {
  const control = one(`.filters [name=${name}]` +
                      (name === "with" ? `[value=${value}]` : ""));
  if (control.type === "checkbox") control.checked = value !== "";
  else control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
  return names();
};
const clear = () => { one("#reset").click(); return names(); };
const drawn = () => all("figure .marks").length;

function use() {
  const seen = { problems, atStart: names() };
  click("score");
  seen.up = values("score");
  click("score");
  seen.down = values("score");
  click("difference");
  seen.missingLast = names();
  click("row");
  seen.text = set("filter", "p");
  seen.without = set("filter", "p -quantize");
  seen.count = one("#count").textContent;
  seen.address = location.hash;
  clear();
  seen.technique = set("with", "prune");
  clear();
  seen.sparse = set("least", "50");
  clear();
  seen.small = set("most", "100");
  clear();
  seen.best = set("best", "1");
  seen.all = clear();
  const link = one("#results td a[href^='#']");
  link.click();
  seen.target = one(link.getAttribute("href")).className;
  seen.open = one("#runs").open;
  history.replaceState(null, "", "#sort=score:descending&filter=q&with=prune");
  dispatchEvent(new Event("hashchange"));
  seen.restored = names();
  clear();
  const views = one("[data-figure=sensitivity] select");
  views.value = "1";
  views.dispatchEvent(new Event("change"));
  return seen;
}

const done = (seen) => {
  seen.figures = drawn();
  seen.sensitivity = one("[data-figure=sensitivity] .marks").textContent;
  seen.effects = one("[data-figure=effects] .marks").textContent;
  seen.resources = performance.getEntriesByType("resource").map((e) => e.name);
  const place = document.createElement("pre");
  place.id = "seen";
  place.textContent = JSON.stringify(seen);
  document.body.append(place);
};
const wait = () => {
  if (drawn() < FIGURES) return setTimeout(wait, 50);
  const seen = use();
  setTimeout(() => done(seen), 1000);
};
wait();
"""


@pytest.fixture(scope="module")
def session(report, tmp_path_factory):
    """What the user saw, and the browser's log of the network.

    On a busy machine Chromium's virtual time may be over before the plots are drawn, so
    it is asked again; plots that are never drawn still fail.
    """
    folder = tmp_path_factory.mktemp("browser")
    text = report.html.read_text()
    use = USE.replace("FIGURES", str(FIGURES))
    page = folder / "page.html"
    # The last one: the plotting library holds texts like it.
    start, _, end = text.rpartition("</body>")
    start = start.replace("<head>", f"<head><script>{WATCH}</script>", 1)
    page.write_text(f"{start}<script>{use}</script></body>{end}")
    for attempt in range(4):
        dom, log = browse(page.as_uri(), folder / f"profile{attempt}")
        found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
        if found:
            text = found[1].replace("&lt;", "<").replace("&gt;", ">")
            return json.loads(text.replace("&amp;", "&")), log
    raise AssertionError(f"the page was never drawn: {dom[-2000:]}")


def browse(url: str, profile: pathlib.Path) -> tuple[str, str]:
    """The page once its scripts are done, and the log of the network."""
    profile.mkdir()
    log = profile / "network.json"
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--window-size=1600,900"),
        *("--virtual-time-budget=60000", "--dump-dom", f"--log-net-log={log}"),
    ]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={profile}", url]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=True
    )
    return done.stdout, log.read_text()


def test_nothing_goes_wrong_and_nothing_is_asked_of_the_network(session):
    seen, log = session
    assert seen["problems"] == []
    assert seen["resources"] == []
    # What the browser asks for itself has no origin; the page's requests have its own.
    assert set(re.findall(r'"initiator":"([^"]*)"', log)) <= {"not an origin"}
    assert "page.html" in log


def test_columns_sort_both_ways_with_missing_numbers_last(session):
    seen, _ = session
    up, down = ([float(x) for x in seen[key]] for key in ("up", "down"))
    assert up == sorted(up) and down == sorted(down, reverse=True)
    assert len(up) == 4 and up != down
    assert seen["missingLast"][-1] == "float"
    assert seen["text"] == ["P", "P+Q", "PTQ"]


def test_rows_are_chosen_by_name_technique_sparsity_size_and_standing(session):
    seen, _ = session
    assert seen["without"] == ["P"] and seen["count"] == "1 of 4 rows"
    assert "filter=p+-quantize" in seen["address"] and "sort=row" in seen["address"]
    assert seen["technique"] == ["P", "P+Q"] == seen["sparse"]
    assert seen["small"] == ["P", "P+Q", "PTQ"]
    assert "P" not in seen["best"] and "PTQ" in seen["best"]
    assert sorted(seen["all"]) == sorted(seen["atStart"])
    assert seen["restored"] == ["P+Q"]


def test_a_number_leads_to_its_runs_and_plots_are_drawn(session):
    seen, _ = session
    assert seen["open"] and seen["target"] == "target"
    assert seen["figures"] == FIGURES
    assert "stem/kernel" in seen["sensitivity"]
    assert "P x Q" in seen["effects"]
