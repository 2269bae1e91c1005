// The four dashboards, written as dashboards/*.json beside this directory. What panels look like is
// decided in parts.ts; here is what they show. `npm ci && npm run build` writes them anew.

import { writeFileSync } from "node:fs";
import { STATES, type Tile, dashboard, heatmap, lanes, row, stat, table, timeseries } from "./parts.js";

const sensor = 'sensor=~"$sensor"';
/** Restricts per-sensor series to the chosen group: every sensor has one such series. */
const ofGroup = 'and on (sensor) vigie_sensor_info{group=~"$group"}';
const quantile = (q: number, metric: string, by = "") =>
  `histogram_quantile(${q}, sum by (le${by}) (rate(${metric}_bucket[$__rate_interval])))`;

const seen = `vigie_sensor_last_seen_timestamp_seconds{${sensor}}`;
const interval = `vigie_sensor_expected_interval_seconds{${sensor}}`;
/** 0: as usual; 1: out of line; 2 and more: silent. A sensor whose interval is not known yet is not silent. */
const state =
  `(2 * (time() - ${seen} > bool 10 * ${interval}) or on (sensor) 0 * ${seen})` +
  ` + on (sensor) ((vigie_sensor_anomaly_score{${sensor}} >= bool 0.5) or on (sensor) 0 * ${seen}) ${ofGroup}`;

const fleet: Tile[] = [
  row("Now"),
  stat("Sensors", "Sensors that the engine knows.", "short", "sum(vigie_sensors)", 4),
  stat(
    "Silent",
    "Sensors not heard for ten of their intervals.",
    "short",
    "count(time() - vigie_sensor_last_seen_timestamp_seconds > 10 * vigie_sensor_expected_interval_seconds) or vector(0)",
    4,
    { warnFrom: 1 },
  ),
  stat(
    "Out of line",
    "Sensors whose newest reading is an anomaly.",
    "short",
    `count(vigie_sensor_anomaly_score >= 0.5 ${ofGroup}) or vector(0)`,
    4,
    { warnFrom: 1 },
  ),
  stat("Open incidents", "Episodes that people were told about and that go on.", "short", "sum(vigie_incidents_open)", 4, {
    warnFrom: 1,
    link: "vigie-alerts",
  }),
  stat("Readings", "Readings stored per second, mean of five minutes.", "ops", "vigie:readings_stored:rate5m", 4),
  stat("Engine", "1: the engine answers Prometheus.", "short", 'min(up{job="vigie"})', 4, { criticalBelow: 1 }),
  row("Trends"),
  timeseries("Temperature", "Newest value of each sensor.", "celsius", [
    [`vigie_sensor_temperature_celsius{${sensor}} ${ofGroup}`, "{{sensor}}"],
  ], 12),
  timeseries("Humidity", "Newest value of each sensor.", "percentunit", [
    [`vigie_sensor_humidity_ratio{${sensor}} ${ofGroup}`, "{{sensor}}"],
  ], 12),
  timeseries(
    "Score",
    "Score of the newest reading; at 0.5 and above it is an anomaly.",
    "percentunit",
    [[`vigie_sensor_anomaly_score{${sensor}} ${ofGroup}`, "{{sensor}}"]],
    24,
    { line: 0.5 },
  ),
  row("Sensors"),
  table(
    "Sensors",
    "How each sensor is, and its newest values. A click opens the sensor.",
    [
      [state, "State", "short", STATES],
      [`vigie_sensor_temperature_celsius{${sensor}} ${ofGroup}`, "Temperature", "celsius"],
      [`vigie_sensor_humidity_ratio{${sensor}} ${ofGroup}`, "Humidity", "percentunit"],
      [`vigie_sensor_anomaly_score{${sensor}} ${ofGroup}`, "Score", "percentunit"],
      [`time() - vigie_sensor_last_seen_timestamp_seconds{${sensor}} ${ofGroup}`, "Silent for", "s"],
    ],
    24,
  ),
];

