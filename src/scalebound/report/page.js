// Draws every panel from the JSON block of the page. The drawings are fixed in height and follow the width of the page.
(function () {
  "use strict";
  var drawings = JSON.parse(document.getElementById("drawings").textContent);
  Object.keys(drawings).forEach(function (id) {
    drawings[id].forEach(function (panel, k) {
      var place = document.getElementById(id + "-" + k);
      place.textContent = "";
      Plotly.newPlot(place, panel.data, panel.layout, { displayModeBar: false, responsive: true, showTips: false });
    });
  });
})();
