"""Takes the pictures in docs/screenshots: each page of a running service at three widths, light and dark.

.venv/bin/python docs/screenshots.py [ADDRESS]        with Playwright and Debian's chromium
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent / "screenshots"
WIDTHS = (360, 800, 1400)
MAX_HEIGHT = 1200
QUALITY = 30


def addresses(page: Page) -> dict[str, str]:
    """Every page by its name; those of one file and one job as the lists have them."""
    lists = {
        "gallery": "/",
        "search": "/page/search?q=red+circle",
        "files": "/page/files",
        "jobs": "/page/jobs",
        "batches": "/page/batches",
        "status": "/page/status",
        "try": "/page/try",
    }
    items = {}
    for name, kind in (("picture", "image"), ("recording", "audio"), ("text", "text")):
        page.goto(f"/?kind={kind}")
        items[name] = page.locator(".gallery a").first.get_attribute("href") or "/"
    page.goto("/page/jobs?kind=vlm&state=done")
    return {**lists, **items, "job": page.locator("tbody a").first.get_attribute("href") or "/"}


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for width in WIDTHS:
                context = browser.new_context(base_url=base, color_scheme=scheme, viewport={"width": width, "height": 900})
                page = context.new_page()
                for name, address in addresses(page).items():
                    page.goto(address)
                    page.wait_for_timeout(400)
                    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
                    shot = shot.crop((0, 0, shot.width, min(shot.height, MAX_HEIGHT)))
                    shot.save(FOLDER / f"{name}-{width}-{scheme}.webp", quality=QUALITY, method=6)
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