const usual = (metric: string) => `${metric}{sensor="$sensor"}`;
const course = (title: string, unit: string, metric: string, band: string) =>
  timeseries(
    title,
    "The value, and the band that the engine has learned for it: between the lines of the rules about its level (time of day, rolling baseline). No band: not learned yet. Red marks: anomalies.",
    unit,
    [
      [usual(metric), "value"],
      [`${band}{sensor="$sensor", bound="high"}`, "learned, high"],
      [`${band}{sensor="$sensor", bound="low"}`, "learned, low"],
    ],
    24,
    { band: ["learned, low", "learned, high"] },
  );

const one: Tile[] = [
  row("Now"),
  stat("Temperature", "Newest value.", "celsius", usual("vigie_sensor_temperature_celsius"), 6),
  stat("Humidity", "Newest value.", "percentunit", usual("vigie_sensor_humidity_ratio"), 6),
  stat("Score", "0.5 is the line.", "percentunit", usual("vigie_sensor_anomaly_score"), 6, { warnFrom: 0.5 }),
  stat("Silent for", "Since it was heard last.", "s", `time() - ${usual("vigie_sensor_last_seen_timestamp_seconds")}`, 6),
  row("Course"),
  course("Temperature", "celsius", "vigie_sensor_temperature_celsius", "vigie_sensor_temperature_band_celsius"),
  course("Humidity", "percentunit", "vigie_sensor_humidity_ratio", "vigie_sensor_humidity_band_ratio"),
  row("Why"),
  timeseries("z-score", "Distance from the rolling baseline, in standard deviations, by quantity.", "short", [
    [usual("vigie_sensor_zscore"), "{{quantity}}"],
  ], 12),
  timeseries(
    "Score",
    "Rules and forest together; at 0.5 and above it is an anomaly.",
    "percentunit",
    [
      [usual("vigie_sensor_anomaly_score"), "all"],
      [usual("vigie_sensor_forest_score"), "forest alone"],
    ],
    12,
    { line: 0.5 },
  ),
  lanes(
    "Rules fired",
    "Rules that fired within the last minute.",
    [[`time() - ${usual("vigie_sensor_rule_fired_timestamp_seconds")} < bool 60`, "{{rule}}"]],
    [
      [0, "quiet", "transparent"],
      [1, "fired", "red"],
    ],
    24,
  ),
  timeseries(
    "Gaps",
    "Time since the last reading beside the expected interval: where the first rises, readings are missing.",
    "s",
    [
      [`time() - ${usual("vigie_sensor_last_seen_timestamp_seconds")}`, "since the last reading"],
      [usual("vigie_sensor_expected_interval_seconds"), "expected interval"],
    ],
    12,
  ),
  timeseries("Missing", "Readings that never came, by the gaps in their numbers.", "short", [
    [`increase(${usual("vigie_sensor_missing_readings_total")}[$__rate_interval])`, "missing"],
  ], 12),
  timeseries("Messages", "Answered, and of these: late, known already, kept aside.", "short", [
    [`increase(${usual("vigie_sensor_received_messages_total")}[$__rate_interval])`, "received"],
    [`increase(${usual("vigie_sensor_late_readings_total")}[$__rate_interval])`, "late"],
    [`increase(${usual("vigie_sensor_duplicate_readings_total")}[$__rate_interval])`, "duplicate"],
    [`increase(${usual("vigie_sensor_quarantined_messages_total")}[$__rate_interval])`, "quarantined"],
  ], 24),
];

