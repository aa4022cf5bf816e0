// Draws the curves of a page with BokehJS, in place of the drawings that the page shows without scripts.
//
// The page has its data and the library as compressed blocks (etude.report.interactive). Whatever a run has written reaches
// the document as text only, never as markup.
"use strict";
(async () => {
  const UNITS = [["s", 1], ["min", 60], ["h", 3600], ["d", 86400]];
  const AXES = {step: "steps", tokens: "tokens", seconds: "time"};
  const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b", "#bcbd22", "#9467bd"];
  const MARKED = 40;  // values of a curve up to which each is marked, and none is smoothed

  const unpacked = async (id) => {
    const letters = atob(document.getElementById(id).textContent), bytes = new Uint8Array(letters.length);
    for (let index = 0; index < letters.length; index++) bytes[index] = letters.charCodeAt(index);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return await new Response(stream).text();
  };
  const [program, content] = await Promise.all([unpacked("library"), unpacked("curves-data")]);
  const library = document.createElement("script");
  library.textContent = program;
  document.head.append(library);
  const data = JSON.parse(content);

  const area = document.getElementById("plots");
  const controls = document.getElementById("controls");
  const timeUnit = (seconds) => UNITS.reduce((best, unit) => (seconds >= 2 * unit[1] ? unit : best), UNITS[0]);
  const longest = Math.max(1, ...data.runs.map((run) => run.seconds.at(-1) ?? 0));
  const [unit, divisor] = timeUnit(longest);
  const position = {
    step: (run, index) => run.step[index],
    tokens: (run, index) => run.tokens[index],
    seconds: (run, index) => run.seconds[index] / divisor,
  };
  const choice = () => ({
    axis: controls.querySelector("input[name=axis]:checked").value,
    logarithmic: controls.querySelector("#logarithmic").checked,
    smoothing: Number(controls.querySelector("#smoothing").value),
  });

  // The mean of the values so far, which forgets: as TensorBoard smooths, with its correction of the beginning.
  const smoothed = (values, weight) => {
    let mean = 0, count = 0;
    return values.map((value) => {
      if (value === null) return NaN;
      mean = weight * mean + (1 - weight) * value;
      count += 1;
      return mean / (1 - weight ** count);
    });
  };

  const styled = () => {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return {ink: read("--ink"), quiet: read("--quiet"), rule: read("--rule"), faint: read("--faint"), paper: read("--paper"),
      curves: [0, 1, 2, 3].map((index) => read(`--curve-${index}`)), sans: read("--sans")};
  };

  const several = data.runs.length > 1;
  const hidden = new Set();
  const root = document.documentElement;

  const colorOf = (chart, curve, place, colors) => {
    if (several) return PALETTE[curve.run % PALETTE.length];
    return chart.curves.length > colors.curves.length ? PALETTE[place % PALETTE.length] : colors.curves[place];
  };
  const labelOf = (curve, chart) => {
    const names = new Set(chart.curves.map((one) => one.name));
    const run = data.runs[curve.run].name;
    return !several ? curve.name : names.size > 1 ? `${run} ${curve.name}` : run;
  };

  // Curves that look alike are one stroke, broken where the next begins: fifty runs cost no more than the colours there are.
  const strokesOf = (chart, chosen, colors) => {
    const strokes = new Map(), names = [...new Set(chart.curves.map((curve) => curve.name))];
    chart.curves.forEach((curve, place) => {
      if (hidden.has(curve.run)) return;
      const run = data.runs[curve.run], color = colorOf(chart, curve, place, colors), label = labelOf(curve, chart);
      const dash = several && names.indexOf(curve.name) > 0 ? "dashed" : "solid";
      const marked = curve.values.length <= MARKED, smooth = chosen.smoothing > 0 && !chart.exact && !marked;
      const single = curve.values.length === 1, key = [color, dash, smooth, marked, single].join();
      if (!strokes.has(key)) {
        const columns = {x: [], y: [], raw: [], step: [], tokens: [], time: [], label: []};
        strokes.set(key, {color, dash, smooth, marked, single, columns, rings: [], lost: []});
      }
      const {columns, rings, lost} = strokes.get(key);
      if (columns.raw.length) for (const column of Object.values(columns)) column.push(column === columns.label ? "" : NaN);
      const before = columns.raw.length, raw = curve.values.map((value) => (value === null ? NaN : value));
      const shown = smooth ? smoothed(curve.values, chosen.smoothing) : raw;
      raw.forEach((value, index) => {
        const at = curve.at?.[index] ?? index;
        columns.x.push(position[chosen.axis](run, at));
        columns.y.push(shown[index]);
        columns.raw.push(value);
        columns.step.push(run.step[at]);
        columns.tokens.push(run.tokens[at]);
        columns.time.push(run.seconds[at] / divisor);
        columns.label.push(label);
      });
      for (const index of curve.spikes ?? []) if (raw[index] === raw[index]) rings.push(before + index);
      const level = raw.find((value) => value === value) ?? 1;
      for (const [index, told] of Object.entries(curve.lost ?? {})) lost.push({index: before + Number(index), told, level});
    });
    const packed = ({label, ...numbers}) =>
      ({label, ...Object.fromEntries(Object.entries(numbers).map(([name, column]) => [name, Float64Array.from(column)]))});
    return [...strokes.values()].map((stroke) => ({...stroke, columns: packed(stroke.columns)}));
  };

  const figure = (chart, chosen, colors, range) => {
    const logarithmic = chosen.logarithmic && chart.curves.every((curve) => curve.values.every((value) => value === null || value > 0));
    const plot = Bokeh.Plotting.figure({
      height: 250, sizing_mode: "stretch_width", tools: "", x_range: range, y_axis_type: logarithmic ? "log" : "linear",
      background_fill_alpha: 0, border_fill_alpha: 0, outline_line_color: null, min_border_right: 12, toolbar_location: null,
      output_backend: "canvas",
    });
    for (const axis of [...plot.xaxes, ...plot.yaxes]) {
      Object.assign(axis, {axis_line_color: colors.rule, major_tick_line_color: null, minor_tick_line_color: null,
        major_label_text_color: colors.quiet, axis_label_text_color: colors.quiet, major_label_text_font: colors.sans,
        axis_label_text_font: colors.sans, axis_label_text_font_size: "12px", axis_label_text_font_style: "normal"});
    }
    for (const grid of [...plot.xgrids, ...plot.ygrids]) grid.grid_line_color = colors.faint;
    plot.xaxis.axis_label = chosen.axis === "seconds" ? unit : AXES[chosen.axis];
    plot.xaxis.formatter = new Bokeh.NumeralTickFormatter({format: "0.[0]a"});
    // A learning rate reads 0.002, and not 2.000e-3.
    if (!logarithmic) plot.yaxis.formatter = new Bokeh.BasicTickFormatter({power_limit_low: -5});
    const pan = new Bokeh.PanTool({dimensions: "width"}), wheel = new Bokeh.WheelZoomTool({dimensions: "width"});
    const box = new Bokeh.BoxZoomTool(), reset = new Bokeh.ResetTool();
    plot.add_tools(pan, wheel, box, reset);
    plot.toolbar.active_drag = box;
    const strokes = strokesOf(chart, chosen, colors), lines = [];
    for (const {color, dash, smooth, marked, single, columns, rings, lost} of strokes) {
      const source = new Bokeh.ColumnDataSource({data: columns});
      const rough = !smooth ? null
        : plot.line({field: "x"}, {field: "raw"}, {source, line_color: color, line_width: 1, line_alpha: 0.25});
      const line = plot.line({field: "x"}, {field: "y"}, {source, line_color: color, line_width: 1.8, line_join: "round", line_dash: dash});
      const dots = !marked ? null
        : plot.scatter({field: "x"}, {field: "y"}, {source, size: 6, line_color: color, fill_color: colors.paper, line_width: 1.5});
      // Nothing is selected or muted here: the glyphs for it would be built for each stroke.
      for (const one of [rough, line, dots]) one?.setv({selection_glyph: null, nonselection_glyph: null, muted_glyph: null});
      lines.push(single ? dots : line);  // a single value is no line
      if (rings.length) {
        plot.scatter(rings.map((index) => columns.x[index]), rings.map((index) => columns.raw[index]),
          {size: 11, line_color: colors.ink, fill_alpha: 0, line_width: 1.5});
      }
      if (lost.length) mark(plot, lost, columns, colors);
    }
    const mode = lines.length > 1 ? "mouse" : "vline";  // the boxes of several would cover one another
    plot.add_tools(new Bokeh.HoverTool({renderers: lines, mode, point_policy: "snap_to_data", line_policy: "nearest",
      formatters: {"@raw": "printf", "@time": "printf"},
      tooltips: [["", "@label"], ["value", "@raw{%.5g}"], ["step", "@step{0,0}"], ["tokens", "@tokens{0,0}"], ["time", `@time{%.4g} ${unit}`]]}));
    return plot;
  };

  // A value that is not finite has no place on the axis: a cross at the height of the first of its curve that has.
  const mark = (plot, lost, columns, colors) => {
    const of = (name) => lost.map(({index}) => columns[name][index]);
    const source = new Bokeh.ColumnDataSource({data: {
      x: of("x"), step: of("step"), label: of("label"), told: lost.map(({told}) => told), y: lost.map(({level}) => level),
    }});
    const cross = plot.scatter({field: "x"}, {field: "y"}, {source, marker: "x", size: 9, line_color: colors.ink, line_width: 2});
    plot.add_tools(new Bokeh.HoverTool({renderers: [cross], tooltips: [["", "@label"], ["value", "@told"], ["step", "@step{0,0}"]]}));
  };

  // Charts in view first, each of the others as soon as the page has time. A later drawing ends an earlier one.
  const inView = (holder) => {
    const {top, bottom} = holder.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  };
  const breath = () => new Promise((done) => (window.requestIdleCallback ?? setTimeout)(done));

  // All charts show the same stretch. Each has a document of its own, so that one can be drawn without the others.
  const linked = (end) => {
    const range = new Bokeh.Range1d({start: stretch?.[0] ?? 0, end: stretch?.[1] ?? end, reset_start: 0, reset_end: end});
    ranges.push(range);
    range.change.connect(() => {
      const {start, end} = range;
      stretch = [start, end];
      for (const other of ranges) if (other.start !== start || other.end !== end) other.setv({start, end});
    });
    return range;
  };

  let ranges = [], documents = [], drawing = 0, stretch = null;
  const drawOne = async (chart, holder, chosen, colors, end) => {
    const own = new Bokeh.Document();
    documents.push(own);
    own.add_root(figure(chart, chosen, colors, linked(end)));
    holder.replaceChildren();
    await Bokeh.embed.add_document_standalone(own, holder, [holder]);
  };
  const draw = async () => {
    const mine = ++drawing, chosen = choice(), colors = styled();
    const farthest = Math.max(1, ...data.runs.map((run) => (run.step.length ? position[chosen.axis](run, run.step.length - 1) : 0)));
    for (const old of documents) old.clear();
    [ranges, documents, stretch] = [[], [], null];
    const holders = [...area.querySelectorAll(".plot")];
    const below = [];
    for (const [number, holder] of holders.entries()) {
      if (inView(holder)) await drawOne(data.charts[number], holder, chosen, colors, 1.015 * farthest);
      else below.push([number, holder]);
      if (mine !== drawing) return;
    }
    root.dataset.curves = "drawn";
    for (const [number, holder] of below) {
      await breath();
      if (mine !== drawing) return;
      await drawOne(data.charts[number], holder, chosen, colors, 1.015 * farthest);
    }
    if (mine === drawing) root.dataset.curves = "complete";
  };

  const prepare = () => {
    for (const chart of data.charts) {
      const holder = document.createElement("figure");
      const caption = document.createElement("figcaption"), title = document.createElement("b"), plot = document.createElement("div");
      title.textContent = chart.title;
      caption.append(title);
      if (!several && (chart.curves.length > 1 || chart.curves[0].name !== chart.title)) {
        chart.curves.forEach((curve, place) => {
          const key = document.createElement("span");
          key.className = "key";
          key.style.setProperty("--of-key", colorOf(chart, curve, place, styled()));
          key.textContent = curve.name;
          caption.append(" ", key);
        });
      }
      plot.className = "plot";
      plot.role = "img";
      plot.ariaLabel = `${chart.title}. ${chart.description}`;
      holder.append(caption, plot);
      area.append(holder);
    }
    for (const [number, box] of [...controls.querySelectorAll("input[name=run]")].entries()) {
      box.parentElement.style.setProperty("--of-run", PALETTE[number % PALETTE.length]);
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(number); else hidden.add(number);
        draw();
      });
    }
    for (const control of controls.querySelectorAll("input:not([name=run])")) control.addEventListener("change", draw);
    controls.querySelector("#reset").addEventListener("click", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    controls.hidden = false;
    root.dataset.curves = "ready";
  };

  prepare();
  await draw();
})();
