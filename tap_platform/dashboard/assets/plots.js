"use strict";
// Draws the figures that the page holds as JSON.
for (const place of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
  const options = { responsive: true, displayModeBar: false, scrollZoom: false };
  Plotly.newPlot(place, figure.data, figure.layout, options);
  if (place.dataset.figure !== "figure-parallel") continue;
  // The line under the pointer stands alone.
  const usual = figure.data.map((line) => line.opacity);
  place.on("plotly_hover", ({ points }) => Plotly.restyle(place, {
    opacity: usual.map((_, number) => (number === points[0].curveNumber ? 1 : 0.08)),
  }));
  place.on("plotly_unhover", () => Plotly.restyle(place, { opacity: usual }));
}
