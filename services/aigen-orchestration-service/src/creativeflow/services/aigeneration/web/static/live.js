// Live pages: a stream says that something changed, the changed part is fetched, and only what differs is swapped.
// Without this script every page still works by its forms and a reload.

const announcer = document.getElementById("announcer");

export function announce(text) {
  if (text && announcer.textContent !== text) announcer.textContent = text;
}

const isBlank = (node) => node?.nodeType === 3 && !node.nodeValue.trim();
const keyOf = (node) => (node.nodeType === 1 ? node.id || node.dataset.key || "" : "");

function patchAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}

export function patch(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (!old.matches("details, dialog")) patchAttributes(old, fresh); // what somebody has opened stays open
  const kept = new Map([...old.childNodes].filter(keyOf).map((node) => [keyOf(node), node]));
  const keys = new Set([...fresh.childNodes].map(keyOf));
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    // A part alone begins without the line break that it has on its page. What has gone goes first: moving what stays
    // past it would take the focus away.
    while (place && (keyOf(place) ? !keys.has(keyOf(place)) : isBlank(place) && !isBlank(wanted))) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
    const key = keyOf(wanted);
    const same = key ? kept.get(key) : place && !keyOf(place) && place.nodeName === wanted.nodeName ? place : null;
    if (!same || same.nodeName !== wanted.nodeName) {
      old.insertBefore(wanted, place);
      continue;
    }
    if (same === place) place = place.nextSibling;
    else old.insertBefore(same, place);
    if (same.nodeType === 1) patch(same, wanted);
    else if (same.nodeValue !== wanted.nodeValue) same.nodeValue = wanted.nodeValue;
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

export function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    time.title = time.title || time.textContent;
    time.textContent = at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}

class Live {
  constructor(region) {
    this.region = region;
    this.part = region.dataset.live;
    this.from = region.dataset.from || location.href;
    this.again = false;
    this.busy = false;
    // The answer to a form that was refused shows this page, too: from here on, it can be loaded again.
    if (region.dataset.from && region.dataset.from !== location.pathname) history.replaceState(null, "", this.from);
    this.follow();
  }

  follow() {
    const { stream } = this.region.dataset;
    if (stream && !this.source) {
      this.source = new EventSource(stream);
      this.source.addEventListener("changed", () => this.refresh());
      this.source.addEventListener("ended", () => {
        this.ended = true;
        this.source.close();
      });
      this.source.addEventListener("error", () => this.source.readyState === EventSource.CLOSED && this.refresh());
    }
    clearTimeout(this.timer);
    const silent = this.source?.readyState === EventSource.CLOSED && !this.ended;
    const seconds = Number(this.region.firstElementChild?.dataset.refreshSeconds) || (silent ? 5 : 0);
    if (seconds) this.timer = setTimeout(() => this.refresh(), seconds * 1000);
  }

  async refresh() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    try {
      const answer = await fetch(this.from, { headers: { "X-Part": this.part }, redirect: "manual" });
      if (answer.ok && answer.headers.get("X-Part") === this.part) this.swap(await answer.text());
      else if (answer.status === 401 || answer.type === "opaqueredirect") location.reload();
    } catch {
      // The network is away; the stream comes back by itself and says so.
    } finally {
      this.busy = false;
    }
    if (this.again) {
      this.again = false;
      this.refresh();
    } else this.follow();
  }

  swap(html) {
    const focused = document.activeElement;
    const inside = this.region.contains(focused);
    const fresh = document.createElement(this.region.nodeName);
    for (const { name, value } of this.region.attributes) fresh.setAttribute(name, value);
    fresh.innerHTML = html;
    localTimes(fresh);
    patch(this.region, fresh);
    if (inside && !focused.isConnected) this.region.querySelector("[data-focus]")?.focus();
    announce(this.region.querySelector("[data-announce]")?.dataset.announce);
    this.region.dispatchEvent(new CustomEvent("swapped", { bubbles: true }));
  }
}

localTimes(document);
for (const region of document.querySelectorAll("[data-live]")) new Live(region);

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
