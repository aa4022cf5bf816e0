// What a page does besides its curves: sorts tables, tells what the pointer is on, and makes a grid of the attention maps.
//
// Without it the page is whole: tables have their order, maps are chosen by radio buttons, and what is told is a title. Whatever
// a run has written reaches the document as text only, never as markup.
"use strict";
(() => {
  const SCALE = 1000;  // weights are whole multiples of its inverse (etude.report.attention_pictures)
  const root = document.documentElement;
  root.dataset.program = "page";

  // What is told, beside the pointer or the chosen cell.

  const told = document.createElement("div");
  told.className = "told";
  told.setAttribute("role", "status");
  told.hidden = true;
  document.body.append(told);
  const tell = (text, x, y) => {
    told.textContent = text;
    told.hidden = false;
    const {width, height} = told.getBoundingClientRect();
    const left = Math.min(x + 14, root.clientWidth - width - 4);
    const top = y + 18 + height > root.clientHeight ? y - height - 12 : y + 18;
    told.style.left = `${Math.max(4, left)}px`;
    told.style.top = `${Math.max(4, top)}px`;
  };
  const hush = () => { told.hidden = true; };

  // The title of a cell or of a mark, which the browser would show late, and beside ours.
  const taken = (element) => {
    const holder = element.closest(".tells [title], .tells [data-told], .tells svg :has(> title)");
    if (!holder) return null;
    const title = [...holder.children].find((child) => child.localName === "title");
    if (holder.hasAttribute("title")) {
      holder.dataset.told = holder.title;
      holder.removeAttribute("title");
    } else if (title) {
      holder.dataset.told = title.textContent;
      holder.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    return holder.dataset.told;
  };
  document.addEventListener("pointermove", (event) => {
    if (!(event.target instanceof Element) || event.target.closest(".weights")) return;
    const text = taken(event.target);
    if (text) tell(text, event.clientX, event.clientY); else hush();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hush(); });
  document.addEventListener("scroll", hush, {passive: true});

  // Tables by a click on the name of a column: up, down, and as it was.

  const numberOf = (text) => {
    const found = text.replaceAll(",", "").replace("∞", "Infinity").match(/^\s*([+-]?(?:inf|Infinity|nan|\d+\.?\d*(?:e[+-]?\d+)?))(?:\s*(?:%|±.*))?\s*$/i);
    return found ? Number(found[1].replace(/^([+-]?)inf$/i, "$1Infinity")) : null;
  };
  const ABSENT = new Set(["", "–"]);
  const keysOf = (rows, column) => {
    const texts = rows.map((row) => row.cells[column]?.dataset.value ?? row.cells[column]?.textContent.trim() ?? "");
    const numbers = texts.map(numberOf);
    const numeric = texts.every((text, index) => ABSENT.has(text) || numbers[index] !== null);
    return texts.map((text, index) => (ABSENT.has(text) || (numeric && Number.isNaN(numbers[index])) ? null : numeric ? numbers[index] : text));
  };
  const collator = new Intl.Collator(undefined, {numeric: true});
  const compare = (a, b) => (typeof a === "number" ? (a < b ? -1 : a > b ? 1 : 0) : collator.compare(a, b));

  const sorted = (body, rows, column, order) => {
    if (order === "none") return [...rows].sort((a, b) => Number(a.dataset.place) - Number(b.dataset.place));
    const keys = new Map(keysOf(rows, column).map((key, index) => [rows[index], key]));
    const sign = order === "ascending" ? 1 : -1;
    return [...rows].sort((a, b) => {
      const [left, right] = [keys.get(a), keys.get(b)];
      if (left === null || right === null) return (left === null) - (right === null);  // what is not there is last, both ways
      return sign * compare(left, right) || Number(a.dataset.place) - Number(b.dataset.place);
    });
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    if (rows.length < 2) continue;
    rows.forEach((row, index) => { row.dataset.place ??= String(index); });
    heads.forEach((head, column) => {
      if (head.localName !== "th") return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      // Numbers begin with the largest; a column that the page has sorted already goes on from there.
      const first = head.classList.contains("figure") && !head.hasAttribute("aria-sort") ? "descending" : "ascending";
      const orders = [first, first === "ascending" ? "descending" : "ascending", "none"];
      button.addEventListener("click", () => {
        const next = orders[(orders.indexOf(head.getAttribute("aria-sort")) + 1) % orders.length];
        for (const other of heads) other.removeAttribute("aria-sort");
        if (next !== "none") head.setAttribute("aria-sort", next);
        body.append(...sorted(body, rows, column, next));
      });
    });
    table.classList.add("sorts");
  }

  // Attention: small pictures to choose from, and the weight below the pointer or at the place of the arrow keys.

  const bytesOf = (text) => {
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let index = 0; index < letters.length; index++) bytes[index] = letters.charCodeAt(index);
    return bytes;
  };
  let weights = null;
  const unpacked = async () => {
    const stream = new Blob([bytesOf(document.getElementById("attention-weights").textContent)]).stream();
    const planes = new Uint8Array(await new Response(stream.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
    const count = planes.length / 2;
    weights = (index) => (planes[index] + 256 * planes[count + index]) / SCALE;
  };

  const isolated = (text) => `\u2068${text}\u2069`;  // a token of a script that runs the other way turns nothing around
  const prepareMap = (field) => {
    const map = field.parentElement, rows = [...map.querySelector(".rows").children], columns = [...map.querySelector(".columns").children];
    const cursor = document.createElement("span");
    cursor.className = "cursor";
    cursor.hidden = true;
    field.append(cursor);
    let row = 0, column = 0;
    const box = () => {
      const {left, top, width, height} = field.getBoundingClientRect();
      return {left, top, wide: width / columns.length, high: height / rows.length};
    };
    const leave = () => {
      hush();
      cursor.hidden = true;
      for (const token of map.querySelectorAll(".on")) token.classList.remove("on");
    };
    const show = () => {
      const {left, top, wide, high} = box();
      leave();
      Object.assign(cursor.style, {left: `${column * wide}px`, top: `${row * high}px`, width: `${wide}px`, height: `${high}px`});
      cursor.hidden = false;
      rows[row].classList.add("on");
      columns[column].classList.add("on");
      const weight = weights?.(Number(field.dataset.at) + row * columns.length + column);
      const pair = `${isolated(rows[row].textContent)} → ${isolated(columns[column].textContent)}`;
      tell(weight === undefined ? pair : `${pair}: ${weight.toFixed(3)}`, left + (column + 0.5) * wide, top + (row + 0.5) * high);
    };
    const bounded = (value, most) => Math.max(0, Math.min(most, value));
    field.addEventListener("pointermove", (event) => {
      const {left, top, wide, high} = box();
      row = bounded(Math.floor((event.clientY - top) / high), rows.length - 1);
      column = bounded(Math.floor((event.clientX - left) / wide), columns.length - 1);
      show();
    });
    field.addEventListener("pointerleave", leave);
    field.addEventListener("blur", leave);
    field.addEventListener("focus", () => { if (field.matches(":focus-visible")) show(); });
    const steps = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
    field.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      event.preventDefault();
      row = bounded(row + steps[event.key][0], rows.length - 1);
      column = bounded(column + steps[event.key][1], columns.length - 1);
      show();
    });
    field.tabIndex = 0;
    field.setAttribute("role", "application");
    field.setAttribute("aria-label", `${field.firstElementChild.alt}. Arrow keys tell each weight.`);
  };

  for (const label of document.querySelectorAll(".attention label")) {
    const field = label.nextElementSibling.querySelector(".weights");
    const picture = field.firstElementChild.cloneNode();
    picture.alt = "";
    label.prepend(picture);
    prepareMap(field);
  }
  if (document.getElementById("attention-weights")) unpacked();
})();
