"""The page of HTML: what is on it, and how a browser shows it."""

import html
import json
import re
import shutil
import subprocess

import matplotlib.image
import pytest

from experiments.reporting import all_tables, page, paper, web
from experiments.reporting.web import Series
from experiments.storage.errors import RecordError, ReportError
from experiments.storage.files import read_json, write_csv

from .finished_runs import PAPER, ROOT, write_run

CURVES = paper.read_curves(PAPER / "curves.csv")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
RESULTS = ROOT / "results"


def page_of(*folders):
    return page.page(folders, all_tables(PAPER), CURVES, "A page")


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """A run, a table and measurements of the results, a sweep and a run of its own."""
    sweep, own = (tmp_path_factory.mktemp(name) for name in ("sweep", "own"))
    row = {"temperature.floor": 0.5, "valid/nll": 99.5, "valid/nll_stderr": 0.25, "seeds": 3}
    rows = [
        {"level": "run", "valid/nll": 98.0},
        {"level": "configuration", **row, "test/nll": 101.5},
        *({"level": "configuration", **row, "valid/nll": v} for v in (1_000.0, 100.25, 99.75)),
    ]
    write_csv(sweep / "sweep.csv", rows, digits=6)
    about = {"swept": ["temperature.floor"], "best": rows[1], "tied": [rows[2]]}
    (sweep / "sweep.json").write_text(json.dumps(about))
    write_run(own, "a", "rloo", 1e-3, 0, 109.0, 107.5, note="<script>alert(1)</script>")
    return page_of(
        RESULTS / "vae" / "cat_vae", RESULTS / "table1_length", RESULTS / "variance" / "toy",
        RESULTS / "temperature", sweep, own,
    )  # fmt: skip


def test_numbers_curves_figures_configurations_and_provenance_are_on_the_page(some):
    about = read_json(RESULTS / "vae" / "cat_vae" / "run.json")
    assert f"test/nll {about['result']['test/nll']:.5g}" in some
    assert "<td>temperature.update_every</td><td>1000</td>" in some
    assert f"<td>git_commit</td><td>{about['provenance'][-1]['git_commit']}</td>" in some
    for name in ("samples", "reconstructions", "class_use"):
        assert f'<img alt="{name.replace("_", " ")}" src="data:image/png;base64,' in some
    assert ">the paper, test</text>" in some
    assert some.count('role="img"><title>temperature over step: temperature</title>') == 1
    assert "<td>99.5 ± 0.25</td>" in some
    assert "<td>101.5</td>" in some
    assert "<td>98</td>" not in some  # a run of the sweep, not a configuration
    assert "Best on validation: temperature.floor = 0.5; ties with another." in some
    assert "<code>gumbel_softmax</code></td><td>58.25 (58.5)</td>" in some
    assert "cosine of one estimate" in some


def test_every_table_of_a_folder_and_the_report_within_a_sweep_is_on_the_page(tmp_path):
    for number in (1, 2):
        for file in (RESULTS / f"table{number}").glob(f"table{number}.*"):
            shutil.copy(file, tmp_path)
    assert page_of(tmp_path).count("<h3") == 2
    sweep = tmp_path / "sweep"
    report = sweep / "report"
    report.mkdir(parents=True)
    write_csv(sweep / "sweep.csv", [{"level": "configuration", "valid/nll": 99.5}], digits=6)
    shutil.copy(RESULTS / "reinmax" / "reinmax.json", report)
    write_run(sweep, "points/a", "rloo", 1e-3, 0, 109.0, 107.5)
    shown = page_of(sweep)
    assert [kind for kind in page._KINDS if f'<h2 id="{kind}">' in shown] == ["tables", "sweeps"]


def test_a_published_model_has_no_curve_and_its_numbers_are_on_the_page():
    about = read_json(RESULTS / "models" / "cat_sbn" / "run.json")
    assert f"test/nll {about['result']['test/nll']:.5g}" in page_of(RESULTS / "models")


def test_content_is_text_and_nothing_is_loaded(some):
    assert html.escape("<script>alert(1)</script>") in some
    assert some.count("<script>") == 1
    assert set(re.findall(r'(?:src|href)="([a-z]*:?)', some)) == {"data:", ""}
    assert "default-src 'none'" in some


