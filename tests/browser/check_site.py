"""The built site in a real browser, from a server on this machine: `make browser`."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

import gan_blocks

ROOT = Path(__file__).parents[2]
BLOCKS = ROOT / "docs" / "blocks"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SCHEMES = {"light": "default", "dark": "slate"}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No line for each file."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """The site, built strictly."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture(scope="session")
def pages(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.html"))


@pytest.fixture(scope="session")
def server(folder) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.exit("no browser found: `apt-get install chromium`, or put Chrome on the path", 1)
    with sync_playwright() as playwright:
        # Root, as in containers, has no sandbox to run it in.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A tab, and all that went wrong in it."""

    def __init__(self, page: Page, server: str) -> None:
        self.page, self.server, self.problems = page, server, []
        page.set_default_timeout(10_000)
        page.route(lambda url: not url.startswith(server), self._elsewhere)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("response", self._answered)

    def open(self, path: str) -> None:
        self.page.goto(self.server + path, wait_until="load")

    def _elsewhere(self, route) -> None:
        if route.request.url.startswith(("data:", "blob:")):
            route.continue_()
        else:
            self.problems.append(f"asks for {route.request.url}")
            route.abort()

    def _said(self, message) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text}")

    def _answered(self, response) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")


@pytest.fixture
def visit(browser, server, request) -> Iterator[Visit]:
    """A tab of the size and in the scheme that the test asks for."""
    size, scheme = getattr(request, "param", (DESKTOP, "light"))
    context = browser.new_context(
        viewport=size, color_scheme=scheme, permissions=["clipboard-read", "clipboard-write"]
    )
    yield Visit(context.new_page(), server)
    context.close()


WIDE, NARROW = (DESKTOP, "light"), (PHONE, "light")
EVERY_WAY = [(size, scheme) for size in (DESKTOP, PHONE) for scheme in SCHEMES]
named = {"ids": lambda way: f"{way[0]['width']}-{way[1]}", "indirect": True}


# What is wrong with a page as it is shown. Text that is hidden or in code is left out; contrast is
# that of the Web Content Accessibility Guidelines, whose least for text is 4.5.
LOOK = r"""
() => {
  const found = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push(`scrolls sideways by ${root.scrollWidth - root.clientWidth}`);
  for (const image of document.images) {
    if (image.loading === "lazy") continue;
    if (!image.complete || image.naturalWidth === 0) found.push(`no image: ${image.src}`);
    if (!image.alt.trim()) found.push(`no alt text: ${image.src}`);
    const box = image.parentElement.getBoundingClientRect();
    if (image.getBoundingClientRect().right > box.right + 1) found.push(`too wide: ${image.src}`);
  }
  for (const formula of document.querySelectorAll("article math")) {
    if (formula.closest("details:not([open])")) continue;
    const box = formula.getBoundingClientRect();
    if (!(box.width > 2 && box.height > 2)) found.push(`empty formula: ${formula.textContent}`);
  }
  for (const table of document.querySelectorAll("article table:not(.highlighttable)")) {
    const box = table.closest(".md-typeset__scrollwrap");
    if (!box) found.push("a table without a box to scroll in");
  }
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((x, i) => x * top[3] + below[i] * (1 - top[3]));
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(rgba(getComputedStyle(e).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || element.closest("script, style, .headerlink, nav, .md-search, [aria-hidden=true]")) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (!element.closest("code, pre, .doc-signature") && /\$|\\[(\[a-zA-Z]/.test(text)) found.push(`raw formula: ${text}`);
    const back = behind(element), front = over(rgba(getComputedStyle(element).color), back);
    const [dark, bright] = [light(back), light(front)].sort((a, b) => a - b);
    const contrast = (bright + 0.05) / (dark + 0.05);
    if (contrast < 4.5) faint.set(`${element.tagName} ${element.className}`, `${contrast.toFixed(1)}: ${text.slice(0, 40)}`);
  }
  for (const [key, value] of faint) found.push(`faint ${key} ${value}`);
  return found;
}
"""  # noqa: E501


