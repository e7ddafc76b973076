"""Curves over seeds, and how plots are drawn."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from lightning_rl.report.curves import Line, summary
from lightning_rl.report.svg import Bar, Series, element, interval_plot, line_plot, short, standalone, ticks


def line(x: list[float], y: list[float]) -> Line:
    return Line(np.array(x), np.array(y))


class TestCurves:
    def test_three_runs_are_a_mean_with_students_interval(self) -> None:
        curve = summary([line([0.0, 1.0], [height, height + 1]) for height in (1.0, 2.0, 3.0)])

        half = 4.30265 / 3**0.5  # of three runs with a standard deviation of 1
        assert curve["x"] == [0.0, 1.0]
        assert curve["mean"] == [2.0, 3.0]
        assert curve["ci95"][0] == pytest.approx([2 - half, 3 - half], rel=1e-4)
        assert curve["ci95"][1] == pytest.approx([2 + half, 3 + half], rel=1e-4)

    def test_the_mean_begins_and_ends_where_all_runs_have_points(self) -> None:
        lines = [line([0.0, 2.0, 4.0], [0.0, 2.0, 4.0]), line([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])]
        curve = summary([*lines, line([0.5, 2.0, 3.5, 5.0], [0.5, 2.0, 3.5, 5.0])])

        assert curve["x"] == [1.0, 2.0, 3.0]
        assert curve["mean"] == curve["x"]

    def test_two_runs_are_two_lines(self) -> None:
        curve = summary([line([0.0, 1.0], [1.0, 2.0]), line([0.0, 1.0], [2.0, 3.0])])

        assert curve == {"runs": [{"x": [0.0, 1.0], "y": [1.0, 2.0]}, {"x": [0.0, 1.0], "y": [2.0, 3.0]}]}

    def test_long_curves_are_thinned_and_keep_their_ends(self) -> None:
        [run] = summary([line(list(map(float, range(1000))), list(map(float, range(1000))))])["runs"]

        assert len(run["x"]) == 60
        assert (run["x"][0], run["x"][-1]) == (0.0, 999.0)


class TestDrawing:
    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [
            (0, 500_000, [0, 100_000, 200_000, 300_000, 400_000, 500_000]),
            (-0.03, 0.21, [0, 0.05, 0.1, 0.15, 0.2]),
            (3.0, 4.0, [3.0, 3.2, 3.4, 3.6, 3.8, 4.0]),
        ],
    )
    def test_ticks_are_round(self, low: float, high: float, expected: list[float]) -> None:
        assert ticks(low, high) == pytest.approx(expected)

    def test_large_numbers_are_short(self) -> None:
        assert [short(value) for value in (0.25, 250, 2500, 2_500_000)] == ["0.25", "250", "2.5 k", "2.5 M"]

    def test_a_file_of_its_own_has_its_colors_and_a_legend(self) -> None:
        series = [Series(3, [0.0, 1.0], [0.0, 10.0])]
        drawn = line_plot(series, title="t", x_label="x", alt="a", legend=[(3, "<script>ppo & co")])
        plain = line_plot(series, title="t", x_label="x", alt="a")

        root = ET.fromstring(standalone(drawn, ".s3 { stroke: red; }", sign="<!-- ours -->"))

        svg = "{http://www.w3.org/2000/svg}"
        assert root.tag == f"{svg}svg"
        assert root.findtext(f"{svg}style") == "\n.s3 { stroke: red; }"
        assert "<script>ppo & co" in [text.text for text in root.iter(f"{svg}text")]
        assert float(root.attrib["height"]) == float(ET.fromstring(plain).attrib["height"]) + 16

    def test_texts_and_attributes_are_escaped(self) -> None:
        assert element("text", "<b>", class_='"x"') == '<text class="&#34;x&#34;">&lt;b&gt;</text>'

    def test_a_line_goes_through_its_points(self) -> None:
        drawn = line_plot([Series(0, [0.0, 1.0], [0.0, 10.0])], title="t", x_label="x", alt="a", y_range=(0.0, 10.0))

        [points] = [node.attrib["points"].split() for node in ET.fromstring(drawn).iter("polyline")]
        assert points == ["46.0,200.0", "342.0,26.0"]  # the frame's lower left and upper right

    @pytest.mark.parametrize("value", [0.0, 5.0])
    def test_a_single_point_is_drawn(self, value: float) -> None:
        drawn = line_plot([Series(1, [value], [value])], title="t", x_label="x", alt="a")

        assert len(list(ET.fromstring(drawn).iter("polygon"))) == 1

    def test_an_interval_spans_its_ends_and_a_group_without_one_is_a_mark(self) -> None:
        drawn = ET.fromstring(
            interval_plot([Bar(0, "a", 0.5, [0.0, 1.0]), Bar(0, "b", 0.5, None)], title="t", x_label="x", alt="a")
        )

        [interval] = [node for node in drawn.iter("line") if "solid" in node.attrib["class"]]
        marks = [node.attrib for node in drawn.iter("circle")]
        ends = float(interval.attrib["x1"]), float(interval.attrib["x2"])
        assert len(marks) == 2
        assert float(marks[0]["cx"]) == pytest.approx(sum(ends) / 2, abs=0.1)
        assert drawn.attrib["aria-label"] == "a"

    def test_a_long_name_takes_several_lines_none_of_which_parts_an_option_from_its_value(self) -> None:
        names = [f"ppo, num_levels 200, total_env_steps 500000 > ppo, hidden {size}" for size in (32, 64)]
        drawn = ET.fromstring(
            interval_plot([Bar(0, name, 0.5, None) for name in names], title="t", x_label="x", alt="a")
        )

        lines = [node for node in drawn.iter("text") if node.attrib["text-anchor"] == "end"]
        heights = [float(line.attrib["y"]) for line in lines]
        first = ["ppo, num_levels 200,", "total_env_steps 500000 > ppo,", "hidden 32"]
        assert [line.text for line in lines] == [*first, *first[:2], "hidden 64"]
        assert heights == sorted(set(heights))
        marks = [float(node.attrib["cy"]) for node in drawn.iter("circle")]
        assert marks == pytest.approx([heights[1] - 4, heights[4] - 4])

    def test_a_legend_grows_with_its_names(self) -> None:
        name = ", ".join(f"an_option {number}" for number in range(6))
        drawn = line_plot([Series(0, [0, 1], [0, 1])], title="t", x_label="x", alt="a", legend=[(0, name), (1, "b")])

        root = ET.fromstring(drawn)
        lines = [node for node in root.iter("text") if node.attrib["text-anchor"] == "start"]
        assert " ".join(line.text or "" for line in lines) == f"{name} b"
        assert all(float(line.attrib["y"]) < float(root.attrib["height"]) for line in lines)
