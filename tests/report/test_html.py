"""The page: whole, safe and offline."""

import csv
import html.parser
import json
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest

from compress.report import load_compare, write_report
from compress.report.html import render_html
from compress.report.rows import summarize_rows


class Page(html.parser.HTMLParser):
    """Collects what a page would load or lead to, and its text outside scripts."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.text, self.scripts = [], [], [], 0
        self.elements, self.attributes = set(), []
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        self.elements.add(tag)
        self.attributes.append([name for name, _ in attrs])
        self.scripts += tag == "script"
        for name, value in attrs:
            if name == "href":
                self.links.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def text(report):
    return report.html.read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_page_loads_nothing(text, page):
    assert page.elements.isdisjoint({"img", "link", "iframe", "object", "embed"})
    assert not any("src" in names for names in page.attributes)
    assert "default-src 'none'" in text
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_every_number_leads_to_a_file_of_its_run(report, page):
    assert len(page.links) > 100
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif "/artifact/" not in link:  # made-up runs have none
            name = urllib.parse.unquote(link)
            assert (report.html.parent / name).is_file() or name.endswith(
                ("config.json", "run.json")
            ), link
    assert "../P%2BQ-0/result.json" in page.links and "../latency.json" in page.links


def test_a_row_of_one_run_leads_straight_to_it(tmp_path, made_up):
    comparison = load_compare(made_up.write_compare(tmp_path / "one", seeds=[0]))
    page = render_html(comparison, summarize_rows(comparison), [], root="../a b")
    links = Page(page).links
    assert not any(link.startswith("#") for link in links)
    assert "../a%20b/P%2BQ-0/result.json" in links


def test_page_names_the_lock_that_lies_beside_it(compare_dir):
    comparison = load_compare(compare_dir)
    rows = summarize_rows(comparison)
    shown = render_html(comparison, rows, [], lock="lock.json")
    assert '<a href="lock.json">' in shown
    assert "jax-compress reproduce lock.json" in shown
    assert "lock.json" not in render_html(comparison, rows, [])


def test_every_number_of_every_run_is_in_a_table_of_its_own(report):
    lines = list(csv.DictReader(report.runs.read_text().splitlines()))
    assert [(x["row"], x["seed"]) for x in lines[:4]] == [
        *(("float", str(seed)) for seed in range(3)),
        ("P", "0"),
    ]
    assert len(lines) == 11
    path = report.html.parents[1] / lines[3]["folder"] / "result.json"
    result = json.loads(path.read_text())
    assert float(lines[3]["score"]) == result["score"]
    assert int(lines[3]["zlib_bytes"]) == result["sizes"]["zlib"]


def test_page_says_why_a_site_was_left_out(page):
    assert "Left out because" in page.text
    assert "first" in page.text  # the reason of stem/kernel


def test_plotting_library_is_embedded_once(text):
    assert text.count("vegaEmbed=") + text.count("vegaEmbed =") <= 2
    assert len(text) < 4e6


def test_scripts_are_the_data_the_library_and_ours(page):
    assert page.scripts == 3


def test_ids_are_unique(page):
    assert len(page.ids) == len(set(page.ids))


def test_page_shows_every_part(page):
    shown = " ".join(page.text)
    for heading in (
        "Results",
        "Failed runs",
        "Accuracy against size",
        "Accuracy against latency",
        "Training loss",
        "Evaluation accuracy",
        "Sparsity during training",
        "Effects of the techniques",
        "Sensitivity of each parameter",
        "Sites",
        "Fallbacks and other records",
        "Where the numbers come from",
    ):
        assert heading in shown
    assert "block1/conv/kernel" in shown
    assert "stem/kernel: left in float" in shown
    assert "Test CPU 9000" in shown
    assert "P+Q - PTQ" in shown


def test_error_of_a_failed_run_is_text_and_not_markup(text, page):
    assert "loss is nan </script><b>" in "".join(page.text)
    assert "nan </script><b>" not in text


def test_plot_data_is_json_with_both_widths(text):
    data = re.search(r'<script id="plots"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert data is not None
    plots = json.loads(data[1])
    assert [plot["view"] for plot in plots["score-latency"]] == [
        "batch 1",
        "batch 64",
    ]
    assert all(p["wide"] and p["narrow"] for group in plots.values() for p in group)


def test_plots_are_written_as_images(report):
    names = {path.name for path in report.plots}
    assert {"score_size_bitmask.png", "score_latency_batch_64.png"} <= names
    assert {"curve_loss.png", "curve_eval_score.png", "curve_sparsity.png"} <= names
    assert {"effects.png", "sensitivity_0.png", "sensitivity_1.png"} <= names
    for path in report.plots:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_tables_are_written_beside_the_page(report):
    assert report.markdown.read_text().startswith("| Row | Accuracy % |")
    assert report.csv.read_text().startswith("row,techniques,")
    assert report.html.parent.name == "report"


def test_comparison_without_results_or_latency_still_gives_a_page(compare_dir):
    for path in compare_dir.glob("*/*"):
        path.unlink()
    (compare_dir / "latency.json").unlink()
    paths = write_report(compare_dir, compare_dir / "elsewhere")
    assert paths.plots == ()
    shown = " ".join(Page(paths.html.read_text()).text)
    assert "No run finished" in shown
    assert "Latency was not measured." in shown


def test_page_shows_the_programs_of_each_run_and_a_dash_for_no_agreement(compare_dir):
    path = compare_dir / "P-1" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"agreement": None}))
    comparison = load_compare(compare_dir)
    page = render_html(comparison, summarize_rows(comparison), [])
    assert '<th scope="col">Programs</th>' in page and ">41.2 kB</a>" in page
    assert page.count('<td class="number" data-value="">—</td>') == 2  # and of float, Δ


def test_a_report_that_cannot_be_written_leaves_the_one_before(
    compare_dir, monkeypatch
):
    before = {
        path: path.read_bytes()
        for path in write_report(compare_dir).html.parent.iterdir()
    }
    settings = json.loads((compare_dir / "compare.json").read_text())
    (compare_dir / "compare.json").write_text(json.dumps(settings | {"name": "new"}))
    monkeypatch.setattr(pathlib.Path, "replace", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(compare_dir)
    assert before == {p: p.read_bytes() for p in (compare_dir / "report").iterdir()}


def test_missing_extra_says_how_to_install_it(compare_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ImportError, match=r'pip install "jax-compress\[report\]"'):
        write_report(compare_dir)


def test_package_imports_without_the_extra():
    blocked = (
        "import sys; sys.modules.update(altair=None, vl_convert=None, jinja2=None)"
    )
    command = f"{blocked}; import compress.report"
    subprocess.run([sys.executable, "-c", command], check=True)
