// Conveniences of the studio: the price follows the form; colours and images are added with a click. The rest are forms.
import { announce, morph } from "./live.js";

const briefForm = document.querySelector("[data-brief-form]");

function csrfToken(form) {
  return form.elements.csrf.value;
}

function debounce(run, milliseconds) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(run, milliseconds);
  };
}

let latestQuote = 0;

async function updatePrice() {
  const number = ++latestQuote;
  const panel = briefForm.querySelector("[data-price]");
  const body = new URLSearchParams(new FormData(briefForm));
  const headers = { "X-Part": "price", "X-CSRF-Token": csrfToken(briefForm) };
  const response = await fetch(briefForm.dataset.quote, { method: "POST", body, headers }).catch(() => null);
  if (number !== latestQuote || !response?.ok || response.headers.get("X-Part") !== "price") return;
  morph(panel, await response.text());
}

function showLength(counter) {
  const field = briefForm.elements[counter.dataset.counter];
  const show = () => {
    const length = [...field.value].length;
    counter.textContent = `${length.toLocaleString()} / ${Number(counter.dataset.max).toLocaleString()}`;
  };
  counter.hidden = false;
  field.addEventListener("input", show);
  show();
}

const SVG = "http://www.w3.org/2000/svg";

function createSwatch(colour) {
  const drawing = document.createElementNS(SVG, "svg");
  const dot = document.createElementNS(SVG, "circle");
  drawing.setAttribute("viewBox", "0 0 16 16");
  for (const [name, value] of Object.entries({ cx: 8, cy: 8, r: 7, fill: colour })) dot.setAttribute(name, value);
  drawing.append(dot);
  return drawing;
}

function enableColours() {
  const field = briefForm.elements.color_scheme;
  const swatches = briefForm.querySelector("[data-swatches]");
  const picker = briefForm.querySelector("[data-adds-to]");
  const show = () => {
    const colours = field.value.split(/[,;\s]+/).filter((part) => CSS.supports("color", part));
    swatches.replaceChildren(...colours.slice(0, 12).map(createSwatch));
  };
  picker.hidden = false;
  picker.addEventListener("change", () => {
    field.value = field.value.trim() ? `${field.value.replace(/[,\s]+$/, "")}, ${picker.value}` : picker.value;
    show();
  });
  field.addEventListener("input", show);
  show();
}

// Upload one image and add it to the references; returns an error message, empty on success.
async function upload(file, area) {
  if (file.size > Number(area.dataset.max)) return `${file.name} is too large.`;
  const headers = { "X-CSRF-Token": csrfToken(briefForm), "Content-Type": file.type || "application/octet-stream" };
  const response = await fetch(area.dataset.upload, { method: "POST", body: file, headers }).catch(() => null);
  if (!response?.ok) return `${file.name} could not be used: it must be a PNG, JPEG or WebP image.`;
  const { reference, picture } = await response.json();
  const field = briefForm.elements[area.dataset.target];
  field.value = [field.value.trim(), reference].filter(Boolean).join("\n");
  const item = document.createElement("li");
  const image = Object.assign(new Image(72, 72), { src: picture, alt: file.name });
  const remove = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "Remove" });
  remove.setAttribute("aria-label", `Remove ${file.name}`);
  remove.addEventListener("click", () => {
    field.value = field.value.split("\n").filter((line) => line !== reference).join("\n");
    item.remove();
    area.querySelector("input").focus();
  });
  item.append(image, remove);
  briefForm.querySelector("[data-previews]").append(item);
  announce(`${file.name} was added.`);
  return "";
}

function enableUploads() {
  const area = briefForm.querySelector("[data-upload]");
  const error = area.querySelector("[data-upload-error]");
  area.hidden = false;
  area.querySelector("input").addEventListener("change", async ({ target }) => {
    error.textContent = "";
    for (const file of target.files) error.textContent += await upload(file, area);
    target.value = "";
  });
}

if (briefForm) {
  const updatePriceSoon = debounce(updatePrice, 150);
  const priceFields = new Set(["output_format", "model", "width", "height"]);
  briefForm.addEventListener("input", ({ target }) => priceFields.has(target.name) && updatePriceSoon());
  setInterval(() => document.visibilityState === "visible" && updatePrice(), 10 * 60 * 1000);
  briefForm.querySelectorAll("[data-counter]").forEach(showLength);
  enableColours();
  enableUploads();
}

// A second submit while the first is in flight would be harmless (forms are idempotent), but confusing.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "1";
  form.setAttribute("aria-busy", "true");
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// Enter on a sample moves the focus to the sizes, where the prices are shown.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.matches(".selection input[type=radio]")) return;
  event.preventDefault();
  event.target.form.querySelector("button.size")?.focus();
});

document.querySelector("[data-refusal]")?.focus();
