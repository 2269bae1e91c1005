// What panels look like, in one place: colours, thresholds, legends, sizes, links. A panel is a title, a
// description, a unit and expressions.

import type { Dashboard, DataSourceRef, Panel, RowPanel, VariableModel } from "@grafana/schema";

/** The data source is chosen by a variable whose default is the provisioned one. */
const source: DataSourceRef = { type: "prometheus", uid: "${datasource}" };

const GREEN = "green";
const ORANGE = "orange";
const RED = "red";
/** Of 24 columns and some rows. */
const HEIGHTS = { stat: 4, timeseries: 8, heatmap: 8, table: 10 };

/** A panel without its place. */
export type Tile = { width: number; height: number; panel: Omit<Panel, "gridPos"> } | { row: string };

type Query = [expression: string, legend: string];

/** What differs from panel to panel. */
export type Options = {
  /** Orange from here on. */
  warnFrom?: number;
  /** Red below this. */
  criticalBelow?: number;
  /** A line across a graph. */
  line?: number;
  /** The first of these series is filled up to from the second. */
  band?: [low: string, high: string];
  /** Shown in place of the value. */
  label?: string;
  /** Dashboard that a click opens. */
  link?: string;
};

const targets = (queries: Query[], instant = false) =>
  queries.map(([expr, legendFormat], at) => ({
    refId: String.fromCharCode(65 + at),
    datasource: source,
    expr,
    legendFormat,
    ...(instant ? { instant: true, range: false, format: "table" } : {}),
  }));

const steps = ({ warnFrom, criticalBelow }: Options) => {
  if (criticalBelow !== undefined) {
    return [{ value: null, color: RED }, { value: criticalBelow, color: GREEN }];
  }
  const base = [{ value: null, color: GREEN }];
  return warnFrom === undefined ? base : [...base, { value: warnFrom, color: ORANGE }];
};

/** A headline between panels. */
export const row = (title: string): Tile => ({ row: title });

/** One number. */
export function stat(title: string, description: string, unit: string, expr: string, width: number, options: Options = {}): Tile {
  const { label, link } = options;
  return {
    width,
    height: HEIGHTS.stat,
    panel: {
      type: "stat",
      title,
      description,
      datasource: source,
      targets: targets([[expr, label ?? ""]]),
      fieldConfig: {
        defaults: {
          unit,
          thresholds: { mode: "absolute", steps: steps(options) },
          ...(link ? { links: [{ title: "Open", url: `/d/${link}?\${datasource:queryparam}` }] } : {}),
        },
        overrides: [],
      },
      options: {
        colorMode: options.warnFrom === undefined && options.criticalBelow === undefined ? "none" : "value",
        graphMode: "area",
        reduceOptions: { calcs: ["lastNotNull"], fields: "", values: false },
        textMode: label ? "name" : "value",
      },
    } as Omit<Panel, "gridPos">,
  };
}

/** Curves over time. */
export function timeseries(title: string, description: string, unit: string, queries: Query[], width: number, options: Options = {}): Tile {
  const { line, band } = options;
  const faint = (name: string, properties: { id: string; value: unknown }[]) => ({
    matcher: { id: "byName", options: name },
    properties: [
      { id: "custom.lineWidth", value: 0 },
      { id: "color", value: { mode: "fixed", fixedColor: "blue" } },
      { id: "custom.hideFrom", value: { legend: true, tooltip: false, viz: false } },
      ...properties,
    ],
  });
  const overrides = band
    ? [
        faint(band[0], []),
        faint(band[1], [
          { id: "custom.fillBelowTo", value: band[0] },
          { id: "custom.fillOpacity", value: 12 },
        ]),
      ]
    : [];
  return {
    width,
    height: HEIGHTS.timeseries,
    panel: {
      type: "timeseries",
      title,
      description,
      datasource: source,
      targets: targets(queries),
      fieldConfig: {
        defaults: {
          unit,
          custom: {
            lineWidth: 1,
            fillOpacity: 0,
            showPoints: "never",
            spanNulls: false,
            ...(line === undefined ? {} : { thresholdsStyle: { mode: "line" } }),
          },
          thresholds: {
            mode: "absolute",
            steps: line === undefined ? [{ value: null, color: GREEN }] : [{ value: null, color: GREEN }, { value: line, color: RED }],
          },
        },
        overrides,
      },
      options: {
        legend: { displayMode: "list", placement: "bottom", showLegend: true, calcs: [] },
        tooltip: { mode: "multi", sort: "desc" },
      },
    } as Omit<Panel, "gridPos">,
  };
}

