"""The HTML report: what it tells, that it needs nothing else, and how it looks to a real browser."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
from contextlib import ExitStack

import pytest
from browser import open_page

from rhotrace.analysis.analyze import analyze
from rhotrace.analysis.claims.findings import audit_claims
from rhotrace.config.recipe import parse
from rhotrace.display.blocks import Code, Data, Heading, Paragraph, table
from rhotrace.display.html.renderer import mathematics, report_page
from rhotrace.display.html.report import write_report
from rhotrace.display.numbers import number
from rhotrace.errors import AnalysisError, RhoTraceError
from rhotrace.runfile.reader import open_trace

LONG = ("steps=800", "optimizer.lr=0.1", "record.snapshots=2")
SGD = (*LONG, "optimizer={kind: sgd, lr: 0.1, batch_size: 8}", "record={full_every: 2, snapshots: 2}")
HOSTILE = "<script>alert('x')</script> & \"quoted\" </pre>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run under GD with a hostile claim, its twin under SGD, and one of two starts, trained once."""
    from small import SMALL

    from rhotrace.config import recipe
    from rhotrace.training.train import train

    folder = tmp_path_factory.mktemp("report")
    several = (*LONG, "members={seeds: [0, 1, 0, 1], rho_k: [1.2, 1.2, 0.8, 0.8]}")
    for name, overrides in {"gd": LONG, "sgd": SGD, "starts": several}.items():
        text = f"claim: {json.dumps(HOSTILE)}\n{SMALL}" if name == "gd" else SMALL
        train(recipe.parse(text, list(overrides)), folder / f"{name}.h5", device="cpu")
    return folder


@pytest.fixture(scope="module")
def pages(runs):
    """The report of one run, of two, and of a run of several starts, written once."""
    wanted = {"one": ["gd"], "two": ["gd", "sgd"], "starts": ["starts"]}
    for page, names in wanted.items():
        with ExitStack() as stack:
            traces = [stack.enter_context(open_trace(runs / f"{name}.h5")) for name in names]
            write_report(traces, runs / f"{page}.html", command="rhotrace report <gd>")
    return runs


def words_of(path):
    """What a reader sees, without tags and embedded data."""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r'<math alttext="([^"]*)">.*?</math>', r"\1", text)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_the_report_tells_T_the_claims_the_end_and_the_origin_of_a_run(pages, runs):
    words = words_of(pages / "one.html")
    with open_trace(runs / "gd.h5") as trace:
        result, claims = analyze(trace, fit=True), audit_claims(trace)
        attributes = trace.attributes
    assert f"T = {number(result.transient.pools[0].T.value, 4)} steps" in words
    for claim in claims:
        assert claim.place in words
        assert " ".join(claim.finding.measured.split()) in words
    for value in ("versions", "host", "recipe_digest", "data_md5"):
        assert " ".join(str(attributes[value]).split()) in words
    assert hashlib.sha256((runs / "gd.h5").read_bytes()).hexdigest() in words
    for heading in ("What was found", "Transient time, fits and audit of the steps", "How to reproduce it"):
        assert heading in words


def test_the_results_stand_in_it_as_json(pages, runs):
    text = (pages / "one.html").read_text(encoding="utf-8")
    (content,) = re.findall(r'<script type="application/json" id="results">(.*?)</script>', text, re.DOTALL)
    results = json.loads(content)
    with open_trace(runs / "gd.h5") as trace:
        wanted = analyze(trace, fit=True).transient
    found = results["runs"][0]["transient"]
    assert [each["T"] for each in found["each"]] == [each.T for each in wanted.each]
    assert len(results["runs"][0]["claims"]) == 30


@pytest.mark.usefixtures("quick_pictures")
def test_one_theta_holds_for_the_whole_page(command, runs, tmp_path):
    def claims(theta: str) -> list:
        return json.loads(command("audit", runs / "gd.h5", "--theta", theta, "--json")[1])["claims"]

    assert command("report", runs / "gd.h5", "-o", "page.html", "--theta", "0.9")[0] == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    (content,) = re.findall(r'<script type="application/json" id="results">(.*?)</script>', text, re.DOTALL)
    (found,) = json.loads(content)["runs"]
    assert found["transient"]["theta"] == 0.9
    assert found["claims"] == claims("0.9") != claims("0.5")
    words = words_of(tmp_path / "page.html")
    assert "0.9 rho_eq" in words
    assert "0.5 rho_eq" not in words


def test_the_recipe_in_it_trains_the_same_run(pages, runs):
    text = (pages / "one.html").read_text(encoding="utf-8")
    recipes = [html.unescape(code) for code in re.findall(r"<pre><code>(.*?)</code></pre>", text, re.DOTALL)]
    with open_trace(runs / "gd.h5") as trace:
        assert trace.attributes["recipe_digest"] in {parse(code).digest for code in recipes if "network:" in code}
    assert any("rhotrace train gd.yaml -o runs/gd.h5" in code for code in recipes)


