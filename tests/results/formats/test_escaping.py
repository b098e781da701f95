"""Names and reasons from files are text in every format: they end no cell, no tag and no LaTeX command."""

import html
import re
from html.parser import HTMLParser

import pytest

from stq.cli import report
from tests.made_up_runs import make_run

HOSTILE = "m_1 {a} & 50% #2 $x$ a|b <img src=x onerror=alert(1)> [link](y) *s* ~ ^ \\"
REASON = "first | line\nsecond <b>line</b> & {more}"


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for seed in range(2):
        make_run(
            folder / f"a{seed}", method=HOSTILE, seed=seed, test_top1=90.0, data=f"d {HOSTILE}", git_commit=f"{seed}<i>"
        )
        make_run(folder / f"b{seed}", method="pact", seed=seed, test_top1=80.0 + seed, data=f"d {HOSTILE}")
    make_run(folder / "bad", seed=2, status="failed", error=REASON, test_top1=None)
    return folder


def printed(runs, capsys, form):
    report.main([str(runs), "--format", form])
    return capsys.readouterr().out


def test_latex(runs, capsys):
    text = printed(runs, capsys, "latex")
    name = (
        r"m\_1 \{a\} \& 50\% \#2 \$x\$ a\textbar{}b $<$img src=x onerror=alert(1)$>$ [link](y) *s* \textasciitilde{} "
        r"\textasciicircum{} \textbackslash{}"
    )
    assert f"{name} & \\textbf{{90.00 $\\pm$ 0.00}}" in text  # the table of accuracies
    assert f"\n{name}, pact & 2/2 & " in text  # the table of costs
    assert f"2/2 & pact against {name} & 2 & " in text
    assert HOSTILE not in text
    columns = {line.count(" & ") for line in text.replace(r" \& ", " ").splitlines() if line.startswith("2/2 & ")}
    assert columns == {6}
    (comment,) = [line for line in text.splitlines() if "first |" in line]
    assert comment.startswith("% Failed runs")
    assert "second" in comment


def test_markdown(runs, capsys):
    text = printed(runs, capsys, "markdown")
    name = r"m\_1 {a} & 50% #2 $x$ a\|b \<img src=x onerror=alert(1)\> \[link\](y) \*s\* ~ ^ \\"
    assert f"\n| {name} | **90.00 ± 0.00** (+30.00) |\n" in text
    assert re.search(rf"^## d {re.escape(name)}, resnet8", text, re.MULTILINE)
    assert f"\n| {name}, pact | 2/2 | 0.0977 (4.00×) |\n" in text
    assert r"first \| line second \<b\>line\</b\> & {more}" in text


def test_terminal(runs, capsys):
    text = printed(runs, capsys, "terminal")
    assert text.count("[link](y) *s* ~ ^ \\") >= 4  # rich would take what is in brackets for its own markup
    assert "first | line" in text


class Text(HTMLParser):
    """The page's tags, and its text without them."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_page(runs, tmp_path):
    page = tmp_path / "report.html"
    report.main([str(runs), "--html", str(page)])
    source = page.read_text()
    read = Text()
    read.feed(source)
    assert not [attrs for tag, attrs in read.tags if "onerror" in attrs]
    assert all(attrs["src"].startswith("data:image/svg+xml;base64,") for tag, attrs in read.tags if tag == "img")
    assert "b" not in {tag for tag, _ in read.tags}
    assert "i" not in {tag for tag, _ in read.tags}
    assert "<img src=x" not in source  # in the JSON behind the rows too
    assert read.text.count(HOSTILE) >= 5  # title, headings, tables, list of runs
    assert REASON.replace("\n", " ") in read.text
    assert html.escape(HOSTILE) in source
    assert {attrs["data-value"] for _, attrs in read.tags if attrs.get("data-label") == "method"} >= {HOSTILE}


def test_figures_of_names_that_are_no_mathematics_and_are_long(tmp_path):
    make_run(tmp_path / "runs" / "a", data="50$\\foo$" + 130 * "x", model="$\\write18{id}$" + 130 * "y", method="$")
    report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")])
    assert all(len(path.name) < 120 for path in (tmp_path / "out" / "figures").iterdir())
    assert any((tmp_path / "out" / "figures").iterdir())


def test_what_turns_the_reading_direction_is_printed_as_an_escape(tmp_path, capsys):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", seed=1, status="failed", error="x\n\n# H\u202e", test_top1=None)
    report.main([str(tmp_path)])
    out, _ = capsys.readouterr()
    assert "\u202e" not in out
    assert "x  # H\\u202e" in out
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "b")])
    assert capsys.readouterr().err.count("\n") == 1
