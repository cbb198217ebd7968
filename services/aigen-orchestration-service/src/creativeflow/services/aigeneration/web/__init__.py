"""The web pages: made on the server, complete without a script, and live where there is one.

A page is added in five steps:

1. A template that extends `base.html` and fills its blocks `title` and `content`. What changes
while somebody looks is
   a block of its own inside an element with `data-live="<name of the block>"` and
   `data-stream="<address of events>"`: `live.js` fetches that block anew (`page` answers a block
   alone to the header `X-Part`) and swaps what differs. Such a block imports the macros that it
   uses. A page that also answers forms names its own address in `data-from`; `data-refresh-seconds`
   on the block's first element is for what no stream tells.
2. A module with a router, made by `pages_router()`, that is included by `app.py`. An endpoint takes
a `StudioVisitor`
   or an `OperatorVisitor`, and answers `page(request, "name.html", ...)`; one that changes
   something is a POST, takes a `Form`, and ends in `see_other(...)`. All three are dependencies of
   `visitors.py`, so that who may come and whether the form is ours is decided before the endpoint
   runs. Any `AigenError` that leaves it becomes a page in plain words.
3. Every form begins with `{{ csrf_field() }}`; scripts send the same token as `X-CSRF-Token`.
4. What many requests together show listens to `/console/stream`, which says that something has
happened, by one look
   of each process for all viewers; figures are kept for a moment in `overview.py`.
5. A new section of the navigation is one line in `SECTIONS` of `rendering.py`; errors below a new
first part of a path
   become pages when it stands in `PATHS` of `failures.py`. Styles and scripts are files below
   `static/`, linked with
   `static("name")`; nothing inline, nothing from elsewhere.
"""