@pytest.mark.parametrize("visit", [(DESKTOP, scheme) for scheme in SCHEMES], **named)
def test_every_page_is_whole_readable_and_asks_nothing_of_the_network(visit, pages):
    wrong = {}
    for path in pages:
        visit.problems.clear()
        problems = []
        visit.page.set_viewport_size(DESKTOP)
        visit.open(path)
        for size in (DESKTOP, PHONE):
            visit.page.set_viewport_size(size)
            problems += [f"{size['width']}: {problem}" for problem in visit.page.evaluate(LOOK)]
        if problems or visit.problems:
            wrong[path] = visit.problems + problems
    assert wrong == {}


def test_formulas_are_drawn(visit):
    visit.open("blocks/losses/hinge_loss.html")
    assert visit.page.locator("article math").count() > 3


def scheme_of(page: Page) -> str | None:
    return page.locator("body").get_attribute("data-md-color-scheme")


@pytest.mark.parametrize("visit", EVERY_WAY, **named)
def test_the_theme_follows_the_reader_and_the_switch_and_stays(visit):
    page = visit.page
    visit.open("index.html")
    before = scheme_of(page)
    assert before in SCHEMES.values()
    page.locator("form[data-md-component=palette] label:visible").click()
    after = scheme_of(page)
    assert {before, after} == set(SCHEMES.values())
    visit.open("blocks/losses/hinge_loss.html")
    assert scheme_of(page) == after
    assert visit.problems == []


@pytest.mark.parametrize("visit", [WIDE], **named)
def test_tabs_and_the_side_bar_lead_to_a_page(visit):
    page = visit.page
    visit.open("index.html")
    tabs = page.locator(".md-tabs__list")
    assert tabs.evaluate("tabs => tabs.scrollWidth <= tabs.clientWidth"), "too many tabs"
    tabs.get_by_text("Blocks", exact=True).click()
    page.wait_for_url("**/blocks/index.html")
    bar = page.locator(".md-sidebar--primary")
    bar.locator("label.md-nav__link:visible", has_text="Losses").click()
    bar.locator("a.md-nav__link:visible", has_text="HingeLoss").click()
    page.wait_for_url("**/blocks/losses/hinge_loss.html")
    assert page.locator("h1").inner_text().startswith("HingeLoss")
    assert visit.problems == []


@pytest.mark.parametrize("visit", [NARROW], **named)
def test_the_menu_of_a_phone_leads_to_a_page(visit):
    page = visit.page
    visit.open("index.html")
    menu = page.locator(".md-sidebar--primary")
    expect(menu).not_to_be_in_viewport()
    page.locator("header label[for=__drawer]").click()
    expect(menu).to_be_in_viewport()
    menu.locator("label.md-nav__link:visible", has_text="Recipes").click()
    menu.locator("a.md-nav__link:visible", has_text="Super-resolution").click()
    page.wait_for_url("**/recipes/super_resolution.html")
    assert page.locator("h1").inner_text().startswith("Super-resolution")
    assert visit.problems == []


def test_the_copy_button_of_a_block_of_code_copies_it(visit):
    page = visit.page
    visit.open("index.html")
    block = page.locator("div.highlight").first
    block.hover()
    block.locator("button[data-clipboard-target], button[data-md-type=copy]").click()
    page.get_by_text("Copied to clipboard").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == block.locator("code").inner_text().strip()
    assert "d_optimiser.step()" in copied
    assert visit.problems == []


