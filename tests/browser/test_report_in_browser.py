"""report.html in a headless Chromium: by pointer and by keyboard alone, offline, in any light and width."""

from __future__ import annotations

from typing import Any

import pytest
from browser_support import RUNS, whole_run
from report_support import HOSTILE

from evonnx.report.reading import read_run
from evonnx.report.tables import times
from evonnx.text import plain

PANELS = ["overview", "layers", "speed", "choice", "lineage", "pinned", "record"]
RUN = read_run(whole_run())


def visible_panels(page: Any) -> list[str]:
    return page.eval_on_selector_all(
        ".panel", "all => all.filter(one => one.offsetHeight).map(one => one.id)"
    )


def active(page: Any) -> Any:
    """The element that has the focus."""
    return page.evaluate_handle("document.activeElement").as_element()


@pytest.mark.parametrize(
    "name",
    [name if name == "hostile" else pytest.param(name, marks=pytest.mark.slow) for name in RUNS],
)
def test_every_run_opens_without_a_fault(opened: Any, name: str) -> None:
    page = opened(name)
    for tab in page.get_by_role("tab").all():
        tab.click()
        assert len(visible_panels(page)) == 1


def test_tabs_work_by_keyboard_and_the_address_remembers(opened: Any) -> None:
    page = opened()
    assert visible_panels(page) == ["overview"]
    page.keyboard.press("Tab")
    assert active(page).inner_text() == "Skip to the figures"
    page.keyboard.press("Tab")
    seen = []
    for _ in range(len(PANELS) + 1):
        seen += visible_panels(page)
        page.keyboard.press("ArrowRight")
    assert seen == [*PANELS, "overview"]
    for key, panel in (
        ("End", "record"),
        ("ArrowRight", "overview"),
        ("ArrowLeft", "record"),
        ("Home", "overview"),
    ):
        page.keyboard.press(key)
        assert visible_panels(page) == [panel]
    page.keyboard.press("End")
    page.reload()
    assert visible_panels(page) == ["record"]
    selected = page.eval_on_selector_all("[role=tab][aria-selected=true]", "all => all.map(one => one.hash)")
    assert selected == ["#record"]


def bars(page: Any) -> list[dict[str, float]]:
    """Per layer, the widths of its three parts in pixels."""
    return page.eval_on_selector_all(
        ".stack",
        """all => all.map(one => Object.fromEntries(
            [...one.children].map(part => [part.className, part.getBoundingClientRect().width])))""",
    )


def test_the_slider_shows_what_the_record_says_of_every_generation(opened: Any) -> None:
    page = opened(panel="layers")
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    for index, entry in enumerate(RUN.entries):
        name = entry.label.replace("best", "best.onnx") if index else "Ancestor"
        assert slider.get_attribute("aria-valuetext").endswith(name)
        live = sum(layer.synapses for layer in entry.layers)
        assert f"{live:,} of {RUN.entries[0].synapses:,} synapses live" in page.locator("#fate").inner_text()
        full = page.locator(".stack").first.bounding_box()["width"]
        for layer, widths in zip(entry.layers, bars(page), strict=True):
            assert widths["lives"] == pytest.approx(full * layer.survival, abs=1.5)
            assert sum(widths.values()) == pytest.approx(full, abs=1.5)
        cells = page.locator(".bars tbody tr td:nth-child(3)").all_inner_texts()
        assert cells == [f"{layer.synapses:,} of {layer.synapses_ancestor:,}" for layer in entry.layers]
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "Generation 3"


@pytest.mark.slow
def test_what_died_is_what_the_parents_had(opened: Any) -> None:
    """Generation 3 descends from 1 and 2: whatever either had was there to inherit."""
    page = opened(panel="layers")
    page.get_by_role("slider").fill("3")
    one, two, three = RUN.entries[1:4]
    died = sum(
        max(a.synapses, b.synapses, c.synapses) - c.synapses
        for a, b, c in zip(one.layers, two.layers, three.layers, strict=True)
    )
    assert f"{died:,} died in this step" in page.locator("#fate").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["synapses", "kernels", "filters", "channels"])
