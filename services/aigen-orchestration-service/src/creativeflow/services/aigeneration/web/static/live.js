// Live pages: an event stream signals a change, the changed block is fetched and morphed into the page.
// Without this script every page still works by its forms and a reload.

const { Idiomorph } = globalThis; // vendor/idiomorph.min.js, a deferred script that runs before this module

const announcer = document.getElementById("announcer");

export function announce(text) {
  if (text && announcer.textContent !== text) announcer.textContent = text;
}

const edited = new WeakSet();
document.addEventListener("input", ({ target }) => edited.add(target));

// State that belongs to the user and not to the server: opened disclosures, and what was typed or chosen.
function isUserState(name, element) {
  if (name === "open") return element.matches("details, dialog");
  if (name === "selected") return edited.has(element.closest("select"));
  if (name === "checked") return element.checked !== element.defaultChecked;
  return name === "value" && element.matches("input, textarea") && element.value !== element.defaultValue;
}

const MORPH_OPTIONS = {
  morphStyle: "innerHTML",
  callbacks: { beforeAttributeUpdated: (name, element) => !isUserState(name, element) },
};

// Replace the content of an element by this HTML, keeping focus and user state.
export function morph(element, html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  showLocalTimes(fresh.content);
  Idiomorph.morph(element, [...fresh.content.childNodes], MORPH_OPTIONS);
}

export function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    time.title = time.title || time.textContent;
    time.textContent = at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}

class LiveRegion {
  constructor(region) {
    this.region = region;
    this.part = region.dataset.live;
    this.source = region.dataset.source || location.href;
    this.pending = false;
    this.loading = false;
    // The response to a rejected form shows this page, too: from here on it can be reloaded.
    if (region.dataset.source && region.dataset.source !== location.pathname) history.replaceState(null, "", this.source);
    this.schedule();
  }

  schedule() {
    const { stream } = this.region.dataset;
    if (stream && !this.events) {
      this.events = new EventSource(stream);
      this.events.addEventListener("changed", () => this.refresh());
      this.events.addEventListener("ended", () => {
        this.ended = true;
        this.events.close();
      });
      this.events.addEventListener("error", () => this.events.readyState === EventSource.CLOSED && this.refresh());
    }
    clearTimeout(this.timer);
    const disconnected = this.events?.readyState === EventSource.CLOSED && !this.ended;
    const seconds = Number(this.region.firstElementChild?.dataset.refreshSeconds) || (disconnected ? 5 : 0);
    if (seconds) this.timer = setTimeout(() => this.refresh(), seconds * 1000);
  }

  async refresh() {
    if (this.loading) {
      this.pending = true;
      return;
    }
    this.loading = true;
    try {
      const response = await fetch(this.source, { headers: { "X-Part": this.part }, redirect: "manual" });
      if (response.ok && response.headers.get("X-Part") === this.part) this.update(await response.text());
      else if (response.status === 401 || response.type === "opaqueredirect") location.reload();
    } catch {
      // The network is down; the event stream reconnects by itself and triggers a refresh.
    } finally {
      this.loading = false;
    }
    if (this.pending) {
      this.pending = false;
      this.refresh();
    } else this.schedule();
  }

  update(html) {
    const focused = document.activeElement;
    const hadFocus = this.region.contains(focused);
    morph(this.region, html);
    if (hadFocus && !this.region.contains(document.activeElement)) this.region.querySelector("[data-focus]")?.focus();
    announce(this.region.querySelector("[data-announce]")?.dataset.announce);
    this.region.dispatchEvent(new CustomEvent("swapped", { bubbles: true }));
  }
}

showLocalTimes(document);
for (const region of document.querySelectorAll("[data-live]")) new LiveRegion(region);

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
