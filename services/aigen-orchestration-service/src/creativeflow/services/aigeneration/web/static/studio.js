// The studio's comforts: the price follows the form, colours and pictures are added with a click. All else are forms.
import { announce, patch } from "./live.js";

const maker = document.querySelector("[data-maker]");

function csrf(form) {
  return form.elements.csrf.value;
}

function later(act, wait) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, wait);
  };
}

let asked = 0;

async function reprice() {
  const number = ++asked;
  const place = maker.querySelector("[data-price]");
  const body = new URLSearchParams(new FormData(maker));
  const headers = { "X-Part": "price", "X-CSRF-Token": csrf(maker) };
  const answer = await fetch("/studio/quote", { method: "POST", body, headers }).catch(() => null);
  if (number !== asked || !answer?.ok || answer.headers.get("X-Part") !== "price") return;
  const fresh = place.cloneNode(false);
  fresh.innerHTML = await answer.text();
  patch(place, fresh);
}

function count(told) {
  const field = maker.elements[told.dataset.counts];
  const show = () => {
    const length = [...field.value].length;
    told.textContent = `${length.toLocaleString()} / ${Number(told.dataset.most).toLocaleString()}`;
  };
  told.hidden = false;
  field.addEventListener("input", show);
  show();
}

const SVG = "http://www.w3.org/2000/svg";

function swatch(colour) {
  const drawing = document.createElementNS(SVG, "svg");
  const dot = document.createElementNS(SVG, "circle");
  drawing.setAttribute("viewBox", "0 0 16 16");
  for (const [name, value] of Object.entries({ cx: 8, cy: 8, r: 7, fill: colour })) dot.setAttribute(name, value);
  drawing.append(dot);
  return drawing;
}

function colours() {
  const field = maker.elements.color_scheme;
  const place = maker.querySelector("[data-swatches]");
  const adder = maker.querySelector("[data-adds]");
  const show = () => {
    const named = field.value.split(/[,;\s]+/).filter((part) => CSS.supports("color", part));
    place.replaceChildren(...named.slice(0, 12).map(swatch));
  };
  adder.hidden = false;
  adder.addEventListener("change", () => {
    field.value = field.value.trim() ? `${field.value.replace(/[,\s]+$/, "")}, ${adder.value}` : adder.value;
    show();
  });
  field.addEventListener("input", show);
  show();
}

async function send(file, place) {
  if (file.size > Number(place.dataset.most)) return `${file.name} is too large.`;
  const headers = { "X-CSRF-Token": csrf(maker), "Content-Type": file.type || "application/octet-stream" };
  const answer = await fetch(place.dataset.upload, { method: "POST", body: file, headers }).catch(() => null);
  if (!answer?.ok) return `${file.name} could not be used: it must be a PNG, JPEG or WebP picture.`;
  const { reference, picture } = await answer.json();
  const field = maker.elements[place.dataset.into];
  field.value = [field.value.trim(), reference].filter(Boolean).join("\n");
  const item = document.createElement("li");
  const image = Object.assign(new Image(72, 72), { src: picture, alt: file.name });
  const remove = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "Remove" });
  remove.setAttribute("aria-label", `Remove ${file.name}`);
  remove.addEventListener("click", () => {
    field.value = field.value.split("\n").filter((line) => line !== reference).join("\n");
    item.remove();
    place.querySelector("input").focus();
  });
  item.append(image, remove);
  maker.querySelector("[data-previews]").append(item);
  announce(`${file.name} was added.`);
  return "";
}

function uploads() {
  const place = maker.querySelector("[data-upload]");
  const told = place.querySelector("[data-told]");
  place.hidden = false;
  place.querySelector("input").addEventListener("change", async ({ target }) => {
    told.textContent = "";
    for (const file of target.files) told.textContent += await send(file, place);
    target.value = "";
  });
}

if (maker) {
  const soon = later(reprice, 150);
  const matters = new Set(["output_format", "model", "width", "height"]);
  maker.addEventListener("input", ({ target }) => matters.has(target.name) && soon());
  setInterval(() => document.visibilityState === "visible" && reprice(), 10 * 60 * 1000);
  maker.querySelectorAll("[data-counts]").forEach(count);
  colours();
  uploads();
}

// A second click while the first is under way would be harmless, but unclear.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "1";
  form.setAttribute("aria-busy", "true");
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// Enter on a sample goes on to the sizes, where the prices are.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.matches(".picking input[type=radio]")) return;
  event.preventDefault();
  event.target.form.querySelector("button.size")?.focus();
});

document.querySelector("[data-refusal]")?.focus();
