'use strict';
// What peers have said (names, paths) is put into the page as text only, never as markup.

const EVERY = 2000;          // between two looks, in milliseconds
const MOST_EDGES = 24;       // of the graph; the rest are one edge
const MOST_RECORDS = 500;    // of the tap

const $ = (selector, of = document) => of.querySelector(selector);

function element(name, attributes = {}, ...children) {
  const made = name === 'svg' || SVG.has(name)
    ? document.createElementNS('http://www.w3.org/2000/svg', name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== undefined));
  return made;
}
const SVG = new Set(['g', 'path', 'rect', 'text', 'title']);

// --- figures ---

function count(value) {
  if (value === undefined || value === null) return '';
  if (value >= 1e6) return (value / 1e6).toFixed(1) + 'M';
  if (value >= 1e4) return (value / 1e3).toFixed(1) + 'k';
  return value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

function bytes(value) {
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (value < 1024 || unit === 'GiB') return `${value < 10 && unit !== 'B' ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1024;
  }
}

function time(micros) {
  if (micros === undefined || micros === null) return '';
  if (micros < 1000) return `${micros} µs`;
  if (micros < 1e6) return `${(micros / 1e3).toFixed(micros < 1e4 ? 1 : 0)} ms`;
  return `${(micros / 1e6).toFixed(1)} s`;
}

function age(ms) {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

const percent = of => of === undefined ? '' : `${(100 * of).toFixed(of < 1 && of > 0.9 ? 2 : 0)} %`;

// --- what weir says ---

async function ask(what) {
  const response = await fetch('api/' + what);
  const text = await response.text();
  let reply;
  try { reply = JSON.parse(text); } catch { throw new Error(text.trim() || response.statusText); }
  if (reply.error) throw new Error(reply.error.message);
  return Object.values(reply.ok)[0];
}

const seen = { status: undefined, names: new Map(), services: [], connections: [], rows: [], before: new Map(), at: 0 };

/** How often which latency was seen since an earlier look: pairs of the lower end of a range in µs, and a count. */
function since(now, before) {
  const then = new Map(before);
  return now.map(([from, count]) => [from, count - (then.get(from) ?? 0)]).filter(([, count]) => count > 0);
}

/** The value that this part of them does not exceed: the middle of its range, which is a 32nd of a power of two wide. */
function quantile(latencies, part) {
  const all = latencies.reduce((sum, [, count]) => sum + count, 0);
  let left = Math.max(1, Math.ceil(all * part));
  for (const [from, count] of latencies) {
    left -= count;
    if (left <= 0) return from + Math.floor(2 ** Math.max(0, Math.floor(Math.log2(from || 1)) - 5) / 2);
  }
}

/** The row of an interval: what `weir stat` has, with values per second, and its own percentiles. */
function rate(row, before, seconds) {
  const per = key => seconds && before ? Math.max(0, row[key] - before[key]) / seconds : 0;
  const judged = row.successes + row.failures;
  const now = before ? row.successes + row.failures - before.successes - before.failures : 0;
  const failed = before ? row.failures - before.failures : 0;
  const latencies = seconds ? since(row.latencies ?? [], before?.latencies ?? []) : [];
  return {
    ...row,
    p50_us: quantile(latencies, 0.5),
    p99_us: quantile(latencies, 0.99),
    name: row.name ?? seen.names.get(row.destination) ?? row.destination ?? 'others',
    perSecond: {
      requests: per('requests'), connections: per('connections'),
      sent: per('bytes_sent'), received: per('bytes_received'),
    },
    success: now > 0 ? 1 - failed / now : judged > 0 ? 1 - row.failures / judged : undefined,
  };
}

const key = row => JSON.stringify([row.workload, row.direction, row.destination, row.treatment, row.source, row.reason]);

async function look() {
  try {
    const [status, stat, services] = await Promise.all([ask('status'), ask('stat'), ask('endpoints')]);
    const at = performance.now();
    seen.connections = view === 'connections' ? (await ask('connections')).connections : [];
    seen.status = status;
    seen.services = services.services;
    seen.names = new Map(services.services.flatMap(it => it.addresses.map(address => [address, it.service])));
    const seconds = seen.at ? (at - seen.at) / 1000 : 0;
    seen.rows = stat.rows.map(row => rate(row, seen.before.get(key(row)), seconds));
    seen.before = new Map(stat.rows.map(row => [key(row), row]));
    seen.at = at;
    problem('');
    show();
  } catch (error) {
    problem(error.message);
    $('#state').textContent = 'no answer';
  }
}

function problem(text) {
  $('#problem').textContent = text;
  $('#problem').hidden = !text;
}

// --- what is shown ---

let view = 'graph';
const wanted = row => !$('#workload').value || row.workload === $('#workload').value;

function show() {
  const { status } = seen;
  $('#state').textContent = `${status.version}, ${status.phase} for ${age(status.uptime_ms)}, `
    + `${status.open_connections} open connections`;
  workloads(status.workloads);
  if (view === 'graph') graph();
  if (view === 'table') destinations();
  if (view === 'connections') connections();
  if (view === 'endpoints') endpoints();
}

function workloads(list) {
  const select = $('#workload');
  const names = ['', ...list.map(it => it.name)];
  if ([...select.options].map(it => it.value).join('\n') === names.join('\n')) return;
  const chosen = select.value;
  select.replaceChildren(...names.map(name => element('option', { value: name }, name || 'all workloads')));
  select.value = names.includes(chosen) ? chosen : '';
}

// --- table ---

const columns = {
  table: [
    ['Workload', row => row.workload],
    ['Direction', row => row.direction],
    ['Destination', row => row.name === row.destination || !row.destination ? row.name : `${row.name} (${row.destination})`],
    ['Treated as', row => row.treatment ?? ''],
    ['Why', row => row.why],
    ['Open', row => row.open, count],
    ['Conn/s', row => row.perSecond.connections, count],
    ['Req/s', row => row.perSecond.requests, count],
    ['Requests', row => row.requests, count],
    ['Success', row => row.success, percent, row => row.success === undefined ? '' : row.success < 1 ? 'bad' : 'good'],
    ['Failures', row => row.failures, count, row => row.failures ? 'bad' : ''],
    ['p50', row => row.p50_us, time],
    ['p99', row => row.p99_us, time],
    ['Sent/s', row => row.perSecond.sent, bytes],
    ['Received/s', row => row.perSecond.received, bytes],
  ],
  connections: [
    ['Id', row => row.id, count],
    ['Age', row => row.age_us, time],
    ['Workload', row => row.workload],
    ['Direction', row => row.direction],
    ['Client', row => row.client],
    ['Destination', row => row.endpoint ? `${row.destination} → ${row.endpoint}` : row.destination],
    ['Name', row => row.name ?? ''],
    ['State', row => row.state.replace('_', ' '), undefined, row => row.state === 'open' ? 'good' : 'warn'],
    ['Treated as', row => row.treatment ?? ''],
    ['Why', row => row.why],
    ['Requests', row => row.requests, count],
    ['Sent', row => row.bytes_sent, bytes],
    ['Received', row => row.bytes_received, bytes],
  ],
  endpoints: [
    ['Service', row => row.service],
    ['Mode', row => row.mode],
    ['Endpoint', row => row.address],
    ['State', row => row.state, undefined, row => ({ used: 'good', preferred: 'good', out: 'bad', probing: 'warn' })[row.state] ?? 'soft'],
    ['Why', row => row.why ?? ''],
    ['Share', row => row.share, percent],
    ['Cost', row => row.cost_ms === null ? undefined : row.cost_ms * 1000, time],
    ['Latency', row => row.latency_ms === null ? undefined : row.latency_ms * 1000, time],
    ['In flight', row => row.in_flight, count],
    ['Chosen', row => row.chosen, count],
    ['Requests', row => row.requests, count],
    ['Failed', row => row.failed, count, row => row.failed ? 'bad' : ''],
    ['Zone', row => row.zone ?? ''],
  ],
};
const order = { table: ['Req/s', 'descending'], connections: ['Age', 'descending'], endpoints: ['Service', 'ascending'] };

function head(id) {
  const row = $(`#${id} thead tr`);
  row.replaceChildren(...columns[id].map(([title, , number]) => {
    const [by, direction] = order[id];
    const button = element('button', { type: 'button' }, title);
    button.addEventListener('click', () => {
      const same = order[id][0] === title;
      order[id] = [title, same && order[id][1] === 'descending' ? 'ascending' : 'descending'];
      head(id);
      show();
    });
    return element('th', {
      'aria-sort': by === title ? direction : undefined, scope: 'col', class: number ? 'number' : undefined,
    }, button);
  }));
}

function fill(id, rows) {
  const [by, direction] = order[id];
  const value = columns[id].find(([title]) => title === by)[1];
  const sign = direction === 'ascending' ? 1 : -1;
  const absent = sign === 1 ? Infinity : -Infinity;
  rows.sort((a, b) => {
    const [x, y] = [value(a) ?? absent, value(b) ?? absent];
    return (x < y ? -1 : x > y ? 1 : 0) * sign;
  });
  $(`#${id} tbody`).replaceChildren(...rows.map(row => element('tr', {},
    ...columns[id].map(([, value, number, colour]) => {
      const of = value(row);
      const text = number ? of === undefined ? '' : number(of) : String(of);
      return element('td', { class: [number ? 'number' : '', colour ? colour(row) : ''].join(' ').trim() }, text);
    }))));
  $(`#${id} .scroll`).hidden = rows.length === 0;
  $(`#${id}-note`).hidden = rows.length > 0;
}

const destinations = () => fill('table', seen.rows.filter(wanted));
const connections = () => fill('connections', seen.connections.filter(wanted));
const endpoints = () => fill('endpoints', seen.services.flatMap(service =>
  service.endpoints.map(endpoint => ({ ...endpoint, service: service.service, mode: service.mode }))));

// --- graph ---

/** Rows that have the same ends are one edge. */
function edges() {
  const all = new Map();
  for (const row of seen.rows.filter(wanted)) {
    const inbound = row.direction === 'inbound';
    const port = row.destination ? row.destination.slice(row.destination.lastIndexOf(':')) : '';
    const name = inbound ? `clients of ${port}` : row.name;
    const id = JSON.stringify([row.workload, inbound, name]);
    const edge = all.get(id) ?? {
      workload: row.workload, inbound, name, requests: 0, connections: 0, bytes: 0,
      judged: 0, failed: 0, p99: undefined, open: 0, total: 0, treatments: new Set(),
    };
    edge.requests += row.perSecond.requests;
    edge.connections += row.perSecond.connections;
    edge.bytes += row.perSecond.sent + row.perSecond.received;
    edge.judged += row.successes + row.failures;
    edge.failed += row.failures;
    edge.open += row.open;
    edge.total += row.requests + row.connections;
    if (row.p99_us !== null && row.p99_us !== undefined) edge.p99 = Math.max(edge.p99 ?? 0, row.p99_us);
    edge.treatments.add(row.treatment ?? 'undecided');
    all.set(id, edge);
  }
  const sorted = [...all.values()].sort((a, b) =>
    b.requests - a.requests || b.connections - a.connections || b.total - a.total);
  return [sorted.slice(0, MOST_EDGES), sorted.length];
}

function figures(edge, short) {
  const rate = edge.requests > 0 || edge.judged > 0
    ? `${count(edge.requests)} req/s` : edge.connections > 0 ? `${count(edge.connections)} conn/s` : `${edge.open} open`;
  const success = edge.judged > 0 ? percent(1 - edge.failed / edge.judged) : undefined;
  const parts = [rate, success, time(edge.p99)].filter(Boolean);
  return short ? parts.slice(0, 2).join(' · ') : parts.join(' · ');
}

function cut(text, width) {
  const most = Math.max(4, Math.floor(width / 7));
  return text.length <= most ? text : text.slice(0, most - 1) + '…';
}

function node(x, y, width, text) {
  return element('g', {},
    element('rect', { x, y: y - 14, width, height: 28, rx: 6 }),
    element('text', { x: x + 8, y: y + 4 }, cut(text, width - 12)),
    element('title', {}, text));
}

function graph() {
  const [shown, total] = edges();
  const svg = $('#graph svg');
  const width = Math.max(300, svg.clientWidth || 900);
  const names = [...new Set(shown.map(edge => edge.workload))];
  const step = 46;
  const height = Math.max(names.length, shown.length, 1) * step + 24;
  const box = width < 600 ? Math.floor(width * 0.3) : Math.min(280, Math.floor(width * 0.28));
  const right = width - box - 10;
  const at = new Map(names.map((name, index) =>
    [name, (height / (names.length + 1)) * (index + 1)]));
  const busiest = Math.max(1, ...shown.map(edge => edge.requests + edge.connections));
  const lines = [], labels = [], nodes = [];
  shown.forEach((edge, index) => {
    const [from, to] = [at.get(edge.workload), 12 + step * (index + 0.5)];
    const middle = (10 + box + right) / 2;
    const busy = edge.requests + edge.connections;
    const failing = edge.failed > 0;
    lines.push(element('path', {
      d: `M${10 + box} ${from} C${middle} ${from} ${middle} ${to} ${right} ${to}`,
      'stroke-width': 1.5 + 4 * Math.sqrt(busy / busiest) * (busy > 0),
      class: [failing ? 'failing' : '', busy > 0 ? '' : 'idle'].join(' ').trim(),
    }, element('title', {}, `${edge.workload} ${edge.inbound ? '←' : '→'} ${edge.name}: ${[...edge.treatments].join(', ')}`)));
    labels.push(element('text', {
      x: right - 8, y: to - 6, 'text-anchor': 'end', class: failing ? 'figures failing' : 'figures',
    }, figures(edge, width < 600)));
    nodes.push(node(right, to, box, (edge.inbound ? '⇠ ' : '') + edge.name));
  });
  names.forEach(name => nodes.push(node(10, at.get(name), box, name)));
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('height', height);
  svg.replaceChildren(...lines, ...labels, ...nodes);
  $('#graph-note').textContent = total === 0 ? 'no connections so far'
    : total > shown.length ? `${total - shown.length} more with less traffic; see Destinations` : '';
}

// --- tap ---

const tap = { source: undefined, records: [], paused: false, missed: 0 };
const tapColumns = ['Time', 'Workload', 'Client', 'To', 'What', 'Status', 'Took', 'Bytes', 'End'];

function describe(record) {
  const to = record.endpoint && record.endpoint !== record.destination
    ? `${record.destination} → ${record.endpoint}` : record.destination;
  if (record.kind === 'request') {
    const status = record.grpc_status !== undefined ? `grpc ${record.grpc_status}` : record.status ?? '';
    const failed = record.classification === 'failure' || record.end.endsWith('_reset');
    return {
      cells: [record.time.slice(11, 23), record.workload, record.client, to,
        `${record.method} ${record.authority ?? ''}${record.path}`, String(status),
        time(record.duration_us), bytes(record.response_bytes), record.weir_error ?? record.end],
      failed,
    };
  }
  return {
    cells: [record.time.slice(11, 23), record.workload, record.client ?? '', to,
      [record.treatment ?? 'undecided', record.sni].filter(Boolean).join(' '), '',
      time(record.duration_us), bytes(record.bytes_sent + record.bytes_received), record.error ?? record.close],
    failed: record.close !== 'finished',
  };
}

function filter() {
  const form = new FormData($('#filter'));
  const asked = {};
  if (form.get('kind')) asked.kind = form.get('kind');
  if (form.get('direction')) asked.direction = form.get('direction');
  if (form.get('failed')) asked.failed = true;
  if (Number(form.get('slower')) > 0) asked.at_least = `${Number(form.get('slower'))}ms`;
  return asked;
}

function follow() {
  tap.source?.close();
  tap.source = undefined;
  if (view !== 'tap' || tap.paused) return;
  const query = new URLSearchParams({ filter: JSON.stringify(filter()), workload: $('#workload').value });
  const source = tap.source = new EventSource('api/tap?' + query.toString().replaceAll('+', '%20'));
  source.onmessage = event => {
    const line = JSON.parse(event.data);
    if (line.ok?.record) record(line.ok.record);
    if (line.ok?.missed) tap.missed += line.ok.missed.records;
    note();
  };
  source.onerror = () => {
    note(source.readyState === EventSource.CLOSED ? 'weir does not show records; see its log' : 'connecting again …');
  };
  note();
}

function record(one) {
  const it = describe(one);
  it.text = it.cells.join(' ').toLowerCase();
  tap.records.unshift(it);
  tap.records.length = Math.min(tap.records.length, MOST_RECORDS);
  if (!tap.drawn) tap.drawn = requestAnimationFrame(draw);
}

function draw() {
  tap.drawn = undefined;
  const text = $('#filter [name=text]').value.trim().toLowerCase();
  const fits = tap.records.filter(it => it.text.includes(text));
  $('#tap tbody').replaceChildren(...fits.map(it => element('tr', { class: it.failed ? 'bad' : undefined },
    ...it.cells.map((cell, index) => element('td', {
      class: index === 4 ? 'path' : index === 6 || index === 7 ? 'number' : undefined, title: index === 4 ? cell : undefined,
    }, cell)))));
  $('#tap .scroll').hidden = tap.records.length === 0;
  note();
}

function note(text) {
  const missed = tap.missed ? `${count(tap.missed)} records dropped: the page is too slow` : '';
  $('#tap-note').textContent = text ?? (tap.paused ? 'paused' : missed || (tap.records.length ? '' : 'waiting for records'));
}

// --- begin ---

function choose(next) {
  view = next;
  for (const button of document.querySelectorAll('nav button')) {
    button.setAttribute('aria-selected', String(button.dataset.view === view));
    $('#' + button.dataset.view).hidden = button.dataset.view !== view;
  }
  if (view === 'connections') look();
  else if (seen.status) show();
  follow();
}

for (const button of document.querySelectorAll('nav button')) {
  button.addEventListener('click', () => choose(button.dataset.view));
}
$('#workload').addEventListener('change', () => { show(); follow(); });
$('#theme').addEventListener('click', () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
});
$('#filter').addEventListener('submit', event => event.preventDefault());
$('#filter').addEventListener('change', event => { if (event.target.name !== 'text') follow(); });
$('#filter [name=text]').addEventListener('input', draw);
$('#pause').addEventListener('click', event => {
  tap.paused = !tap.paused;
  event.target.setAttribute('aria-pressed', String(tap.paused));
  event.target.textContent = tap.paused ? 'Go on' : 'Pause';
  follow();
});
$('#clear').addEventListener('click', () => { tap.records = []; tap.missed = 0; draw(); });
addEventListener('resize', () => { if (seen.status) show(); });
head('table');
head('connections');
head('endpoints');
$('#tap thead tr').replaceChildren(...tapColumns.map((title, index) =>
  element('th', { scope: 'col', class: index === 6 || index === 7 ? 'number' : undefined }, title)));
$('#tap .scroll').hidden = true;
look();
setInterval(() => { if (!document.hidden) look(); }, EVERY);
