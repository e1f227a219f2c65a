"""What figures show, read from the figure before it is saved."""

import itertools

import matplotlib.patches
import numpy as np
import pytest

from experiments.figures import ESTIMATOR_COLOURS, run, style, sweep, tables, variance


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, in place of files."""
    figures = []
    for module in (run, sweep, tables, variance):
        monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure) or path)
    yield figures
    for figure in figures:
        style.plt.close(figure)


def texts_of(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(style.matplotlib.text.Text)]


def test_every_estimator_has_a_marker_of_its_own():
    """Which the colour-blind see."""
    looks = {name: style.line_of(name, 5)["marker"] for name in ESTIMATOR_COLOURS}
    assert len(set(looks.values())) == len(looks)
    assert style.line_of("iwae_reinmax", 5)["marker"] == looks["iwae"]
    assert style.line_of("of_a_user", 50)["markevery"] == (0, 5)


def test_names_at_the_ends_of_lines_do_not_cover_each_other():
    figure, axes = style.plt.subplots()
    axes.set_ylim(0, 1)
    look = {"color": "black", "marker": "o"}
    style.label_ends(axes, {"a": (1, look), "b": (1, look), "c": (0.99, look)})
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert np.diff(heights).min() >= 0.0449
    assert heights[-1] <= 1
    style.plt.close(figure)


def test_outlines_of_probabilities_begin_and_end_with_their_bars(drawn, tmp_path):
    rows = [
        {"temperature": t, "class": k, "probability": p, "expectation": p, "sample_1": k == 0}
        for t in (0.0, 1.0)
        for k, p in enumerate((0.5, 0.3, 0.2))
    ]
    variance.gumbel_softmax_over_temperature(rows, tmp_path)
    outlines = drawn[0].findobj(matplotlib.patches.StepPatch)
    assert len(outlines) == 2
    values, edges, _ = outlines[0].get_data()
    np.testing.assert_allclose(values, (0.5, 0.3, 0.2))
    np.testing.assert_allclose(edges, (-0.5, 0.5, 1.5, 2.5))


def test_the_loss_is_not_drawn_on_the_axis_of_a_metric(drawn, tmp_path):
    rows = [{"step": s, "loss": 500.0, "valid/nll": 100.0 - s} for s in (1, 2, 3)]
    result = {"test/nll": 96.5, "selected_step": 3}
    run.learning_curve(rows, result, "nll", tmp_path)
    upper, lower = drawn[0].axes
    assert max(line.get_ydata().max() for line in map(as_arrays, upper.lines)) == 99
    assert as_arrays(lower.lines[0]).get_ydata().tolist() == [500.0] * 3
    assert upper.get_ylabel() == "nll, nats per example\n(lower is better)"
    run.learning_curve(rows, result, "rate", tmp_path)
    assert "better" not in drawn[1].axes[0].get_ylabel()


def as_arrays(line):
    line.set_ydata(np.asarray(line.get_ydata()))
    return line


def test_many_latents_are_drawn_as_a_distribution(drawn, tmp_path):
    shares = np.full((200, 2), 0.5)
    shares[:50] = (0.96, 0.04)
    run.shares(shares, "Use", (), tmp_path)
    left, _ = drawn[0].axes
    assert not left.images
    heights = {round(p.get_x(), 2): p.get_height() for p in left.patches if p.get_height()}
    assert sum(heights.values()) == 200
    assert heights[0.95] == 50
    run.shares(shares[:20], "Use", (), tmp_path)
    assert drawn[1].axes[0].images


def test_the_rows_of_an_overlay_have_titles_of_their_own(drawn, tmp_path):
    rows = [
        {"task": "v", "estimator": name, "step": step, "test_nats": 100.0 - step, "row": name}
        for name in ("darn", "rloo")
        for step in (1, 2)
    ]
    cells = [{"estimator": n, "config_hash": n, "other_settings": ""} for n in ("darn", "rloo")]
    curves = {("v", "darn"): ([1, 2], [99.0, 98.0])}
    tables.draw_overlay(rows, cells, curves, {"v": "VAE"}, tmp_path)
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert titles == ["VAE: estimators of the paper", "VAE: later estimators"]
    assert "test nats per image (lower is better)" in texts_of(drawn[0])


def configurations(**axes):
    names = list(axes)
    combinations = itertools.product(*axes.values())
    return names, [
        {**dict(zip(names, one, strict=True)), "valid/nll": 100.0 + i, "seeds": 3,
         "valid/nll_stderr": 0.5}
        for i, one in enumerate(combinations)
    ]  # fmt: skip


@pytest.mark.parametrize("maximize", [False, True])
def test_a_sweep_of_two_fields_is_a_heat_map_with_every_value_and_the_best_marked(
    maximize, drawn, tmp_path
):
    names, rows = configurations(**{"a.learning_rate": (1e-3, 1e-2, 1e-1), "a.floor": (0.5, 1.0)})
    sweep.draw_sweep(rows, names, "nll", maximize, tmp_path)
    texts = texts_of(drawn[0])
    assert {"a.learning_rate", "a.floor", "0.001"} <= set(texts)  # with their underscores
    shown = [text for text in texts if "± 0.5" in text]
    assert len(shown) == 6
    (best,) = [text for text in shown if text.endswith(" *")]
    assert best.startswith("105" if maximize else "100")
    better = "higher" if maximize else "lower"
    assert f"nll on validation ({better} is better)" in texts


@pytest.mark.parametrize(
    ("axes", "maps"),
    [
        ({}, 0),
        ({"estimator": ("rloo", "darn")}, 0),
        ({"a": (1, 2), "b": (1, 2), "c": ("x", "y", None)}, 2),  # one for each value of b
        (dict.fromkeys("abcdef", (1, 2)), 0),
    ],
)
def test_a_sweep_of_other_numbers_of_fields_is_dots_several_maps_or_parallel_coordinates(
    axes, maps, drawn, tmp_path
):
    names, rows = configurations(**axes)
    sweep.draw_sweep(rows, names, "nll", False, tmp_path)
    figure = drawn[0]
    panels = [one for one in figure.axes if one.images and one.get_label() != "<colorbar>"]
    assert len(panels) == maps
    if len(names) == 6:
        paths = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 7]
        assert len(paths) == len(rows) == 64
    assert "mean ± standard error of 3 seeds; * best" in texts_of(figure)
