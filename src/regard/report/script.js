"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Tables: a click or Enter on a heading sorts by it, numbers from high to low first where high is good.
  for (const button of all("th button[data-column]")) {
    button.addEventListener("click", () => {
      const heading = button.closest("th"), table = heading.closest("table"), body = table.tBodies[0];
      const column = Number(button.dataset.column), first = button.dataset.first || "descending";
      const other = first === "descending" ? "ascending" : "descending";
      const direction = heading.getAttribute("aria-sort") === first ? other : first;
      for (const one of all("th[aria-sort]", table)) one.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.value;
      const rows = [...body.rows].sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");  // what is unknown comes last either way
        return sign * (button.dataset.kind === "text" ? x.localeCompare(y) : Number(x) - Number(y));
      });
      body.append(...rows);
    });
  }

  // Tables wider than the screen: an edge with an arrow while there is more to the right, and a line that says so.
  for (const table of all(".scroll")) {
    const frame = table.parentElement;
    const mark = () => {
      const room = table.scrollWidth - table.clientWidth;
      frame.classList.toggle("scrolls", room > 1);
      frame.classList.toggle("leftward", table.scrollLeft > 1);
      frame.classList.toggle("rightward", table.scrollLeft < room - 1);
    };
    table.addEventListener("scroll", mark, { passive: true });
    new ResizeObserver(mark).observe(table);
    mark();
  }

  // Radio buttons that show one of several charts.
  for (const input of all("input[data-shows]")) {
    const show = () => {
      if (!input.checked) return;
      for (const part of all(`[data-part^="${input.name}:"]`)) {
        part.hidden = part.dataset.part !== `${input.name}:${input.dataset.shows}`;
      }
    };
    input.addEventListener("change", show);
    show();
  }

  // Legends: each button hides or shows one variant everywhere.
  const off = new Set();
  for (const button of all("button[data-toggles]")) {
    button.addEventListener("click", () => {
      const variant = button.dataset.toggles;
      off.has(variant) ? off.delete(variant) : off.add(variant);
      for (const twin of all(`button[data-toggles="${variant}"]`)) twin.setAttribute("aria-pressed", String(!off.has(variant)));
      for (const part of all(`[data-variant="${variant}"]`)) part.classList.toggle("off", off.has(variant));
    });
  }

  const examples = document.getElementById("examples");
  if (!examples || !examples.dataset.colours) return;
  const colours = examples.dataset.colours.match(/../g).map((pair) => parseInt(pair, 16));
  const number = (value) => (value >= 0.1 ? value.toFixed(2) : String(Number(value.toPrecision(2))));

  for (const card of all(".example", examples)) {
    card.style.setProperty("--picture", `url("${card.querySelector("img").src}")`);
  }

  // One map: 8-bit weights to colours that cover more where the weight is larger; cell by cell, or interpolated between
  // the centres of the cells. Cells that are large get a line around those of at least half the largest weight.
  const draw = (canvas) => {
    const { weights, columns, rows, peak, shared } = canvas.dataset;
    const wide = Number(columns), high = Number(rows), levels = Uint8Array.from(atob(weights), (c) => c.charCodeAt(0));
    const together = document.getElementById("scale").value === "shared" && Number(shared) > 0;
    const factor = together ? Number(peak) / Number(shared) : 1;
    const smooth = document.getElementById("smooth").checked, times = Math.max(1, Math.ceil(224 / Math.max(wide, high)));
    canvas.width = wide * times;
    canvas.height = high * times;
    const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
    const at = (x, y) => levels[Math.min(high - 1, Math.max(0, y)) * wide + Math.min(wide - 1, Math.max(0, x))];
    let place = 0;
    for (let row = 0; row < canvas.height; row++) {
      const y = smooth ? (row + 0.5) / times - 0.5 : Math.floor(row / times), top = Math.floor(y), down = y - top;
      for (let column = 0; column < canvas.width; column++) {
        const x = smooth ? (column + 0.5) / times - 0.5 : Math.floor(column / times), left = Math.floor(x), across = x - left;
        const upper = at(left, top) * (1 - across) + (across && at(left + 1, top) * across);
        const lower = down && at(left, top + 1) * (1 - across) + (across && at(left + 1, top + 1) * across);
        const level = 4 * Math.round(Math.min(255, factor * (upper * (1 - down) + lower * down)));
        for (let channel = 0; channel < 4; channel++) image.data[place++] = colours[level + channel];
      }
    }
    context.putImageData(image, 0, 0);
    if (!smooth && Math.max(wide, high) <= 16) {
      const inside = (x, y) => x >= 0 && y >= 0 && x < wide && y < high && levels[y * wide + x] >= 127.5, lines = new Path2D();
      for (let y = 0; y < high; y++) {
        for (let x = 0; x < wide; x++) {
          if (!inside(x, y)) continue;
          const line = (a, b, c, d) => { lines.moveTo(a * times, b * times); lines.lineTo(c * times, d * times); };
          if (!inside(x - 1, y)) line(x, y, x, y + 1);
          if (!inside(x + 1, y)) line(x + 1, y, x + 1, y + 1);
          if (!inside(x, y - 1)) line(x, y, x + 1, y);
          if (!inside(x, y + 1)) line(x, y + 1, x + 1, y + 1);
        }
      }
      for (const [style, width] of [["#000", 5.5], ["#fff", 2.5]]) {
        context.strokeStyle = style;
        context.lineWidth = width;
        context.stroke(lines);
      }
    }
    canvas.closest("figure").querySelector(".top").textContent = number(together ? Number(shared) : Number(peak));
  };
  const canvases = all("canvas", examples), drawn = new Set();
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || drawn.has(entry.target)) continue;
      drawn.add(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "600px" });
  for (const canvas of canvases) seen.observe(canvas);
  const again = () => {
    for (const canvas of drawn) draw(canvas);
  };
  document.getElementById("smooth").addEventListener("change", again);
  document.getElementById("scale").addEventListener("change", again);
  const opacity = document.getElementById("opacity");
  const shade = () => {
    examples.style.setProperty("--opacity", opacity.value / 100);
    document.getElementById("opacity-value").textContent = `${opacity.value} %`;
  };
  opacity.addEventListener("input", shade);
  shade();
  again();

  // Which examples are shown.
  const outcome = document.getElementById("outcome"), group = document.getElementById("group");
  const filter = () => {
    let count = 0;
    const cards = all(".example", examples);
    for (const card of cards) {
      const wrong = card.dataset.wrong.split(" ").filter(Boolean);
      const fits = outcome.value === "all" || (outcome.value === "right" && wrong.length === 0)
        || (outcome.value === "wrong" && wrong.length > 0) || wrong.includes(outcome.value);
      card.hidden = !fits || (group && group.value !== "" && card.dataset.group !== group.value);
      count += !card.hidden;
    }
    document.getElementById("shown").textContent = `${count} of ${cards.length} shown`;
    document.getElementById("nothing").hidden = count > 0;
  };
  outcome.addEventListener("change", filter);
  if (group) group.addEventListener("change", filter);
  filter();
})();
