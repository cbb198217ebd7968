"""A browser without JavaScript: keeps cookies, parses pages and submits their forms."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import httpx
from fastapi import FastAPI

ORIGIN = "http://127.0.0.1:8000"
_SPACED_TAGS = {
    "p",
    "h1",
    "h2",
    "h3",
    "li",
    "dd",
    "dt",
    "div",
    "section",
    "button",
    "label",
    "span",
    "option",
    "time",
    "td",
    "th",
}


@dataclass
class PageForm:
    """A form of a page with the fields it would submit."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """A parsed page: its text, links, images and forms."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__()
        self.response = response
        self.status = response.status_code
        self.forms: list[PageForm] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.inline: list[str] = []
        self._text: list[str] = []
        self._hidden = 0
        self._field: tuple[str, str] | None = None
        self.feed(response.text)

    @property
    def text(self) -> str:
        """The visible text with single spaces."""
        return " ".join("".join(self._text).split())

    def form(self, action: str) -> PageForm:
        """Return the first form whose action ends with `action`."""
        return next(form for form in self.forms if form.action.endswith(action))

    @property
    def actions(self) -> list[str]:
        """The last path segment of every form's action."""
        return [form.action.rpartition("/")[2] for form in self.forms]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.inline += [name for name in attributes if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in attributes):
            self.inline.append(tag)
        if tag in {"script", "style", "title", "svg"}:
            self._hidden += 1
        if tag in _SPACED_TAGS:
            self._text.append(" ")
        if tag == "a":
            self.links.append(attributes.get("href", ""))
        if tag == "img":
            self.images.append(attributes.get("src", ""))
        if tag == "form":
            self.forms.append(
                PageForm(attributes.get("action", ""), attributes.get("method", "get"))
            )
        if self.forms:
            self._add_field(tag, attributes)

    def _add_field(self, tag: str, attributes: dict[str, str]) -> None:
        fields, name = self.forms[-1].fields, attributes.get("name", "")
        chosen = (
            attributes.get("type") not in {"radio", "checkbox", "submit"} or "checked" in attributes
        )
        if tag == "input" and name and chosen:
            fields[name] = attributes.get("value", "")
        if tag in {"textarea", "select"}:
            self._field = (tag, name)
            fields[name] = ""
        if tag == "option" and self._field and ("selected" in attributes):
            fields[self._field[1]] = attributes.get("value", "")
        if tag == "button" and name:
            self.forms[-1].buttons.append(f"{name}={attributes.get('value', '')}")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style", "title", "svg"}:
            self._hidden -= 1
        if tag in _SPACED_TAGS:
            self._text.append(" ")
        if self._field and tag == self._field[0]:
            self._field = None

    def handle_data(self, data: str) -> None:
        if self._field and self._field[0] == "textarea":
            self.forms[-1].fields[self._field[1]] += data
        elif not self._hidden:
            self._text.append(data)


class Browser(httpx.AsyncClient):
    """A browser session; `origin` is sent as the Origin of submitted forms."""

    def __init__(self, app: FastAPI, origin: str = ORIGIN) -> None:
        super().__init__(
            transport=httpx.ASGITransport(app=app), base_url=origin, follow_redirects=True
        )
        self.origin = origin

    async def open(self, path: str, **more: Any) -> Page:
        """Fetch a page."""
        return Page(await self.get(path, **more))

    async def submit(
        self, form: PageForm, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> Page:
        """Submit a form with changed fields; None omits a field."""
        data = {
            name: value for name, value in {**form.fields, **fields}.items() if value is not None
        }
        all_headers = {"Origin": self.origin, "Sec-Fetch-Site": "same-origin"} | (headers or {})
        return Page(await self.post(form.action, data=data, headers=all_headers))
