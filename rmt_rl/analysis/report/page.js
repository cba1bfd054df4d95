"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const isNarrow = () => document.documentElement.clientWidth < 600;

  function element(kind, className, text) {
    const made = document.createElement(kind);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Charts

  function axis(given) {
    const line = colour("--line");
    const look = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    const title = given.title ? { title: { font: { size: 13 }, ...given.title } } : {};
    return { ...look, ...given, ...title };
  }

  function themed(layout) {
    const axes = {};
    for (const [name, value] of Object.entries(layout)) {
      if (/^[xy]axis\d*$/.test(name)) axes[name] = axis(value);
    }
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), size: 13, family: "system-ui, sans-serif" },
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink") }, namelength: -1 },
      margin: { l: 56, r: 12, t: 16, b: 44 },
      showlegend: false,
      dragmode: isNarrow() ? false : "zoom",
      ...layout,
      ...axes,
    };
  }

  function heightOf(figure) {
    if (figure.small) return 190;
    return figure.rows ? 90 + 34 * figure.rows : 330;
  }

  const plainText = (label) => new DOMParser().parseFromString(label.replaceAll("<br>", " "), "text/html").body.textContent;
  const borders = { solid: "solid", dash: "dashed", dashdot: "dashed", dot: "dotted" };

  // A list of the lines' names below a chart; each shows or hides its lines.
  function addLabels(chart, traces) {
    const labels = element("div", "labels");
    const names = [...new Set(traces.map((trace) => trace.name))];
    for (const name of names) {
      const own = traces.map((trace, index) => index).filter((index) => traces[index].name === name);
      const drawn = traces.find((trace) => trace.name === name && trace.legend !== false);
      const look = drawn.line || drawn.marker;
      const button = element("button", "", plainText(name));
      button.type = "button";
      button.style.setProperty("--line-colour", look.color);
      button.style.setProperty("--dash", borders[look.dash] || "solid");
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(shown));
        Plotly.restyle(chart, { visible: shown }, own);
      });
      labels.append(button);
    }
    chart.after(labels);
  }

  function drawChart(place, choice) {
    const holder = at(place);
    for (const old of holder.querySelectorAll(".chart")) Plotly.purge(old);
    holder.replaceChildren();
    holder.classList.toggle("small", choice.figures.some((figure) => figure.small));
    for (const figure of choice.figures) {
      const chart = element("div", "chart");
      holder.append(chart);
      const margins = figure.small ? { margin: { l: 44, r: 8, t: 40, b: 34 } } : {};
      const layout = { ...themed(figure.layout), ...margins, height: heightOf(figure) };
      const traces = figure.data.map(({ legend, ...trace }) => trace);
      Plotly.newPlot(chart, traces, layout, config);
      if (figure.legend) addLabels(chart, figure.data);
    }
  }

  const selected = {};
  function drawCharts() {
    for (const [place, choices] of Object.entries(data.charts)) drawChart(place, choices[selected[place] || 0]);
  }
  for (const select of document.querySelectorAll("select[data-chart]")) {
    select.addEventListener("change", () => {
      selected[select.dataset.chart] = select.selectedIndex;
      drawChart(select.dataset.chart, data.charts[select.dataset.chart][select.selectedIndex]);
    });
  }

  // The player of an episode

  let episode = null;
  let step = 0;
  let timer = null;

  function segmentAt(place) {
    return episode.segments.findIndex((segment) => place >= segment.start && place < segment.stop);
  }

  function showPart(part) {
    const shown = element("div", "part");
    shown.append(element("span", "", part.name));
    if (part.values) {
      const values = element("div", "values");
      part.values.forEach((value, index) => {
        const cell = element("span", "", value);
        const share = Math.round(60 * part.strengths[index]);
        cell.style.background = `color-mix(in srgb, var(--accent) ${share}%, transparent)`;
        values.append(cell);
      });
      shown.append(values);
    } else {
      const images = element("div", part.grid ? "images" : "images whole");
      for (const uri of part.images) {
        const image = element("img");
        image.src = uri;
        image.alt = part.name;
        images.append(image);
      }
      shown.append(images);
    }
    return shown;
  }

  const percent = (share) => (share >= 0.9995 ? "1.00" : share.toFixed(share < 0.095 ? 3 : 2));

  function showAction() {
    const panel = at("action");
    const choice = episode.choices[step];
    if (!choice) {
      panel.replaceChildren(element("p", "", episode.taken[step]));
      return;
    }
    const bars = choice.names.map((name, index) => {
      const bar = element("div", name === episode.taken[step] ? "bar taken" : "bar");
      const track = element("div");
      const own = element("i");
      own.style.width = `${100 * choice.own[index]}%`;
      track.append(own);
      if (choice.other) {
        const other = element("u");
        other.style.width = `${100 * choice.other[index]}%`;
        other.hidden = choice.other[index] < 0.005;
        track.append(other);
      }
      bar.append(element("b", "", name), track, element("span", "", percent(choice.own[index])));
      return bar;
    });
    panel.replaceChildren(...bars);
    const words = choice.other ? "bars: probabilities; outlines: those with the memory of another cue" : "bars: probabilities";
    panel.append(element("p", "key", `taken: ${episode.taken[step]}. ${words}`));
  }

  function showState() {
    const list = at("state");
    list.replaceChildren();
    const add = (name, value) => list.append(element("dt", "", name), element("dd", "", value));
    const index = segmentAt(step);
    if (index < 0 || !episode.carries) {
      add("memory", index < 0 ? episode.compared : "this agent carries nothing from segment to segment");
      return;
    }
    const segment = episode.segments[index];
    const last = step === segment.stop - 1 ? " (memory is written behind this step)" : "";
    add("segment", `${index + 1} of ${episode.segments.length}, steps ${segment.start + 1} to ${segment.stop}${last}`);
    add("share of this step in what the segment writes", percent(segment.influence[step - segment.start] || 0));
    if (segment.attention.length) add("attention to this step", percent(segment.attention[step - segment.start] || 0));
    if (segment.change !== null) add("change by this segment", segment.change.toFixed(2));
    const before = index > 0 ? episode.segments[index - 1] : null;
    if (before && before.other !== null) {
      const same = before.same === null ? "" : ` (same cue: ${before.same.toFixed(2)})`;
      add("memory read here: distance from another cue's", before.other.toFixed(2) + same);
    } else if (segment.other === null) {
      add("another cue", episode.compared);
    } else {
      add("memory read here", "the initial one");
    }
  }

  function showStep(place) {
    step = Math.max(0, Math.min(episode.steps - 1, place));
    at("step").value = step;
    const decisive = episode.decisive.includes(step) ? ", decisive" : "";
    at("place").textContent = `step ${step + 1} of ${episode.steps}${decisive}`;
    if (episode.frames.length) at("frame").src = episode.frames[step];
    at("seen").replaceChildren(...episode.seen[step].map(showPart));
    showAction();
    showState();
    const line = at("timeline");
    if (line.layout) Plotly.relayout(line, { "shapes[0].x0": step + 1, "shapes[0].x1": step + 1 });
  }

  function border(place) {
    return { type: "line", yref: "paper", y0: 0, y1: 1, x0: place, x1: place, line: { color: colour("--faint"), width: 1, dash: "dot" } };
  }

  function timelineTraces() {
    const steps = [], influence = [], attention = [], middle = [], width = [], change = [], ends = [], same = [], other = [];
    for (const segment of episode.segments) {
      segment.influence.forEach((share, index) => {
        steps.push(segment.start + index + 1);
        influence.push(share);
        attention.push(segment.attention.length ? segment.attention[index] : null);
      });
      middle.push((segment.start + segment.stop + 1) / 2);
      width.push((segment.stop - segment.start) * 0.92);
      change.push(segment.change);
      ends.push(segment.stop + 0.5);
      same.push(segment.same);
      other.push(segment.other);
    }
    const accent = colour("--accent"), orange = colour("--other"), faint = colour("--faint");
    const traces = [
      { type: "bar", x: steps, y: influence, name: "written from", marker: { color: accent }, hovertemplate: "%{y:.2f}" },
    ];
    if (attention.some((share) => share !== null)) {
      traces.push({ type: "scatter", mode: "lines", x: steps, y: attention, name: "attention", line: { color: orange, width: 1.5 }, hovertemplate: "%{y:.2f}" });
    }
    traces.push({ type: "bar", x: middle, y: change, width, yaxis: "y2", name: "change", marker: { color: accent, opacity: 0.45 }, hovertemplate: "%{y:.2f}" });
    if (other.some((value) => value !== null)) {
      traces.push({ type: "scatter", mode: "lines+markers", x: ends, y: other, yaxis: "y3", name: "distance from another cue's memory", line: { color: orange, width: 2 }, hovertemplate: "%{y:.2f}" });
    }
    if (same.some((value) => value !== null)) {
      traces.push({ type: "scatter", mode: "lines+markers", x: ends, y: same, yaxis: "y3", name: "from the same cue's", line: { color: faint, width: 2, dash: "dash" }, marker: { symbol: "square" }, hovertemplate: "%{y:.2f}" });
    }
    return traces;
  }

  function drawTimeline() {
    const line = at("timeline");
    line.hidden = !episode.carries;
    if (line.nextElementSibling.className === "labels") line.nextElementSibling.remove();
    if (!episode.carries) {
      Plotly.purge(line);
      return;
    }
    const traces = timelineTraces();
    const compared = traces.some((trace) => trace.yaxis === "y3");
    const domains = compared ? [[0.7, 1], [0.38, 0.62], [0, 0.3]] : [[0.58, 1], [0, 0.44]];
    const title = (text) => ({ text, standoff: 6, font: { size: 12 } });
    const cursor = { ...border(step + 1), line: { color: colour("--other"), width: 2 } };
    const layout = themed({
      xaxis: { title: { text: "step" }, range: [0.4, episode.steps + 0.9], anchor: compared ? "y3" : "y2" },
      yaxis: { domain: domains[0], title: title("share"), rangemode: "tozero", nticks: 4 },
      yaxis2: { domain: domains[1], title: title("change"), range: [0, 2.05], nticks: 4 },
      ...(compared ? { yaxis3: { domain: domains[2], title: title("distance"), rangemode: "tozero", nticks: 4 } } : {}),
      shapes: [cursor, ...episode.segments.map((segment) => border(segment.stop + 0.5))],
      bargap: 0.1,
      barmode: "overlay",
      hovermode: "closest",
      height: compared ? 430 : 300,
    });
    Plotly.react(line, traces, layout, config);
    addLabels(line, traces);
    line.removeAllListeners("plotly_click");
    line.on("plotly_click", (event) => showStep(Math.round(event.points[0].x) - 1));
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    at("play").textContent = "play";
  }

  function play() {
    if (timer) return stop();
    if (step === episode.steps - 1) showStep(0);
    at("play").textContent = "pause";
    timer = setInterval(() => {
      if (step >= episode.steps - 1) return stop();
      showStep(step + 1);
    }, 200);
  }

  function showEpisode(index) {
    stop();
    episode = data.players[index];
    at("title").textContent = episode.title;
    at("step").max = episode.steps - 1;
    at("frame").hidden = !episode.frames.length;
    at("no-frame").textContent = episode.no_frames;
    step = 0;
    drawTimeline();
    showStep(0);
  }

  function startPlayer() {
    if (!data.players.length) return;
    const run = at("run");
    for (const each of data.players) run.append(element("option", "", each.label));
    run.addEventListener("change", () => showEpisode(run.selectedIndex));
    at("step").addEventListener("input", () => showStep(Number(at("step").value)));
    at("back").addEventListener("click", () => showStep(step - 1));
    at("forward").addEventListener("click", () => showStep(step + 1));
    at("play").addEventListener("click", play);
    showEpisode(0);
  }

  drawCharts();
  startPlayer();
  dark.addEventListener("change", () => {
    drawCharts();
    if (episode) drawTimeline();
  });
})();