def test_layers_are_counted_in_what_is_asked_for(opened: Any, measure: str) -> None:
    page = opened(panel="layers")
    page.get_by_role("slider").fill("2")
    page.get_by_role("radio", name=measure).check()
    layers = RUN.entries[2].layers
    live = sum(getattr(layer, measure) for layer in layers)
    whole = sum(getattr(layer, f"{measure}_ancestor") for layer in layers)
    assert f"{live:,} of {whole:,} {measure} live" in page.locator("#fate").inner_text()


@pytest.mark.slow
def test_bars_to_one_scale_are_as_long_as_the_layers_are_large(opened: Any) -> None:
    page = opened(panel="layers")
    page.get_by_role("slider").fill("0")
    page.get_by_role("checkbox").check()
    full = page.locator(".stack").first.bounding_box()["width"]
    sizes = [layer.synapses for layer in RUN.entries[0].layers]
    widths = [one["lives"] for one in bars(page)]
    assert widths == pytest.approx([full * size / max(sizes) for size in sizes], abs=1.5)


@pytest.mark.slow
def test_generations_can_be_stepped_through_and_played(opened: Any) -> None:
    page = opened(panel="layers")
    slider = page.get_by_role("slider")
    page.get_by_role("button", name="Previous generation").click()
    assert slider.input_value() == "2"
    slider.fill("0")
    assert page.get_by_role("button", name="Previous generation").is_disabled()
    page.get_by_role("button", name="Play").click()
    assert page.get_by_role("button", name="Stop").is_visible()
    page.get_by_role("button", name="Play").wait_for()
    assert slider.input_value() == "4"


@pytest.mark.slow
def test_the_picture_follows_the_slider(opened: Any) -> None:
    page = opened(panel="layers")
    slider, table = page.get_by_role("slider"), page.locator(".bars")
    pictures = []
    for value in ("0", "1", "3", "1"):
        slider.fill(value)
        pictures.append(table.screenshot(animations="disabled"))
    assert pictures[1] == pictures[3]
    assert len(set(pictures)) == 3


def test_plots_tell_their_values_to_the_keyboard(opened: Any) -> None:
    page = opened()
    chart = page.locator("#overview .chart").first
    chart.locator(".mark[tabindex='0']").focus()
    first = RUN.entries[0]
    assert (
        active(page)
        .get_attribute("aria-label")
        .startswith(f"0: {times(first.architectural_efficiency)}, test")
    )
    tip = chart.locator(".tip")
    assert tip.inner_text() == active(page).get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith("1: ")
    page.keyboard.press("ArrowDown")
    assert "validation" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()


@pytest.mark.slow
def test_plots_tell_their_values_to_the_pointer(opened: Any) -> None:
    page = opened()
    dot = page.locator("#overview .chart .dot").nth(2)
    box = dot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2 + 3)
    tip = page.locator("#overview .chart").first.locator(".tip")
    assert tip.is_visible()
    assert tip.inner_text() == dot.get_attribute("aria-label")
    page.mouse.move(1, 1)
    assert tip.is_hidden()


@pytest.mark.slow
def test_plots_tell_their_values_to_a_finger(opened: Any) -> None:
    page = opened(width=390, has_touch=True)
    dot = page.locator("#overview .chart .dot").nth(2)
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2 + 4, box["y"] + box["height"] / 2 + 4)
    tip = page.locator("#overview .chart").first.locator(".tip")
    tip.wait_for()
    assert tip.inner_text() == dot.get_attribute("aria-label")


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 1280])
def test_tips_stay_in_the_window(opened: Any, width: int) -> None:
    page = opened(width=width)
    tips = page.eval_on_selector_all(
        "#overview .mark",
        """all => all.map(mark => {
            mark.focus();
            const box = document.querySelector('#overview .tip:not([hidden])').getBoundingClientRect();
            return [mark.getAttribute('aria-label'), box.left, box.right];
        })""",
    )
    assert len(tips) == 26
    assert [label for label, left, right in tips if left < 0 or right > width] == []


def test_legends_show_and_hide_series(opened: Any) -> None:
    page = opened()
    chart = page.locator("#overview .chart").first
    button = chart.get_by_role("button", name="test", exact=True)
    button.focus()
    page.keyboard.press("Space")
    assert button.get_attribute("aria-pressed") == "false"
    assert chart.locator(".series").first.bounding_box() is None
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert chart.locator(".series").first.bounding_box() is not None


