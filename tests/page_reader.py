"""A page's elements, their attributes and its text."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Collects what a page holds."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        """The attributes of each element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def assert_links_have_their_places(self):
        """Every link leads to a place within the page, and every place has one."""
        places = {attributes["id"] for _, attributes in self.elements if "id" in attributes}
        assert {link["href"] for link in self.of("a")} == {f"#{place}" for place in places}
