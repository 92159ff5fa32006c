from datetime import UTC, datetime

import pytest
from django.template import Context, Template
from django.test import override_settings

from portal.frame.templatetags import components


def render(source: str, **context) -> str:
    return Template("{% load components %}" + source).render(Context(context))


def words(html: str) -> str:
    import re

    return " ".join(re.sub(r"<[^>]+>", "", html).split())


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("0.873 0.861 0.884 26", "0.87 [0.86–0.88] n=26"),
        ("0.8734 0.8612 0.8841 26 3", "0.873 [0.861–0.884] n=26"),
        ("-0.11 -0.21 -0.01 236", "−0.11 [−0.21 to −0.01] n=236"),
        ("0.01 -0.02 0.04 9", "0.01 [−0.02 to 0.04] n=9"),
        ("None None None 12", "insufficient data (n=12)"),
        ("0.9 0.8 1.0 12 needs=30", "insufficient data (n=12, needs 30)"),
        ("1.0 None None 40", "1.00 no interval n=40"),
        ("-0.001 -0.004 0.004 5", "0.00 [0.00 to 0.00] n=5"),
    ],
)
def test_an_estimate_never_stands_without_interval_and_n(arguments, shown):
    assert words(render(f"{{% est {arguments} %}}")) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.412, "41 %"), (1, "100 %"), (0.004, "0.4 %"), (0, "0 %"), (None, "–")])
def test_percent(value, shown):
    assert components.percent(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(41, "41 s"), (138, "2:18 min"), (4200, "1 h 10 min"), (0.25, "0.2 s"), (None, "–")]
)
def test_duration(seconds, shown):
    assert components.duration(seconds) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("DEMO^ANNA", "DEMO, ANNA"),
        ("Adams^John Robert Quincy^^Rev.^B.A. M.Div.", "Adams, John Robert Quincy"),  # PS3.5 6.2.1.1
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou"),  # PS3.5 H.3.1
        ("Plain", "Plain"),
        ("", ""),
    ],
)
def test_person_names_are_written_as_people_do(name, shown):
    assert components.person_name(name) == shown


@override_settings(TIME_ZONE="Europe/Berlin")
def test_moments_are_local():
    assert words(components.moment(datetime(2026, 11, 23, 13, 32, tzinfo=UTC))) == "23 Nov 2026 14:32"


def test_state_has_shape_word_and_colour():
    html = render("{% state 'failed' %}")
    assert 'data-s="bad"' in html
    assert "#i-bad" in html
    assert words(html) == "Failed"


def test_progress_that_is_not_known_says_so():
    assert 'data-s="unknown"' in render("{% progress None 'Counting' %}")
    assert 'aria-valuenow="62"' in render("{% progress 0.62 'Epoch 5 of 8' %}")
    assert 'aria-valuenow="100"' in render("{% progress 1.7 '' %}")


def test_texts_are_escaped():
    html = render(
        "{% pill 'ok' text %}{% prov who=text %}{% empty 'studies' text text %}{% failure text text %}", text="<b>"
    )
    assert "<b><b>" not in html.replace("&lt;b&gt;", "")
    assert html.count("&lt;b&gt;") == 6


def test_chart_data_cannot_close_its_script():
    html = render(
        "{% chart 'roc' spec 'label' %}", spec={"data": [{"name": "</script><script>alert(1)"}], "layout": {}}
    )
    assert "</script><script>alert" not in html
