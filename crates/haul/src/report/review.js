"use strict";
// Everything that comes from a document is written as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
}

// A field that is found has evidence that holds its value, or is to be looked at first.
const kindOf = (field) =>
  field.status === "FOUND" && !(field.at && field.at.aligned) ? "UNALIGNED" : field.status;
const names = {
  FOUND: "found", UNALIGNED: "unaligned", POSSIBLY_PRESENT: "possibly present", NOT_FOUND: "not found",
  EXTRACTION_ERROR: "error", NOT_EXTRACTED: "not asked",
};
const items = [];
data.records.forEach((record, r) => record.fields.forEach((field) => items.push({ r, record, field, kind: kindOf(field) })));
const counts = {};
items.forEach((item) => { counts[item.kind] = (counts[item.kind] || 0) + 1; });
const shown = new Set(Object.keys(names).filter((kind) => counts[kind]));
let current = null;

function drawFilters() {
  Object.keys(names).filter((kind) => counts[kind]).forEach((kind) => {
    const label = make("label");
    const box = make("input");
    box.type = "checkbox";
    box.checked = true;
    box.dataset.kind = kind;
    box.addEventListener("change", () => {
      if (box.checked) shown.add(kind); else shown.delete(kind);
      drawRecords();
      select(visible().includes(current) ? current : visible()[0] || null);
    });
    label.append(box, " " + names[kind] + " " + counts[kind]);
    $("filters").append(label);
  });
}

const visible = () => items.filter((item) => shown.has(item.kind));

function drawRecords() {
  const list = $("records");
  list.replaceChildren();
  data.records.forEach((record, r) => {
    const of = items.filter((item) => item.r === r && shown.has(item.kind));
    if (!of.length) return;
    const head = make("h2", "", record.facility === record.company ? record.company : record.company + ": " + (record.facility || data.entity));
    const about = [record.type, "confidence " + record.score.toFixed(2), record.language].filter(Boolean);
    head.append(" ", make("small", "", about.join(", ")));
    list.append(head);
    record.cuts.concat(record.findings).forEach((note) => list.append(make("p", "note", note)));
    of.forEach((item) => list.append(drawField(item)));
  });
  if (!list.childElementCount) list.append(make("p", "note", "No field has a status that is shown."));
}

function drawField(item) {
  const { field, kind } = item;
  const row = make("button", "field");
  row.type = "button";
  row.append(make("span", "name", field.label));
  const value = make("span", "value");
  if (field.value !== null) {
    value.append(make("b", "", field.normal === null ? field.value : field.normal));
    if (field.normal !== null && field.normal !== field.value) value.append(make("small", "", field.value));
  }
  row.append(value, make("span", "tag " + kind.toLowerCase(), names[kind]));
  row.addEventListener("click", () => select(item));
  item.row = row;
  return row;
}

function select(item) {
  if (current && current.row) current.row.classList.remove("current");
  current = item;
  const all = visible();
  $("place").textContent = item ? all.indexOf(item) + 1 + " of " + all.length : "";
  $("source").replaceChildren();
  if (!item) return;
  item.row.classList.add("current");
  item.row.scrollIntoView({ block: "nearest" });
  drawSource(item);
}

function drawSource({ record, field }) {
  const source = $("source");
  const at = field.at;
  source.append(make("h2", "", at ? at.file + (at.page ? ", page " + at.page : "") : field.label));
  source.append(drawFacts(field));
  const file = at && data.files.find((file) => file.company === record.company && file.file === at.file);
  if (!file) {
    source.append(make("p", "note", at ? at.quote : "No evidence."));
    return;
  }
  const text = make("div", "text");
  let first = null;
  file.pieces.forEach((piece) => {
    if (piece.page) text.append(make("span", "page", "page " + piece.page));
    if (piece.left_out) {
      text.append(make("span", "gone", piece.left_out + " bytes are not in this page"));
      return;
    }
    const of = piece.of || [];
    if (!of.length) {
      text.append(piece.text);
      return;
    }
    const isCurrent = of.includes(at.mark);
    const isValue = (piece.value || []).includes(at.mark);
    const mark = make("mark", "evidence" + (isValue ? " value" : "") + (isCurrent ? " current" : ""), piece.text);
    text.append(mark);
    if (isCurrent && !first) first = mark;
  });
  source.append(text);
  if (first) first.scrollIntoView({ block: "center" });
}

function drawFacts(field) {
  const facts = make("dl");
  const add = (name, value) => {
    if (value === null || value === undefined || value === "") return;
    facts.append(make("dt", "", name), make("dd", "", value));
  };
  add("confidence", field.confidence);
  add("probability", field.probability === null ? null : field.probability.toFixed(3));
  add("decided by", field.rule === "none" ? null : field.rule);
  if (field.at) {
    add("heading", field.at.heading);
    add("evidence", field.at.aligned ? null : "the value does not stand in this sentence");
  }
  field.others.forEach((other) => add("not taken", other.value + " (" + other.times + "): " + other.why));
  return facts;
}

function step(by) {
  const all = visible();
  if (!all.length) return;
  const at = all.indexOf(current);
  select(all[Math.min(Math.max(at + by, 0), all.length - 1)]);
}

// The first field of the next record, or of the one before.
function stepRecord(by) {
  const all = visible();
  const others = [...new Set(all.map((item) => item.r))];
  const at = current ? others.indexOf(current.r) : -1;
  const next = others[Math.min(Math.max(at + by, 0), others.length - 1)];
  const item = all.find((item) => item.r === next);
  if (item) select(item);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const steps = {
    j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
    n: () => stepRecord(1), ArrowRight: () => stepRecord(1), p: () => stepRecord(-1), ArrowLeft: () => stepRecord(-1),
  };
  if (!steps[event.key]) return;
  event.preventDefault();
  steps[event.key]();
});

drawFilters();
drawRecords();
select(visible()[0] || null);
