"use strict";
for (const figure of document.querySelectorAll("figure.scatter")) {
  const shown = figure.querySelector(".shown");
  const dots = [...figure.querySelectorAll("circle")];
  const place = (dot) => [Number(dot.getAttribute("cx")), Number(dot.getAttribute("cy"))];
  let stop = dots[0];
  const focused = (dot) => {
    stop.tabIndex = -1;
    dot.tabIndex = 0;
    stop = dot;
    show(dot);
  };
  const show = (dot) => { shown.textContent = dot.querySelector("title").textContent; };
  const nearest = (dot, alongX, sign) => {
    const from = place(dot);
    let best = null, least = Infinity;
    for (const other of dots) {
      const to = place(other);
      const ahead = sign * (alongX ? to[0] - from[0] : to[1] - from[1]);
      const aside = Math.abs(alongX ? to[1] - from[1] : to[0] - from[0]);
      if (ahead > 0 && ahead + 2 * aside < least) { best = other; least = ahead + 2 * aside; }
    }
    return best;
  };
  const keys = { ArrowRight: [true, 1], ArrowLeft: [true, -1], ArrowDown: [false, 1], ArrowUp: [false, -1] };
  for (const dot of dots) {
    dot.addEventListener("pointerenter", () => show(dot));
    dot.addEventListener("focus", () => focused(dot));
    dot.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      const next = nearest(dot, ...keys[event.key]);
      if (next !== null) next.focus();
    });
  }
}
