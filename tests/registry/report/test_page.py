"""The report's page in headless Chromium: hover, click, filter, sort, light and dark, without a network."""

# ruff: noqa: E402 (optional packages are checked before they are imported)

import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ulzoo.registry.report.html_report import write_report
from ulzoo.registry.sweeps.store import Store

pytest.importorskip("selenium", reason="needs the package selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver", allow_module_level=True)

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

pytestmark = pytest.mark.slow
Browser = Any


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    flags += " disable-component-update disable-sync disable-dev-shm-usage hide-scrollbars window-size=1400,1500"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(demo, tmp_path_factory) -> str:
    return write_report(Store(demo), tmp_path_factory.mktemp("page") / "report.html").as_uri()


@pytest.fixture
def page(chromium, address) -> Iterator[Browser]:
    """The newly opened page; its console must be empty at the end of the test."""
    media(chromium, "light")
    chromium.get(address)
    yield chromium
    assert chromium.get_log("browser") == []


def media(browser: Browser, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def positions(page: Browser) -> list[list[float]]:
    """Pixel coordinates of the drawn points in the plot, by increasing rate."""
    return page.execute_script("return chart.positions")


def move_to(page: Browser, position: list[float]) -> ActionChains:
    """Move the pointer to a position in the plot."""
    plot = page.find_element(By.ID, "plot")
    x, y = round(position[0] - plot.size["width"] / 2), round(position[1] - plot.size["height"] / 2)
    return ActionChains(page, duration=0).move_to_element_with_offset(plot, x, y)


def text(page: Browser, name: str) -> str:
    return page.find_element(By.ID, name).text


def cells(page: Browser, column: int) -> list[str]:
    return [row.find_elements(By.TAG_NAME, "td")[column].text for row in page.find_elements(By.CSS_SELECTOR, "tr.pick")]


def screenshot(page: Browser) -> Image.Image:
    return Image.open(BytesIO(page.get_screenshot_as_png())).convert("RGB")


def test_hovering_shows_the_point(page):
    assert len(positions(page)) == 6 and not page.find_element(By.ID, "tip").is_displayed()
    move_to(page, positions(page)[0]).perform()
    lines = text(page, "tip").splitlines()
    assert lines[:2] == ["1.3_4", "emoji32_tiny channels=4"]
    assert "rate, bits/pixel: 0.184 ± 7.1e-4" in lines and "PSNR, dB: 22.90 ± 0.071" in lines
    assert "mean of 2 seeds" in lines and "loss_factor: 1.3" in lines and "channels: 4" in lines
    move_to(page, [positions(page)[0][0], 5]).perform()
    assert not page.find_element(By.ID, "tip").is_displayed()


def test_clicking_shows_its_reconstructions(page):
    move_to(page, positions(page)[-1]).click().perform()
    assert text(page, "point-heading") == "Point 1.7_8"
    image = page.find_element(By.CSS_SELECTOR, "#point img")
    assert image.get_attribute("alt") == "Reconstructions of 1.7_8"
    assert page.execute_script("return arguments[0].naturalWidth", image) == 1200
    facts = text(page, "point")
    assert "decoder.weighting.loss_factor\n1.7" in facts and "2 T FLOPs" in facts
    selected = page.find_elements(By.CSS_SELECTOR, "tr[aria-current]")
    assert [row.text.split()[0] for row in selected] == ["1.7_8"]


def test_the_papers_values_are_shown_beside(page):
    page.find_element(By.XPATH, "//tr[td/button='1.5_4']").click()
    assert "0.212 bits/pixel (the paper: 0.3)" in text(page, "point")
    assert len(page.find_elements(By.CSS_SELECTOR, "#plot .paper")) == 1
    page.find_element(By.ID, "paper").click()
    assert not page.find_elements(By.CSS_SELECTOR, "#plot .paper")


def test_keys_reach_every_point(page):
    plot = page.find_element(By.ID, "plot")
    plot.send_keys(Keys.ARROW_RIGHT)
    announcement = page.find_element(By.ID, "announcement").get_attribute("textContent")
    assert announcement.startswith("1.3_4; emoji32_tiny channels=4")
    plot.send_keys(Keys.ARROW_RIGHT, Keys.ENTER)
    assert text(page, "point-heading") == "Point 1.5_4"
    plot.send_keys(Keys.END, Keys.ENTER)
    assert text(page, "point-heading") == "Point 1.7_8"
    plot.send_keys(Keys.ESCAPE)
    assert not page.find_element(By.ID, "tip").is_displayed()


def test_sliders_and_search_filter_plot_and_table(page):
    least = page.find_element(By.CSS_SELECTOR, "fieldset[data-key='decoder.weighting.loss_factor'] input")
    least.send_keys(Keys.ARROW_RIGHT)
    assert text(page, "count") == "8 of 12 rows" and len(positions(page)) == 4
    assert set(cells(page, 0)) == {"1.5_4", "1.7_4", "1.5_8", "1.7_8"}
    page.find_element(By.ID, "search").send_keys("_8")
    assert text(page, "count") == "4 of 12 rows" and len(positions(page)) == 2
    page.find_element(By.ID, "search").send_keys("nothing")
    assert page.find_element(By.ID, "plot").text == "No point passes the filters."
    page.find_element(By.ID, "reset").click()
    assert text(page, "count") == "all 12 rows" and len(positions(page)) == 6


def test_the_legend_switches_series(page):
    first, second = page.find_elements(By.CSS_SELECTOR, "#legend button")
    first.click()
    assert first.get_attribute("aria-pressed") == "false" and len(positions(page)) == 3
    assert text(page, "count") == "all 12 rows" and second.get_attribute("aria-pressed") == "true"
    first.click()
    assert len(positions(page)) == 6


def test_axes_colours_and_seeds(page):
    page.find_element(By.ID, "mean").click()
    assert len(positions(page)) == 12 and not page.find_elements(By.CSS_SELECTOR, "#plot .bars")
    Select(page.find_element(By.ID, "x")).select_by_visible_text("decoder.weighting.loss_factor")
    Select(page.find_element(By.ID, "y")).select_by_visible_text("fd demo")
    names = [name.text for name in page.find_elements(By.CSS_SELECTOR, "#plot .name")]
    assert names == ["decoder.weighting.loss_factor", "fd demo (lower is better)"]
    assert not page.find_element(By.ID, "front").is_enabled()
    Select(page.find_element(By.ID, "colour")).select_by_visible_text("decoder.weighting.loss_factor")
    assert [button.text for button in page.find_elements(By.CSS_SELECTOR, "#legend button")] == ["1.3", "1.5", "1.7"]
    assert len(page.find_elements(By.CSS_SELECTOR, "#plot .marks")) == 3
    page.find_element(By.ID, "log").click()
    assert len(positions(page)) == 12


def test_headings_sort_the_table(page):
    heads = page.find_elements(By.CSS_SELECTOR, "#table th")
    psnr = next(i for i, head in enumerate(heads) if head.text.startswith("PSNR"))
    heads[psnr].find_element(By.TAG_NAME, "button").click()
    values = [float(value) for value in cells(page, psnr)]
    assert values == sorted(values) and heads[psnr].get_attribute("aria-sort") == "ascending"
    heads[psnr].find_element(By.TAG_NAME, "button").click()
    assert [float(value) for value in cells(page, psnr)] == sorted(values, reverse=True)
    assert heads[psnr].get_attribute("aria-sort") == "descending"


def test_an_error_is_shown_as_text_and_not_run_as_a_script(page):
    assert page.title == "demo"
    failed = text(page, "failed")
    assert "1.9_8" in failed and "<b>bold</b></script><script>document.title='broken'</script>" in failed
    assert "BD-rate" in text(page, "compared") and "images\n327" in text(page, "protocols")


def test_light_and_dark_by_the_system_and_by_the_switch(page):
    def corner() -> tuple[int, int, int]:
        picture = screenshot(page)
        assert picture.width >= 1200 and len(picture.getcolors(1 << 22)) > 50, "something was drawn"
        return picture.getpixel((5, 5))

    assert min(corner()) > 230
    page.find_element(By.ID, "theme").click()
    assert max(corner()) < 40
    media(page, "dark")
    page.refresh()
    assert max(corner()) < 40
    page.find_element(By.ID, "theme").click()
    assert min(corner()) > 230


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(page, scheme):
    """axe-core reports no violation, not even a minor one."""
    axe = pytest.importorskip("axe_core_python", reason="needs the package axe-core-python")
    media(page, scheme)
    page.execute_script((Path(axe.__file__).parent / "axe.min.js").read_text("utf-8"))
    result = page.execute_async_script("axe.run().then(arguments[0])")
    assert len(result["passes"]) > 20
    assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in result["violations"]] == []


