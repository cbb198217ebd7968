"""A browser without a script: keeps cookies, reads pages, and sends the forms that stand on
them.
"""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import httpx
from fastapi import FastAPI

ORIGIN = "http://127.0.0.1:8000"
_SPACED = {
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
    """A form as it stands on a page, with what would be sent."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """What a person finds on a page: its words, links, pictures and forms."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.answer = answer
        self.status = answer.status_code
        self.forms: list[PageForm] = []
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.inline: list[str] = []
        self._words: list[str] = []
        self._silent = 0
        self._named: tuple[str, str] | None = None
        self.feed(answer.text)

    @property
    def text(self) -> str:
        """All words, with single spaces."""
        return " ".join("".join(self._words).split())

    def form(self, action: str) -> PageForm:
        """The first form whose address ends like this."""
        return next(form for form in self.forms if form.action.endswith(action))

    @property
    def actions(self) -> list[str]:
        """The last part of every form's address."""
        return [form.action.rpartition("/")[2] for form in self.forms]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note."""
        said = {name: value or "" for name, value in attrs}
        self.inline += [name for name in said if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in said):
            self.inline.append(tag)
        if tag in {"script", "style", "title", "svg"}:
            self._silent += 1
        if tag in _SPACED:
            self._words.append(" ")
        if tag == "a":
            self.links.append(said.get("href", ""))
        if tag == "img":
            self.pictures.append(said.get("src", ""))
        if tag == "form":
            self.forms.append(PageForm(said.get("action", ""), said.get("method", "get")))
        if self.forms:
            self._field(tag, said)

    def _field(self, tag: str, said: dict[str, str]) -> None:
        fields, name = self.forms[-1].fields, said.get("name", "")
        chosen = said.get("type") not in {"radio", "checkbox", "submit"} or "checked" in said
        if tag == "input" and name and chosen:
            fields[name] = said.get("value", "")
        if tag in {"textarea", "select"}:
            self._named = (tag, name)
            fields[name] = ""
        if tag == "option" and self._named and ("selected" in said):
            fields[self._named[1]] = said.get("value", "")
        if tag == "button" and name:
            self.forms[-1].buttons.append(f"{name}={said.get('value', '')}")

    def handle_endtag(self, tag: str) -> None:
        """Take note."""
        if tag in {"script", "style", "title", "svg"}:
            self._silent -= 1
        if tag in _SPACED:
            self._words.append(" ")
        if self._named and tag == self._named[0]:
            self._named = None

    def handle_data(self, data: str) -> None:
        """Take note."""
        if self._named and self._named[0] == "textarea":
            self.forms[-1].fields[self._named[1]] += data
        elif not self._silent:
            self._words.append(data)


class Browser(httpx.AsyncClient):
    """Somebody at a browser; `origin` is what it says of the page that sends a form."""

    def __init__(self, app: FastAPI, origin: str = ORIGIN) -> None:
        super().__init__(
            transport=httpx.ASGITransport(app=app), base_url=origin, follow_redirects=True
        )
        self.origin = origin

    async def open(self, path: str, **more: Any) -> Page:
        """Look at a page."""
        return Page(await self.get(path, **more))

    async def submit(
        self, form: PageForm, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> Page:
        """Fill a form in and send it; None leaves a field out."""
        said = {
            name: value for name, value in {**form.fields, **fields}.items() if value is not None
        }
        told = {"Origin": self.origin, "Sec-Fetch-Site": "same-origin"} | (headers or {})
        return Page(await self.post(form.action, data=said, headers=told))