def found(page: Page, query: str) -> list[str]:
    """The pages that the search lists, best first."""
    field, results = page.locator("[data-md-component=search-query]"), page.locator(RESULT)
    for text in ("", query):
        field.fill(text)
        field.press("End")  # it listens to keys
        if not text:
            expect(results).to_have_count(0)
    expect(page.locator(".md-search-result__meta")).to_have_text(re.compile("document|match"))
    links = results.evaluate_all("links => links.map(link => link.href)")
    return list(dict.fromkeys(re.sub(r".*?//[^/]+/|[?#].*", "", link) for link in links))


RESULT = ".md-search-result__item > a"


def wanted() -> dict[str, set[str]]:
    """What people search for, and the pages of which one has to be among the first three.

    Each block is found by its name, by each name under "Also known as", and by the first author of its
    papers with such a name; and each paper by its arXiv number.
    """
    queries: dict[str, set[str]] = {}
    for path in sorted(BLOCKS.glob("*/*.md")):
        text, url = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT / "docs"))[:-2]
        known = re.search(r"^Also known as: ([^.]+)\.", text, re.MULTILINE)
        if known is None:  # the index of a kind
            continue
        names = [text.split(maxsplit=2)[1], *" ".join(known[1].split()).split(", ")]
        for name in names:
            queries.setdefault(name.lower(), set()).add(f"{url}html")
        source = inspect.getdoc(getattr(gan_blocks, names[0])) or ""
        source = source.partition("\nReference:\n")[2]
        for author in re.findall(r"(?:^\s*|; )([A-Z]\w+)(?: et al\.|,| and)", source)[:1]:
            queries.setdefault(f"{author} {names[1]}", set()).add(f"{url}html")
        for number in re.findall(r"arXiv:([\d.]+\d)", source):
            queries.setdefault(number, set()).add(f"{url}html")
    for query, pages in OTHERS.items():
        queries.setdefault(query, set()).update(pages)
    return queries


OTHERS = {
    "lipschitz": {"lipschitz.html"},
    "spectral norm": {"blocks/constraints/spectral_norm.html"},
    "0-centered GP": {"blocks/penalties/r1_penalty.html"},
    "label smoothing": {"blocks/losses/non_saturating_loss.html", "mode_collapse.html"},
    "ADA": {"blocks/layers/diff_augment.html"},
    "TTUR": {"trainer.html"},
    "exponential moving average": {"ema.html"},
    "EMA": {"ema.html"},
    "DDP": {"distributed.html"},
    "FID": {"evaluation.html"},
    "Inception score": {"evaluation.html"},
    "mode collapse": {"mode_collapse.html"},
    "Dirac-GAN": {"dirac_gan.html"},
    "torch.compile": {"compile.html"},
    "plugin": {"plugins.html"},
    "f-gan": {"blocks/divergences/index.html", "fgan_table.html"},
    "Salimans": {
        "blocks/layers/minibatch_discrimination.html",
        "blocks/layers/virtual_batch_norm.html",
        "blocks/auxiliary/feature_matching_loss.html",
        "blocks/auxiliary/historical_averaging.html",
        "mode_collapse.html",
    },
    "Mescheder": {
        "blocks/penalties/r1_penalty.html",
        "blocks/penalties/r2_penalty.html",
        "dirac_gan.html",
    },
    "Nowozin": {"blocks/losses/f_divergence_loss.html", "fgan_table.html"},
    "Nowozin f-GAN": {"blocks/divergences/index.html", "fgan_table.html"},
    "Miyato": {"blocks/constraints/spectral_norm.html", "blocks/networks/res_net_generator.html"},
    "Kodali": {"blocks/penalties/dragan_penalty.html"},
}
"""Pages that are no block's, and questions that name no block."""


def test_search_finds_each_block_by_its_names_and_its_paper(visit):
    page = visit.page
    visit.open("index.html")
    page.locator("[data-md-component=search-query]").click()
    missed = {}
    for query, pages in wanted().items():
        first = found(page, query)[:3]
        if not pages & set(first):
            missed[query] = {"wanted": sorted(pages), "first": first}
    assert missed == {}
    assert visit.problems == []