const engine: Tile[] = [
  row("Stream"),
  timeseries("Readings", "Messages answered per second, by what became of them.", "ops", [
    ["sum by (outcome) (rate(vigie_readings_total[$__rate_interval]))", "{{outcome}}"],
  ], 12),
  heatmap("Durable after", "From sending a batch to the answer that it is durable, per reading.", "s", "vigie_durable_seconds", 12),
  heatmap("Acknowledged after", "From the arrival of a publish to its PUBACK: end to end, as the engine sees it.", "s", "vigie_puback_seconds", 12),
  timeseries("End to end", "Arrival to PUBACK by source, and from a reading's own time to its being durable (errors of device clocks are in it); 99 of 100.", "s", [
    [quantile(0.99, "vigie_puback_seconds", ", source"), "{{source}}: arrival to PUBACK"],
    [quantile(0.5, "vigie_reading_age_seconds"), "own time to durable, median"],
    [quantile(0.99, "vigie_reading_age_seconds"), "own time to durable"],
  ], 12),
  timeseries("Stages", "Time of one batch in a stage, 99 of 100.", "s", [
    [quantile(0.99, "vigie_stage_seconds", ", stage"), "{{stage}}"],
  ], 12),
  timeseries("Commits", "Time of one synced commit.", "s", [
    [quantile(0.5, "vigie_commit_seconds"), "median"],
    [quantile(0.99, "vigie_commit_seconds"), "99 of 100"],
  ], 12),
  timeseries("Readings per commit", "How many readings share a commit: more under load.", "short", [
    ["rate(vigie_commit_readings_sum[$__rate_interval]) / rate(vigie_commit_readings_count[$__rate_interval])", "mean"],
  ], 8),
  timeseries("Inside", "Readings on their way through the stages.", "short", [
    ["vigie_readings_in_flight", "under way"],
    ["vigie_stage_readings_in_flight", "{{stage}}"],
  ], 8),
  timeseries("Stage by stage", "Readings received, sent on and refused, per second.", "ops", [
    ["sum by (stage, event) (rate(vigie_stage_readings_total[$__rate_interval]))", "{{stage}} {{event}}"],
  ], 8),
  timeseries("Mailboxes", "Messages that wait in front of a stage.", "short", [["vigie_mailbox_depth", "{{stage}}"]], 8),
  timeseries("Waiting in mailboxes", "Time of one message in a mailbox, 99 of 100.", "s", [
    [quantile(0.99, "vigie_mailbox_seconds", ", stage"), "{{stage}}"],
  ], 8),
  timeseries("Door", "Room in the stream, in readings, and sources that wait for some: they read nothing meanwhile.", "short", [
    ["vigie_intake_readings", "{{state}}"],
    ["vigie_intake_waiting_sources", "sources that wait"],
  ], 8),
  row("What should be zero"),
  stat("Restarts", "Stages rebuilt after a panic, in the shown time.", "short", "sum(increase(vigie_stage_restarts_total[$__range]))", 4, { warnFrom: 1 }),
  stat("Slowest restart", "Until a stage was back, 99 of 100.", "s", "histogram_quantile(0.99, sum by (le) (increase(vigie_stage_restart_seconds_bucket[$__range])))", 4),
  stat("Refused", "Messages whose source has to send them again.", "short", "sum(increase(vigie_refused_total[$__range]))", 4, { warnFrom: 1 }),
  stat("Quarantined", "Messages that cannot be read, in the shown time.", "short", "sum(increase(vigie_quarantined_total[$__range])) or vector(0)", 4, { warnFrom: 1 }),
  stat("Disk full", "1: nothing is written for want of room.", "short", "max(vigie_store_disk_full)", 4, { warnFrom: 1 }),
  stat("Without series", "Readings of sensors beyond metrics.max_sensor_series.", "short", "sum(increase(vigie_sensor_series_overflow_total[$__range]))", 4, { warnFrom: 1 }),
  row("Ledger and store"),
  timeseries("Ledger", "What became of every message since the store was made.", "short", [["vigie_ledger_readings", "{{outcome}}"], ["vigie_missing_readings", "missing, {{while}}"]], 8),
  timeseries("Quarantine", "Messages that cannot be read, by reason.", "ops", [
    ["sum by (reason) (rate(vigie_quarantined_total[$__rate_interval]))", "{{reason}}"],
  ], 8),
  timeseries("Store", "Bytes on disk, the size that it is kept below, and the room that the disk has.", "bytes", [
    ["vigie_store_bytes", "store"],
    ["vigie_store_max_bytes", "kept below"],
    ["vigie_store_room_bytes", "room on the disk"],
  ], 8),
  stat("Disk full in", "At the rate of the last day, as the engine reckons; endless: never, or too early to tell.", "s", "min(vigie_store_full_timestamp_seconds) - time()", 8),
  stat("Certificates end in", "The first of those of the listener, of the page, of the broker and of the engine as its client.", "s", "min(vigie_certificate_expiry_timestamp_seconds) - time()", 8, { criticalBelow: 604800 }),
  timeseries("Certificates", "Time until each ends.", "s", [["vigie_certificate_expiry_timestamp_seconds - time()", "{{use}}"]], 8),
  timeseries("Keeper", "Hourly roll-ups made and old readings removed, per second.", "ops", [
    ["rate(vigie_rollups_total[$__rate_interval])", "roll-ups"],
    ["rate(vigie_readings_removed_total[$__rate_interval])", "removed"],
  ], 8),
  timeseries("Forests", "Generation of the newest isolation forest, and new ones that were not fit.", "short", [
    ["vigie_forest_generation", "generation"],
    ["increase(vigie_forests_refused_total[$__rate_interval])", "refused"],
  ], 8),
  stat("Version", "Of the engine.", "short", "vigie_build_info", 8, { label: "{{version}}" }),
  row("Sources"),
  timeseries("Listener", "Connections of devices, and publishes per second by result.", "short", [
    ["vigie_mqtt_connections", "connections"],
    ["sum by (result) (rate(vigie_mqtt_publishes_total[$__rate_interval]))", "{{result}}"],
  ], 12),
  timeseries("Acknowledgements", "PUBACKs per second: to devices, and to the external broker.", "ops", [
    ["rate(vigie_mqtt_pubacks_total[$__rate_interval])", "to devices"],
    ["rate(vigie_broker_pubacks_total[$__rate_interval])", "to the broker"],
    ["rate(vigie_broker_stale_acks_total[$__rate_interval])", "too late, will come again"],
  ], 12),
  timeseries("Broker", "1 while subscribed; 1 if the session was still there.", "short", [
    ["vigie_broker_connected", "connected"],
    ["vigie_broker_session_present", "session was there"],
  ], 8),
  timeseries("Connects", "Devices and the broker: attempts to connect by result.", "ops", [
    ["sum by (result) (rate(vigie_mqtt_connects_total[$__rate_interval]))", "device {{result}}"],
    ["sum by (result) (rate(vigie_broker_connects_total[$__rate_interval]))", "broker {{result}}"],
  ], 8),
  timeseries("Ends of connections", "By reason.", "ops", [
    ["sum by (reason) (rate(vigie_mqtt_disconnects_total[$__rate_interval]))", "device {{reason}}"],
    ["sum by (reason) (rate(vigie_broker_disconnects_total[$__rate_interval]))", "broker {{reason}}"],
    ["sum by (result) (rate(vigie_broker_publishes_total[$__rate_interval]))", "from the broker: {{result}}"],
  ], 8),
  row("Copy in MongoDB"),
  timeseries("Waiting", "Rows that MongoDB has yet to take.", "short", [["vigie_mongodb_waiting", "rows"]], 8),
  timeseries("Copied", "Rows per second by result, and failures by reason.", "ops", [
    ["sum by (result) (rate(vigie_mongodb_rows_total[$__rate_interval]))", "{{result}}"],
    ["sum by (reason) (rate(vigie_mongodb_failures_total[$__rate_interval]))", "failed: {{reason}}"],
    ["rate(vigie_mongodb_removed_total[$__rate_interval])", "removed"],
  ], 8),
  timeseries("Size", "Bytes in use, and the limit.", "bytes", [
    ["vigie_mongodb_used_bytes", "used"],
    ["vigie_mongodb_max_bytes", "limit"],
  ], 8),
  stat("Connected", "1 while MongoDB answers.", "short", "min(vigie_mongodb_connected)", 8, { criticalBelow: 1 }),
  stat("Full in", "When its limit will be reached, as the engine reckons.", "s", "min(vigie_mongodb_full_timestamp_seconds) - time()", 8),
  stat("Forwarder restarts", "In the shown time.", "short", "sum(increase(vigie_mongodb_restarts_total[$__range]))", 8, { warnFrom: 1 }),
];