def test_a_folder_without_anything_and_a_damaged_record_are_named(tmp_path):
    with pytest.raises(ReportError, match=f"{tmp_path} holds no run, sweep, table or measurement"):
        page_of(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RecordError, match=r"run.json: field 'config': expected an object"):
        page_of(tmp_path)


def test_a_chart_names_its_lines_side_by_side_and_leaves_out_the_first_steps():
    steps = list(range(40))
    falling = [1_000.0, *[100.0 - step for step in steps[1:]]]
    drawn = web.chart(
        [Series("a < b", steps, falling), Series("c", steps, falling, dashed=True)], "step", "nats"
    )
    assert "a &lt; b</text>" in drawn
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" style=', drawn)]
    assert abs(heights[0] - heights[1]) >= 13
    assert drawn.count("stroke-dasharray") == 1
    first = re.search(r'<path d="M([\d.]+),', drawn)
    assert float(first[1]) > 64  # the value of step 0 is not on the plot
    whole = web.chart([Series("a", steps, falling)], "step", "nats", whole=True)
    assert '<path d="M64.0,' in whole


# --- in a browser ----------------------------------------------------------------------------

_LOOK = """
<script>
const answer = {}, [table] = [...document.querySelectorAll("table")].filter(
  table => table.textContent.includes("99.5 ± 0.25"));
const names = [...table.tHead.rows[0].children].map(one => one.textContent);
const read = name => [...table.tBodies[0].rows].map(
  row => row.children[names.indexOf(name)].textContent);
const click = name => table.tHead.rows[0].children[names.indexOf(name)].firstChild.click();
click("valid/nll"); answer.up = read("valid/nll");
click("valid/nll"); answer.down = read("valid/nll");
click("test/nll"); click("test/nll"); answer.empty_last = read("test/nll");
document.body.style.width = "360px";
document.querySelectorAll("details").forEach(one => one.open = true);
answer.outside = [...document.querySelectorAll("body *")].filter(one =>
  !one.closest(".wide") && !one.closest("svg") && one.getBoundingClientRect().right >
  document.body.getBoundingClientRect().right + 1).map(one => one.outerHTML.slice(0, 80));
answer.images = [...document.images].every(one => one.naturalWidth > 0);
answer.loaded = performance.getEntriesByType("resource").map(one => one.name)
  .filter(name => !name.startsWith("data:"));
const told = document.createElement("pre");
told.id = "answer"; told.textContent = JSON.stringify(answer); document.body.append(told);
</script>
"""


def browse(path, *options):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    return subprocess.run(
        [*command, "--virtual-time-budget=2000", *options, path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True, cwd=path.parent,
    ).stdout  # fmt: skip


needs_browser = pytest.mark.skipif(not BROWSER, reason="needs Chromium, as the package chromium")


@needs_browser
def test_a_browser_sorts_the_tables_and_nothing_is_wider_than_a_phone(some, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(some.replace("</body>", f"{_LOOK}</body>"))
    shown = re.search(r'<pre id="answer">(.*?)</pre>', browse(path, "--dump-dom"))
    answer = json.loads(html.unescape(shown[1]))
    up = ["99.5 ± 0.25", "99.75 ± 0.25", "100.25 ± 0.25", "1,000 ± 0.25"]
    assert answer["up"] == up
    assert answer["down"] == up[::-1]
    assert answer["empty_last"] == ["101.5", "", "", ""]
    assert answer["outside"] == []
    assert answer["images"]
    assert answer["loaded"] == []


@needs_browser
def test_a_browser_shows_the_page_in_light_and_dark(some, tmp_path):
    (path := tmp_path / "page.html").write_text(some)
    grounds = []
    for scheme in (1, 0):  # light, dark
        image = tmp_path / f"{scheme}.png"
        options = f"--blink-settings=preferredColorScheme={scheme}", "--window-size=600,900"
        browse(path, *options, f"--screenshot={image}")
        pixels = matplotlib.image.imread(image)[..., :3]
        assert pixels.std() > 0.05  # there is text on it
        grounds.append(pixels[0, 0].mean())
    assert grounds[0] > 0.95
    assert grounds[1] < 0.2
