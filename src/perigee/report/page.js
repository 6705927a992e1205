"use strict";
// Values under the pointer, or under the keys Left and Right, from the data that the page carries.
const kept = JSON.parse(document.getElementById("perigee-data").textContent);

const shown = (value) => {
  if (typeof value !== "number") return value;
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e5 ? value.toExponential(4) : String(Number(value.toPrecision(5)));
};

const duration = (seconds) =>
  seconds < 60
    ? `${seconds.toFixed(1)} s`
    : `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")} min`;

for (const card of document.querySelectorAll(".chart-card")) {
  const curves = kept.charts[Number(card.dataset.chart)].curves;
  const steps = [...new Set(curves.flatMap((curve) => curve.points.map((point) => point[0])))];
  steps.sort((a, b) => a - b);
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  card.append(tip);

  for (const svg of card.querySelectorAll(".chart")) {
    const [left, top, right, bottom] = svg.dataset.frame.split(" ").map(Number);
    const [low, high] = svg.dataset.x.split(" ").map(Number);
    const layer = svg.querySelector(".hover");
    let at = -1;

    const hide = () => {
      tip.hidden = true;
      layer.replaceChildren();
      at = -1;
    };
    const show = (index) => {
      at = Math.min(Math.max(index, 0), steps.length - 1);
      const step = steps[at];
      const x = left + ((step - low) / (high - low)) * (right - left);
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      for (const [name, value] of Object.entries({ x1: x, x2: x, y1: top, y2: bottom })) {
        line.setAttribute(name, value);
      }
      layer.replaceChildren(line);
      const table = document.createElement("table");
      let when = "";
      for (const curve of curves) {
        const point = curve.points.find((each) => each[0] === step);
        if (!point) continue;
        if (!when) when = `epoch ${point[1]}, ${duration(point[2])}`;
        const row = table.insertRow();
        const name = row.insertCell();
        name.className = `c${curve.color}`;
        name.textContent = curve.label;
        row.insertCell().textContent = shown(point[3]);
      }
      const head = document.createElement("b");
      head.textContent = `step ${step}`;
      const more = document.createElement("span");
      more.className = "quiet";
      more.textContent = `  ${when}`;
      tip.replaceChildren(head, more, table);
      tip.hidden = false;
      const box = svg.getBoundingClientRect();
      const outer = card.getBoundingClientRect();
      const place = box.left - outer.left + (x / svg.viewBox.baseVal.width) * box.width;
      const isRight = place > outer.width / 2;
      tip.style.left = isRight ? "auto" : `${place + 10}px`;
      tip.style.right = isRight ? `${outer.width - place + 10}px` : "auto";
      tip.style.top = `${box.top - outer.top + 14}px`;
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const step = low + ((x - left) / (right - left)) * (high - low);
      let nearest = 0;
      steps.forEach((each, index) => {
        if (Math.abs(each - step) < Math.abs(steps[nearest] - step)) nearest = index;
      });
      if (steps.length && nearest !== at) show(nearest);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight") show(at + 1);
      else if (event.key === "ArrowLeft") show(at < 0 ? steps.length - 1 : at - 1);
      else if (event.key === "Escape") hide();
      else return;
      event.preventDefault();
    });
  }
}