const alerts: Tile[] = [
  row("Now"),
  stat("Open incidents", "Episodes that go on.", "short", "sum(vigie_incidents_open)", 6, { warnFrom: 1 }),
  stat("Notices waiting", "Not delivered yet, all channels together.", "short", "sum(vigie_notices_waiting)", 6, { warnFrom: 1 }),
  stat("Mails left", "Share of the recipients that may get a mail in 24 hours, without the reserve.", "percentunit", "min(vigie_notice_budget_left / vigie_notice_budget)", 6, { criticalBelow: 0.1 }),
  stat(
    "Alerts per sensor and week",
    "Incidents that people were told about, per sensor and week: compare it with score.false_alarms_per_week.",
    "short",
    'sum(increase(vigie_notices_total{channel="terminal", kind="opened", result="delivered"}[7d])) / (sum(vigie_sensors) > 0)',
    6,
  ),
  stat(
    "False alarms per sensor and week",
    "Incidents that people called a false alarm, per sensor and week.",
    "short",
    'sum(increase(vigie_answers_total{answer="false_alarm"}[7d])) / (sum(vigie_sensors) > 0)',
    6,
  ),
  timeseries("Answers", "What people answered, per hour.", "short", [
    ["sum by (answer) (increase(vigie_answers_total[1h]))", "{{answer}}"],
  ], 18),
  row("What was found"),
  timeseries("Incidents", "Open at that time.", "short", [["vigie_incidents_open", "open"]], 12),
  timeseries("Anomalies", "Per hour, by the rule that fired.", "short", [
    ["sum by (rule) (increase(vigie_anomalies_total[1h]))", "{{rule}}"],
  ], 12),
  row("What was told"),
  timeseries("Notices", "Per hour, by kind.", "short", [
    ['sum by (kind) (increase(vigie_notices_total{channel="terminal", result="delivered"}[1h]))', "{{kind}}"],
  ], 12),
  timeseries("Attempts", "Per hour, by channel and result.", "short", [
    ['sum by (channel, result) (increase(vigie_notices_total{channel!="terminal"}[1h]))', "{{channel}} {{result}}"],
  ], 12),
  timeseries("Waiting", "Notices in the outbox, by channel.", "short", [["vigie_notices_waiting", "{{channel}}"]], 12),
  timeseries("Budget", "Recipients left in 24 hours.", "short", [
    ["vigie_notice_budget_left", "{{channel}}"],
    ["vigie_notice_budget", "{{channel}}, all of it"],
  ], 12),
];

const all = [
  dashboard("vigie-fleet", "Vigie: Fleet", "All sensors: newest values, trends, who is out of line.", fleet, ["group", "sensor"]),
  dashboard("vigie-sensor", "Vigie: Sensor", "One sensor: its course, and why it was out of line.", one, ["one sensor"]),
  dashboard("vigie-engine", "Vigie: Engine", "The engine itself: stream, sources, store, copy.", engine, []),
  dashboard("vigie-alerts", "Vigie: Alerts", "Incidents, what people were told, and what is left of the budget.", alerts, []),
];
for (const made of all) {
  writeFileSync(new URL(`../${made.uid}.json`, import.meta.url), JSON.stringify(made, null, 1) + "\n");
}