@pytest.mark.slow
def test_where_a_series_is_hidden_keys_pass_over_it(opened: Any) -> None:
    page = opened()
    chart = page.locator("#overview .chart").first
    chart.get_by_role("button", name="test", exact=True).click()
    chart.locator(".mark[tabindex='0']").focus()
    assert "validation" in active(page).get_attribute("aria-label")


def test_any_model_is_held_against_the_ancestor(opened: Any) -> None:
    page = opened(panel="speed")
    choice = page.get_by_label("The ancestor against")
    for index, entry in enumerate(RUN.entries[1:], start=1):
        choice.select_option(str(index))
        verdicts = page.locator(".verdict").all_inner_texts()
        assert [one.split()[0] for one in verdicts] == [
            times(entry.latency[batch].ratio) for batch in RUN.batches
        ]
        widths = page.eval_on_selector_all(
            ".track i", "all => all.map(one => one.getBoundingClientRect().width)"
        )
        for batch, (before, after) in zip(
            RUN.batches, zip(widths[::2], widths[1::2], strict=True), strict=True
        ):
            shares = entry.latency[batch].median_ms / RUN.entries[0].latency[batch].median_ms
            assert after / before == pytest.approx(shares, rel=0.02)
        assert f"{entry.bytes:,}" in page.locator("#compare table").inner_text()


@pytest.mark.slow
def test_one_cost_is_shown_at_a_time(opened: Any) -> None:
    page = opened(panel="choice")
    choice = page.get_by_label("Score against")
    names = choice.locator("option").all_inner_texts()
    assert names == ["synapses", "parameters", "MACs", "bytes", "ms at batch 1", "ms at batch 32"]
    for name in names:
        choice.select_option(label=name)
        shown = page.locator(".trade:visible")
        assert [one.get_attribute("data-name") for one in shown.all()] == [name]


@pytest.mark.slow
def test_the_tree_tells_who_descends_from_whom(opened: Any) -> None:
    page = opened(panel="lineage")
    labels = [one.get_attribute("aria-label") for one in page.locator("#lineage .card").all()]
    assert [label.partition("from ")[2] for label in labels] == ["", "0", "1", "1, 2", "3"]
    assert page.locator("#lineage .edge").count() == 5
    page.locator("#lineage .mark[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    assert active(page).get_attribute("aria-label").startswith("generation 1: ")


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("whole", 390),
        *(
            pytest.param(name, width, marks=pytest.mark.slow)
            for name in ("whole", "hostile")
            for width in (320, 768, 1280)
        ),
    ],
)
def test_nothing_is_wider_than_the_window(opened: Any, name: str, width: int) -> None:
    page = opened(name, width=width)
    for tab in page.get_by_role("tab").all():
        tab.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab.inner_text()


@pytest.mark.slow
def test_dark_and_light_follow_the_system(opened: Any) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        page = opened(panel="layers", color_scheme=scheme)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds[scheme] = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(",")))
    assert grounds["light"] > 700
    assert grounds["dark"] < 100


@pytest.mark.slow
def test_bars_keep_their_colours_where_the_system_forces_its_own(opened: Any) -> None:
    page = opened(panel="layers", forced_colors="active")
    page.get_by_role("slider").fill("2")
    colour = "one => getComputedStyle(one).backgroundColor"
    lives, died = (page.locator(f".stack .{name}").first.evaluate(colour) for name in ("lives", "died"))
    assert len({lives, died, page.locator("body").evaluate(colour)}) == 3


def test_hostile_names_stay_text(opened: Any) -> None:
    tags = """Object.entries(Object.groupBy([...document.querySelectorAll('*')], one => one.tagName))
        .map(([tag, all]) => [tag, all.length]).sort()"""
    counts = {name: opened(name).evaluate(tags) for name in ("whole", "hostile")}
    assert counts["whole"] == counts["hostile"]
    page = opened("hostile", panel="layers")
    assert page.locator("img").count() == 0
    assert plain(HOSTILE) in page.locator(".bars th[scope=row]").first.text_content()
    assert plain(HOSTILE) in page.locator("h1").text_content()