def test_a_narrow_window_needs_no_scrolling_sideways(page):
    try:
        page.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        )
        assert page.execute_script("return document.documentElement.scrollWidth") <= 400
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [1400, 1000, 420])
def test_numbers_and_units_of_a_card_are_not_broken(chromium, make_store, make_row, width):
    figures = {"bits_per_pixel": 0.1, "bits_per_dimension": 1.234, "rfd_efficientnet_lite0": 123.4, "psnr_db": 20.0}
    address = write_report(Store(make_store([make_row(1.3, 4, figures=figures)]))).as_uri()
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        chromium.get(address)
        lines = "return [...document.querySelectorAll('#point .value')].map((e) => e.getClientRects().length)"
        assert set(chromium.execute_script(lines)) == {1}
        overflow = "return [...document.querySelectorAll('#point dl')].some((e) => e.scrollWidth > e.clientWidth + 1)"
        assert not chromium.execute_script(overflow)
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_requested_from_a_network(page, address):
    page.get_log("performance")  # discards the events of the browser's start page
    page.refresh()
    move_to(page, positions(page)[2]).click().perform()
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    requested = {
        event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
    }
    assert address in requested and all(url == address or url.startswith("data:") for url in requested), requested


def test_ten_thousand_rows_stay_usable(chromium, make_store, make_row):
    rows = [make_row(1 + i / 1000, 4 + i % 30, spec_hash=f"{i:064x}", point=f"p{i}") for i in range(10_000)]
    chromium.get(write_report(Store(make_store(rows))).as_uri())
    assert text(chromium, "count") == "all 10,000 rows" and len(positions(chromium)) == 10_000
    assert len(chromium.find_elements(By.CSS_SELECTOR, "*")) < 2000
    milliseconds = chromium.execute_script(
        "const start = performance.now(); refresh(); return performance.now() - start"
    )
    assert milliseconds < 3000, "about 150"
    move_to(chromium, positions(chromium)[5000]).click().perform()
    assert text(chromium, "point-heading").startswith("Point p")
    chromium.find_element(By.ID, "after").click()
    assert text(chromium, "page") == "51–100 of 10,000"