/** A histogram over time. */
export function heatmap(title: string, description: string, unit: string, metric: string, width: number): Tile {
  const expr = `sum by (le) (increase(${metric}_bucket[$__rate_interval]))`;
  return {
    width,
    height: HEIGHTS.heatmap,
    panel: {
      type: "heatmap",
      title,
      description,
      datasource: source,
      targets: targets([[expr, "{{le}}"]]).map((target) => ({ ...target, format: "heatmap" })),
      fieldConfig: { defaults: { unit }, overrides: [] },
      options: {
        calculate: false,
        color: { mode: "scheme", scheme: "Blues", steps: 32 },
        yAxis: { unit },
        cellGap: 1,
        legend: { show: true },
        tooltip: { mode: "single", yHistogram: false },
      },
    } as Omit<Panel, "gridPos">,
  };
}

/** Words and colours for numbers. */
const words = (states: Words) => ({
  type: "value",
  options: Object.fromEntries(states.map(([value, text, color], index) => [String(value), { text, color, index }])),
});

/** What numbers mean. */
export type Words = [value: number, text: string, color: string][];

/** How a sensor is. */
export const STATES: Words = [
  [0, "as usual", GREEN],
  [1, "out of line", ORANGE],
  [2, "silent", RED],
  [3, "silent", RED],
];

/** What was the case when, a lane per series. */
export function lanes(title: string, description: string, queries: Query[], states: Words, width: number): Tile {
  return {
    width,
    height: HEIGHTS.timeseries,
    panel: {
      type: "state-timeline",
      title,
      description,
      datasource: source,
      targets: targets(queries),
      fieldConfig: {
        defaults: {
          unit: "short",
          mappings: [words(states)],
          custom: { fillOpacity: 70, lineWidth: 0, spanNulls: false },
        },
        overrides: [],
      },
      options: {
        mergeValues: true,
        showValue: "never",
        rowHeight: 0.8,
        legend: { displayMode: "list", placement: "bottom", showLegend: true, calcs: [] },
        tooltip: { mode: "single", sort: "none" },
      },
    } as Omit<Panel, "gridPos">,
  };
}

/** Newest values, a line per sensor. */
export function table(title: string, description: string, columns: [expr: string, name: string, unit: string, states?: Words][], width: number): Tile {
  const column = (name: string, at: number) => ({
    matcher: { id: "byName", options: `Value #${String.fromCharCode(65 + at)}` },
    properties: [
      { id: "displayName", value: name },
      { id: "unit", value: columns[at][2] },
      ...(columns[at][3]
        ? [
            { id: "mappings", value: [words(columns[at][3])] },
            { id: "custom.cellOptions", value: { type: "color-text" } },
          ]
        : []),
      ...(name === "Score"
        ? [
            { id: "custom.cellOptions", value: { type: "color-text" } },
            { id: "thresholds", value: { mode: "absolute", steps: [{ value: null, color: GREEN }, { value: 0.5, color: RED }] } },
          ]
        : []),
    ],
  });
  const open = {
    matcher: { id: "byName", options: "sensor" },
    properties: [
      { id: "displayName", value: "Sensor" },
      { id: "links", value: [{ title: "Open", url: "/d/vigie-sensor?var-sensor=${__value.raw}&${datasource:queryparam}" }] },
    ],
  };
  return {
    width,
    height: HEIGHTS.table,
    panel: {
      type: "table",
      title,
      description,
      datasource: source,
      targets: targets(columns.map(([expr]) => [expr, ""]), true),
      transformations: [
        { id: "joinByField", options: { byField: "sensor", mode: "outer" } },
        { id: "filterFieldsByName", options: { include: { pattern: "^sensor$|^Value.*" } } },
      ],
      fieldConfig: { defaults: {}, overrides: [open, ...columns.map(([, name], at) => column(name, at))] },
      options: { showHeader: true, sortBy: [{ displayName: "Score", desc: true }] },
    } as Omit<Panel, "gridPos">,
  };
}