def test_the_policy_stops_whatever_is_not_the_pages_own(opened: Any) -> None:
    page = opened()
    page.evaluate(
        """() => {
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.body.append(script);
        document.body.setAttribute('onclick', 'window.ran = true');
        document.body.click();
        document.querySelector('h1').setAttribute('style', 'color: red');
        const image = new Image();
        image.src = 'https://example.com/image.png';
        document.body.append(image);
    }"""
    )
    assert page.evaluate("window.ran") is None
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") != "rgb(255, 0, 0)"
    page.wait_for_timeout(50)
    refused = [fault for fault in opened.faults if "Content Security Policy" in fault]
    assert len(refused) == 4
    opened.faults.clear()
    opened.requests.remove("https://example.com/image.png")  # asked for, and refused


def test_without_script_everything_that_was_recorded_is_there(opened: Any) -> None:
    page = opened(script=False)
    assert visible_panels(page) == PANELS
    assert page.locator("svg:visible").count() == 11
    tables = page.locator("table:visible")
    assert tables.count() >= 7
    for entry in RUN.entries:
        assert f"{entry.bytes:,}" in tables.nth(2).inner_text()
    assert page.locator("button, input, select").count() == 0
    page.get_by_role("link", name="Lineage").click()
    assert page.url.endswith("#lineage")


def nodes(page: Any) -> list[dict[str, Any]]:
    """The accessibility tree, as Chromium hands it to screen readers."""
    session = page.context.new_cdp_session(page)
    return [one for one in session.send("Accessibility.getFullAXTree")["nodes"] if not one["ignored"]]


NAMED = {
    "button",
    "slider",
    "radio",
    "checkbox",
    "combobox",
    "tab",
    "tabpanel",
    "region",
    "image",
    "link",
    "group",
}


@pytest.mark.slow
@pytest.mark.parametrize("panel", PANELS)
def test_whatever_can_be_used_has_a_name(opened: Any, panel: str) -> None:
    page = opened(panel=panel)
    found = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in nodes(page)]
    assert [role for role, name in found if role in NAMED and not name.strip()] == []
    roles = [role for role, _ in found]
    assert {"main", "banner", "contentinfo", "tablist"} <= set(roles)
    assert roles.count("tab") == len(PANELS)
    assert roles.count("tabpanel") == 1


@pytest.mark.slow
@pytest.mark.parametrize("panel", PANELS)
def test_focus_is_seen_wherever_it_goes(opened: Any, panel: str) -> None:
    """Tab reaches everything that can be used, once round, and each of them shows that it has the focus."""
    page = opened(panel=panel)
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        look = page.evaluate(
            """() => {
            const one = document.activeElement;
            if (one === document.body) return null;
            const style = getComputedStyle(one);
            const rect = one.querySelector('rect');
            const stroke = parseFloat(getComputedStyle(rect || one).strokeWidth);
            const marked = one.matches('.pointed') && stroke >= 2;
            const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
            return [one.tagName + '.' + (one.className.baseVal ?? one.className), marked || outlined];
        }"""
        )
        if look is None:
            break
        reached.append(look)
    assert [name for name, seen in reached if not seen] == []
    wanted = page.eval_on_selector_all(
        f"#{panel} button:not(:disabled), #{panel} select, #{panel} input[type=range]",
        "all => all.filter(one => one.offsetHeight).length",
    )
    got = [name for name, _ in reached if name.partition(".")[0] in ("BUTTON", "SELECT")]
    sliders = [name for name, _ in reached if name.startswith("INPUT")]
    assert len(got) + bool(sliders) == wanted


@pytest.mark.slow
def test_touch_targets_are_large_enough(opened: Any) -> None:
    """At least 24 pixels either way (WCAG 2.2, 2.5.8)."""
    page = opened(width=390)
    for tab in page.get_by_role("tab").all():
        tab.click()
        sizes = page.eval_on_selector_all(
            "button, select, nav a",
            """all => all.filter(one => one.offsetHeight).map(one => {
                const box = one.getBoundingClientRect();
                return [one.textContent, Math.min(box.width, box.height)];
            })""",
        )
        assert [name for name, size in sizes if size < 24] == []
