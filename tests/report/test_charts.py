import math
import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from plantune_lite.evaluate.stats import Estimate
from plantune_lite.report.charts import curves, shares

SVG = "{http://www.w3.org/2000/svg}"
numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


def texts(svg):
    return [one.text for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@given(st.lists(st.tuples(st.integers(0, 10**6), numbers), max_size=40))
def test_any_curve_is_well_formed_and_within_its_frame(points):
    svg = curves("loss", {"training": points})
    if not any(math.isfinite(value) for _, value in points):
        assert svg == ""
        return
    root = ElementTree.fromstring(svg)
    for circle in root.iter(f"{SVG}circle"):
        assert 0 <= float(circle.get("cx")) <= 640 and 0 <= float(circle.get("cy")) <= 260
    for path in root.iter(f"{SVG}path"):
        places = [tuple(map(float, pair.split())) for pair in path.get("d")[1:].split("L")]
        assert all(0 <= x <= 640 and 0 <= y <= 260 for x, y in places)


def test_a_share_stands_between_the_ends_of_its_interval_and_says_its_figure():
    svg = shares("own", [("untuned", Estimate(0.03, 0.01, 0.06)), ("m1", Estimate(0.4, 0.33, 0.47))])
    root = ElementTree.fromstring(svg)
    for line, dot in zip(root.findall(f"{SVG}line[@class='i c1']"), root.findall(f"{SVG}circle")[1:], strict=True):
        assert float(line.get("x1")) < float(dot.get("cx")) < float(line.get("x2"))
    assert "40.0 %" in texts(svg) and "untuned" in texts(svg)


def test_a_name_is_text_and_never_markup():
    svg = curves("<script>alert(1)</script>", {'"><b>': [(1, 1.0), (2, 2.0)]})
    assert "<script" not in svg and "<b>" not in svg and '"><b>' in texts(svg)