const choice = (name: string, label: string, query: string, multi: boolean): VariableModel =>
  ({
    type: "query",
    name,
    label,
    datasource: source,
    query: { query, refId: name },
    refresh: 2,
    sort: 1,
    multi,
    includeAll: multi,
    ...(multi ? { allValue: ".*", current: { text: "All", value: "$__all" } } : {}),
  }) as VariableModel;

const variables: Record<string, VariableModel> = {
  group: choice("group", "Group", "label_values(vigie_sensor_info, group)", true),
  sensor: choice("sensor", "Sensor", 'label_values(vigie_sensor_info{group=~"$group"}, sensor)', true),
  "one sensor": choice("sensor", "Sensor", "label_values(vigie_sensor_info, sensor)", false),
};

/** Places the tiles from left to right, line by line. */
function placed(tiles: Tile[]): (Panel | RowPanel)[] {
  let [x, y, height, id] = [0, 0, 0, 0];
  return tiles.map((tile) => {
    id += 1;
    const next = () => {
      [x, y, height] = [0, y + height, 0];
    };
    if ("row" in tile) {
      next();
      const gridPos = { x: 0, y, w: 24, h: 1 };
      y += 1;
      return { id, type: "row", title: tile.row, collapsed: false, gridPos, panels: [] } satisfies RowPanel;
    }
    if (x + tile.width > 24) {
      next();
    }
    const gridPos = { x, y, w: tile.width, h: tile.height };
    x += tile.width;
    height = Math.max(height, tile.height);
    return { id, ...tile.panel, gridPos } as Panel;
  });
}

/** A dashboard with links to the others, anomalies as marks, and the variables of these names. */
export function dashboard(uid: string, title: string, description: string, tiles: Tile[], names: string[]): Dashboard {
  const chosen = {
    type: "datasource",
    name: "datasource",
    label: "Data source",
    query: "prometheus",
    current: { text: "Prometheus", value: "prometheus" },
  } as VariableModel;
  const marks = names.includes("one sensor")
    ? [
        {
          name: "Anomalies",
          enable: true,
          iconColor: RED,
          datasource: source,
          expr: 'vigie_sensor_anomaly_score{sensor="$sensor"} >= 0.5',
          titleFormat: "Anomaly",
        },
      ]
    : names.includes("sensor")
      ? [
          {
            name: "Anomalies",
            enable: true,
            iconColor: RED,
            datasource: source,
            expr: 'vigie_sensor_anomaly_score{sensor=~"$sensor"} >= 0.5',
            titleFormat: "{{sensor}}",
          },
        ]
      : [];
  return {
    uid,
    title,
    description,
    tags: ["vigie"],
    editable: false,
    graphTooltip: 1,
    refresh: "10s",
    schemaVersion: 39,
    time: { from: "now-6h", to: "now" },
    timezone: "browser",
    links: [
      {
        type: "dashboards",
        title: "Vigie",
        tags: ["vigie"],
        asDropdown: false,
        includeVars: false,
        keepTime: true,
        targetBlank: false,
        icon: "external link",
        tooltip: "",
        url: "",
      },
    ],
    templating: { list: [chosen, ...names.map((name) => variables[name])] },
    annotations: { list: marks },
    panels: placed(tiles),
  } as Dashboard;
}
