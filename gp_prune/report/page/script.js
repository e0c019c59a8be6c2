"use strict";
const tip = document.getElementById("tip");
const marks = [...document.querySelectorAll(".mark")];
const row = (key) => key && document.querySelector(`tr[data-key="${key}"]`);

function show(mark) {
  const heading = document.createElement("strong");
  heading.textContent = mark.getAttribute("aria-label");
  tip.replaceChildren(heading);
  const math = row(mark.dataset.key)?.querySelector(".formula, td code");
  if (math) {
    const copy = math.cloneNode(true);
    copy.removeAttribute("tabindex");
    const line = document.createElement("div");
    line.append(copy);
    tip.append(line);
  }
  tip.hidden = false;
  const place = mark.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const room = document.documentElement.clientWidth;
  const left = Math.max(4, Math.min(place.left + place.width / 2 - size.width / 2,
    room - size.width - 4));
  const above = place.top - size.height - 6;
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${(above > 0 ? above : place.bottom + 6) + scrollY}px`;
}

function press(key, name) {
  const chosen = row(key);
  if (!chosen) return;
  const on = !chosen.classList.contains("marked");
  for (const other of document.querySelectorAll("tr.marked")) other.classList.remove("marked");
  chosen.classList.toggle("marked", on);
  for (const button of document.querySelectorAll("tr[data-key] button")) {
    button.setAttribute("aria-pressed", String(on && button.closest("tr") === chosen));
  }
  for (const mark of marks) {
    if (mark.dataset.key) mark.setAttribute("aria-pressed", String(on && mark.dataset.key === key));
  }
  document.querySelector("[role=status]").textContent = `${name} ${on ? "marked" : "not marked"}`;
  return on ? chosen : null;
}

function step(mark, by) {
  const near = [...mark.closest("svg").querySelectorAll(".mark")]
    .sort((a, b) => a.dataset.x - b.dataset.x || a.dataset.y - b.dataset.y);
  const next = near[near.indexOf(mark) + by];
  if (next) next.focus();
}

for (const mark of marks) {
  mark.addEventListener("pointerenter", () => show(mark));
  mark.addEventListener("pointerleave", () => {
    // Keys that scroll the page move the mark from under a pointer that rests.
    if (!mark.matches(":focus-visible")) tip.hidden = true;
  });
  mark.addEventListener("focus", () => show(mark));
  mark.addEventListener("blur", () => { tip.hidden = true; });
  const choose = () => press(mark.dataset.key, mark.getAttribute("aria-label"))
    ?.scrollIntoView({ block: "nearest" });
  mark.addEventListener("click", choose);
  mark.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (by) step(mark, by);
    else if (event.key === "Enter" || event.key === " ") choose();
    else if (event.key === "Escape") tip.hidden = true;
    else return;
    event.preventDefault();
  });
}
for (const button of document.querySelectorAll("tr[data-key] button")) {
  button.addEventListener("click", () => press(button.closest("tr").dataset.key,
    button.textContent));
}
