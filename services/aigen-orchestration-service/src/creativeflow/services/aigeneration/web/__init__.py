"""The web pages: server-rendered, usable without JavaScript, and live with it.

To add a page:

1. Write a template that extends `base.html` and fills its blocks `title` and `content`. Content
   that changes while the page is open goes into a separate block, inside an element with
   `data-live="<name of the block>"` and `data-stream="<address of an event stream>"`. `live.js`
   fetches that block again on every event (a request with the header `X-Part` is answered with
   the block alone) and morphs it into the page. The block must import the macros it uses. Give
   elements that come, go or move an `id`, by which they are matched. A page that also answers
   forms names its own address in `data-source`; `data-refresh-seconds` on the block's first
   element polls for changes that no stream signals.
2. Write a module of the same name with a router made by `create_page_router()` and include it in
   `ROUTERS` of its package. An endpoint takes a `StudioVisitor` or an `OperatorVisitor` and
   returns `render_page(request, "name.html", ...)`; one that changes state is a POST, takes a
   `Form` and ends in `redirect_to(...)`. All three are dependencies of `auth.py`, so
   authorisation and CSRF are checked before the endpoint runs. An `AigenError` that it raises is
   rendered as an error page.
3. Begin every form with `{{ csrf_field() }}`; scripts send the same token as `X-CSRF-Token`.
4. Pages about many requests listen to `/console/stream`, one poll per process for all viewers;
   their figures are cached briefly in `console/snapshot.py`.
5. A new section of the navigation is one line in `SECTIONS` of `templating.py`; errors below a
   new top-level path are rendered as pages once it is in `PAGE_PREFIXES` of `error_pages.py`.
   Styles and scripts are files below `static/`, linked with `static("name")`: nothing inline and
   nothing from other hosts, as the content security policy demands.
"""