def test_what_others_wrote_is_text_and_never_markup(pages):
    text = (pages / "one.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert HOSTILE in words_of(pages / "one.html")
    assert text.count("<script") == 1


def test_runs_together_are_compared_and_starts_are_held_against_the_law(pages):
    two, starts = words_of(pages / "two.html"), words_of(pages / "starts.html")
    assert "Fluctuation around rho_eq, run against run" in two
    assert "sgd over gd: fluctuation" in two
    assert "decides it" not in two  # of remark 5: this report has decided it
    assert two.count("this report compares GD and SGD under Fluctuation around rho_eq") == 2  # once for each run
    assert "`rhotrace compare GD SGD` decides it" in words_of(pages / "one.html")
    assert "T against the start" in starts
    assert "Exponent of T in rho_k(0)" in starts
    assert "T against the start" not in two


def test_every_picture_is_inside_and_described(pages):
    for name in ("one", "two", "starts"):
        text = (pages / f"{name}.html").read_text(encoding="utf-8")
        pictures = re.findall(r"<img ([^>]*)>", text)
        assert len(pictures) >= 7
        for picture in pictures:
            alt = re.search(r'alt="([^"]*)"', picture)
            assert len(html.unescape(alt[1])) > 60
            data = re.search(r'src="data:image/svg\+xml;base64,([^"]*)"', picture)
            svg = base64.b64decode(data[1]).decode()
            assert svg.startswith("<?xml")
            assert "<text" not in svg  # letters are shapes: no font is needed
        assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)


