"""What holds for every page, checked on its text."""

import re


def assert_menu_in_page_order(page: str) -> None:
    """The menu has every section with a heading, each once, in the order of the page."""
    menu = re.findall(r'<a href="#([^"]+)">', page[page.index("<nav>") : page.index("</nav>")])
    body = page[page.index("</header>") :]
    sections = re.findall(r'<section id="([^"]+)">\s*<h2', body)
    assert menu == sections and len(set(menu)) == len(menu) > 0
    assert body.count("<h2") == len(sections), "a heading outside a section that the menu can name"
    assert page.count("<footer") == page.count("Not a medical device: do not use it") == 1