@pytest.mark.parametrize(("name", "width"), [("one", 1100), ("two", 1100), ("two", 390), ("starts", 320)])
def test_a_browser_shows_it_whole_without_complaint_or_request(pages, name, width):
    address = (pages / f"{name}.html").as_uri()
    with open_page(address, width=width) as opened:
        assert opened.messages == []
        assert opened.requests == [address]
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        widths = page.eval_on_selector_all("img", "all => all.map(i => [i.complete, i.naturalWidth, i.alt.length])")
        assert all(complete and natural > 100 and alt > 60 for complete, natural, alt in widths)
        sizes = page.eval_on_selector_all(
            "p, td, figcaption", "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(sizes) >= 12
        anchors = page.eval_on_selector_all(
            "nav a", "all => all.every(a => document.querySelector(a.getAttribute('href')))"
        )
        assert anchors
        folded = page.eval_on_selector_all("details", "all => all.map(e => e.open)")
        assert folded
        assert not any(folded)
        shown = page.eval_on_selector_all(
            "main > section > figure img", "all => all.map(i => i.getBoundingClientRect().width)"
        )
        assert min(shown) >= 0.9 * min(width - 32, 960)  # the figures use the column, and no more
        assert max(shown) <= width
        if width < 640:  # on a phone a table is a list, each cell with its name
            assert page.eval_on_selector("td", "e => getComputedStyle(e, '::before').content") != "none"


def test_a_phone_gets_figures_of_its_own_with_readable_letters(pages):
    with open_page((pages / "two.html").as_uri(), width=390) as opened:
        sources = opened.page.eval_on_selector_all("main img", "all => all.map(i => [i.currentSrc, i.src])")
        assert all(current != wide for current, wide in sources)
        scale = opened.page.eval_on_selector_all(
            "main > section > figure img", "all => all.map(i => i.getBoundingClientRect().width / i.naturalWidth)"
        )
        assert min(scale) > 0.9  # letters of 8 points stay above 9 pixels
        assert opened.page.evaluate("document.documentElement.scrollHeight") < 10_000


def test_a_figure_can_be_enlarged_and_closed_without_a_script(pages):
    address = (pages / "one.html").as_uri()
    with open_page(address) as opened:
        page = opened.page
        figure = page.locator("figure").first
        before = figure.locator("img").bounding_box()["width"]
        assert not figure.locator(".close").is_visible()
        figure.locator("img").click()
        assert figure.locator("img").bounding_box()["width"] > 2 * before
        figure.locator(".close").click()
        assert figure.locator("img").bounding_box()["width"] == before
        assert {request.partition("#")[0] for request in opened.requests} == {address}


def test_symbols_are_mathematics_and_names_and_paths_are_not(pages):
    text = str(mathematics("log(rho/rho_eq) of rho_k^2 <b> in runs/rho.h5, members.rho_k, rho-run, rho2"))
    assert text.startswith(
        'log(<math alttext="rho"><mi>ρ</mi></math>/<math alttext="rho_eq"><msub><mi>ρ</mi><mi>eq</mi></msub></math>) of '
        '<math alttext="rho_k^2"><msubsup><mi>ρ</mi><mi>k</mi><mn>2</mn></msubsup></math> &lt;b&gt; in '
    )
    assert text.endswith("in runs/rho.h5, members.rho_k, rho-run, rho2")
    text = str(mathematics("y_n f_n > 0, V_k, gamma_k^2, but f, y_axis, dW_k, runs/V_k"))
    assert re.sub("<math alttext=.*?</math>", "#", text) == "# # &gt; 0, #, #, but f, y_axis, dW_k, runs/V_k"
    assert '<math alttext="gamma_k^2"><msubsup><mi>γ</mi><mi>k</mi><mn>2</mn></msubsup></math>' in text
    with open_page((pages / "one.html").as_uri()) as opened:
        assert opened.page.locator("math").count() > 20


def test_it_can_be_printed(pages, tmp_path):
    with open_page((pages / "two.html").as_uri()) as opened:
        folded = opened.page.locator("details table").first
        assert not folded.is_visible()
        opened.page.emulate_media(media="print")
        assert not opened.page.is_visible("nav")
        assert folded.is_visible()  # paper cannot be unfolded
        opened.page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_blocks_become_sections_with_everything_escaped():
    nowhere = {"title": "<t>", "made": "", "version": "", "command": "", "citation": ""}
    blocks = [
        Data({"x": "</script>", "y": float("nan")}),
        Heading("First <1>", 2, "first"),
        Paragraph("one\ntwo", strong=True),
        table("<name | number", [("[red]T[/red]", "1.5"), ("FAILS", "2")], "A <title>"),
        Heading("Inside"),
        Heading("Second", 3, "second"),
        Code("a: <b>", "a.yaml"),
    ]
    text = report_page(blocks, **nowhere)
    assert re.findall(r"<h\d[^>]*>.*?</h\d>", text)[1:] == [
        '<h2 id="first">First &lt;1&gt;</h2>',
        "<h4>Inside</h4>",
        '<h3 id="second">Second</h3>',
    ]
    assert re.findall(r'<p class="strong">(.*?)</p>', text) == ["one", "two"]
    assert "<caption>A &lt;title&gt;</caption>" in text
    assert '<td data-name="name">[red]T[/red]</td><td data-name="number" class="number">1.5</td>' in text
    assert '<td data-name="name" class="fails">FAILS</td>' in text
    assert 'download="a.yaml"' in text
    assert "<pre><code>a: &lt;b&gt;</code></pre>" in text
    assert text.count("</script>") == 1
    (content,) = re.findall(r'id="results">(.*?)</script>', text, re.DOTALL)
    assert json.loads(content) == {"x": "</script>", "y": None}


@pytest.mark.usefixtures("quick_pictures")
def test_an_unfinished_run_says_so(train, tmp_path, monkeypatch):
    from rhotrace.runfile.writer import TraceWriter

    commit, count = TraceWriter.commit, 0

    def killed(self, *words):
        nonlocal count
        commit(self, *words)
        count += 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TraceWriter, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            train("steps=100000", "record.snapshots=0", name="cut.h5")
    with open_trace(tmp_path / "cut.h5") as trace:
        write_report([trace], tmp_path / "cut.html")
    words = words_of(tmp_path / "cut.html")
    assert "the run is not finished (interrupted)" in words
    assert "not finished" in words


@pytest.mark.usefixtures("quick_pictures")
def test_only_a_report_is_replaced_unasked(pages, runs, tmp_path):
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>", encoding="utf-8")
    with open_trace(runs / "gd.h5") as trace:
        with pytest.raises(RhoTraceError, match="is not a report"):
            write_report([trace], mine)
        assert mine.read_text(encoding="utf-8") == "<p>mine</p>"
        with pytest.raises(RhoTraceError, match="got a folder"):
            write_report([trace], tmp_path)
        older = shutil.copy(pages / "two.html", tmp_path / "older.html")
        write_report([trace], older)
    assert "run against run" not in words_of(older)
    assert not list(tmp_path.glob(".*.half"))


def test_too_many_runs_are_refused(runs):
    with open_trace(runs / "gd.h5") as trace, pytest.raises(AnalysisError, match="got 21 runs, expected at most 20"):
        write_report([trace] * 21, runs / "many.html")


def test_the_command_writes_and_says_where(command, runs, tmp_path):
    code, out, err = command("report", runs / "gd.h5", "-o", "a/report.html", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["path"] == "a/report.html"
    assert told["bytes"] == (tmp_path / "a" / "report.html").stat().st_size < 5_000_000
    assert "What was found" in told["sections"]
    (tmp_path / "taken.html").write_text("mine")
    code, out, err = command("report", runs / "gd.h5", "-o", "taken.html")
    assert (code, out) == (2, "")
    assert "is not a report" in err
