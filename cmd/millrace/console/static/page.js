// The status page: it draws what /api/events sends each second. All text that
// comes from outside goes in as text, never as markup.
'use strict';

const byId = (id) => document.getElementById(id);
const el = (tag, className, ...children) => {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.append(...children);
  return e;
};

const shade = { online: 'good', degraded: 'warn', offline: 'bad', disabled: 'off', good: 'good', uncertain: 'warn', bad: 'bad', none: 'off' };
// What the reasons mean, for people; codes of OPC UA speak for themselves.
const words = {
  timeout: 'no answer in time',
  offline: 'no connection',
  illegal_address: 'the device has no such address: check the address, and whether the manual counts from 0 or 1',
  illegal_value: 'the device refuses such a request: check the address and the type',
  illegal_function: 'the device does not know this kind of address',
  device_failure: 'the device reports a failure of its own',
  device_busy: 'the device is busy',
  gateway_no_path: 'the gateway has no way to this unit',
  gateway_no_answer: 'the unit behind the gateway does not answer',
  malformed: 'what came back is not of this type: check type and order',
  not_a_number: 'the device gave no number (NaN or infinity)',
  out_of_range: 'outside min and max, or not in enum: check the device and the tag map',
  overflow: 'values were lost in a full queue',
  unsupported_type: 'a type that cannot be read, or a scale for something that is no number',
  no_such_node: 'the server has no such node: check the address',
  not_readable: "the server does not let this user read it",
};
let open = null; // the device whose values are shown
let source = null;
let last = 0;
let status = null;

const count = (n) => n.toLocaleString('en-GB').replaceAll(',', ' ');
const bytes = (n) => {
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (n < 1024 || unit === 'GiB') return (n < 10 && unit !== 'B' ? n.toFixed(1) : Math.round(n)) + ' ' + unit;
    n /= 1024;
  }
};
const span = (ms) => {
  if (ms < 0) ms = 0;
  const s = Math.floor(ms / 1000);
  if (s < 60) return s + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' min';
  if (s < 172800) return Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' min';
  return Math.floor(s / 86400) + ' d';
};

// about is a time to come: nobody needs its last digit.
const about = (seconds) => {
  if (seconds < 1) return 'less than a second';
  if (seconds < 120) return Math.round(seconds) + ' s';
  if (seconds < 7200) return Math.round(seconds / 60) + ' min';
  if (seconds < 72 * 3600) return Math.round(seconds / 3600) + ' h';
  if (seconds < 365 * 86400) return Math.round(seconds / 86400) + ' days';
  return 'more than a year';
};
const within = (seconds) => seconds < 2 ? 'now' : 'in ' + about(seconds);
// clockTime is when that will be, by the clock and in the zone of who looks:
// the gateway's own may be wrong.
const clockTime = (seconds) => {
  const step = (seconds < 7200 ? 1 : 10) * 60000;
  const t = new Date(Math.round((Date.now() + seconds * 1000) / step) * step);
  const time = t.toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' });
  if (t.toDateString() === new Date().toDateString()) return time;
  return t.toLocaleDateString('en-GB', { weekday: 'short', day: 'numeric', month: 'short' }) + ', ' + time;
};
// Why readings were given up: the reasons of gap notices.
const losses = { buffer_full: 'the buffer was full', too_old: 'too old', damaged: 'a damaged file', disk_error: 'the disk took nothing', crash: 'the agent died' };
// What ends the buffer, after 'until'.
const limits = {
  max_size: (b) => 'its files reach max_size (' + bytes(b.max_bytes) + ')',
  max_age: () => 'the oldest readings reach max_age',
  disk_space: () => 'the disk is full: it has less room than max_size',
  memory: () => 'the memory for readings is full, as the disk takes none',
};

function draw(s) {
  status = s;
  document.title = 'Millrace ' + s.gateway;
  byId('gateway').textContent = s.group + ' / ' + s.gateway;
  byId('version').textContent = 'Millrace ' + s.version + ', running for ' + span(s.now - s.started);
  const warnings = [];
  if (s.config.error) warnings.push('The changed configuration was refused, the old one is in force: ' + s.config.error);
  if (s.buffer.error) warnings.push('The buffer cannot write: ' + s.buffer.error + '.\n' + memoryOnly(s.buffer));
  byId('warning').hidden = warnings.length === 0;
  byId('warning').textContent = warnings.join('\n');
  drawUplinks(s);
  drawBuffer(s);
  drawDevices(s);
}

function drawUplinks(s) {
  byId('uplinks').replaceChildren(...s.uplinks.map((u) => {
    const card = el('div', 'card',
      el('div', 'row', el('strong', '', u.name), el('span', 'pill ' + (u.up ? 'good' : 'bad'), u.up ? 'connected' : 'not connected')),
      el('div', 'dim', u.broker + (u.fallback ? ' (fallback)' : '') + ' · for ' + span(s.now - u.since)),
      el('div', 'dim', count(u.delivered) + ' batches delivered, ' + count(u.lag) + ' waiting' + (u.drained_seconds ? ', all sent ' + within(u.drained_seconds) : '')));
    if (u.set_aside) card.append(el('p', 'reason', count(u.set_aside) + ' batches set aside: the broker does not take them'));
    if (u.reason) card.append(el('p', 'reason', u.reason));
    return card;
  }));
}

// memoryOnly says what a disk that takes nothing means for the readings.
function memoryOnly(b) {
  const f = b.forecast;
  const only = 'New readings are kept in memory only';
  const cut = 'A power cut loses them.';
  if (f.full_limit === 'memory' && f.trend === 'full') return only + ', and it is full: the oldest are being lost. ' + cut;
  if (f.full_limit === 'memory' && f.trend === 'filling' && f.full) {
    return only + ', which is full ' + (f.left_seconds < 2 ? 'now' : 'at ' + clockTime(f.left_seconds) + ', in ' + about(f.left_seconds)) + ', if it goes on like this: then the oldest are lost. ' + cut;
  }
  return only + ', up to ' + bytes(b.memory_max_bytes) + ': then the oldest are lost. ' + cut;
}

// outlook is the buffer in time: what an engineer asks of it.
function outlook(b) {
  const f = b.forecast;
  if (!f.known && f.trend === 'full') return ['bad', 'Full', ': the oldest readings are being lost, because ' + limits[f.full_limit](b) + '.'];
  if (!f.known) return ['off', '', 'How long an outage the buffer holds is not known yet: that takes a minute of readings.'];
  const until = limits[f.holds_limit];
  const holds = 'holds an outage of ' + about(f.holds_seconds) + ' at the present rate';
  const whole = 'An empty buffer ' + holds + (until ? ', until ' + until(b) : '') + '.';
  switch (f.trend) {
    case 'filling':
      if (!f.full) return ['warn', 'Filling', ', but so slowly that no limit is near.'];
      return [f.left_seconds < 3600 ? 'bad' : 'warn', f.left_seconds < 2 ? 'Full now' : 'Full at ' + clockTime(f.left_seconds),
        (f.left_seconds < 2 ? '' : ', in ' + about(f.left_seconds)) + ', if it goes on like this: then ' + limits[f.full_limit](b) + ' and the oldest readings are lost. An empty buffer ' + holds + '.'];
    case 'full':
      return ['bad', 'Full', ': the oldest readings are being lost, because ' + limits[f.full_limit](b) + '. An empty buffer ' + holds + '.'];
    case 'draining':
      return ['good', 'Empty ' + within(f.drained_seconds), ', at ' + clockTime(f.drained_seconds) + ', if the uplinks go on like this. ' + whole];
    case 'standing':
      return ['warn', 'The backlog stands', ': the uplink takes as much as comes in, and no more. ' + whole];
    case 'unknown':
      return ['off', 'An uplink is just back', ': how fast it catches up shows in a few seconds. ' + whole];
  }
  return ['', 'Holds an outage of ' + about(f.holds_seconds), ' at the present rate' + (until ? ', until ' + until(b) : '') + '.'];
}

function drawBuffer(s) {
  const b = s.buffer;
  const [colour, lead, rest] = outlook(b);
  byId('outlook').replaceChildren(el('strong', colour, lead), rest);
  const facts = [
    ['Batches waiting', count(b.batches)],
    ['Age of the oldest', b.oldest ? span(s.now - b.oldest) : '–'],
    ['Only in memory', count(b.memory_only) + (b.memory_only === 1 ? ' batch' : ' batches')],
    ['On disk', bytes(b.bytes) + ' of ' + bytes(b.max_bytes)],
  ];
  for (const [reason, n] of Object.entries(b.dropped_batches || {})) {
    const readings = (b.dropped || {})[reason];
    facts.push(['Lost: ' + (losses[reason] || reason), count(n) + ' batches' + (readings ? ', ' + count(readings) + ' readings' : '')]);
  }
  byId('buffer').replaceChildren(...facts.map(([k, v]) => el('div', '', el('dt', '', k), el('dd', '', v))));
}

function drawDevices(s) {
  const states = {};
  for (const d of s.devices) states[d.state] = (states[d.state] || 0) + 1;
  byId('count').textContent = Object.entries(states).map(([k, n]) => n + ' ' + k).join(', ');
  const box = byId('devices');
  const want = s.devices.map((d) => d.id).join('\n');
  if (box.dataset.ids !== want) {
    box.dataset.ids = want;
    box.replaceChildren(...s.devices.map((d) => {
      const card = el('div', 'device');
      card.id = 'device-' + d.id;
      const head = el('button');
      head.type = 'button';
      head.addEventListener('click', () => choose(open === d.id ? null : d.id));
      card.append(head, el('div', 'scroll'));
      return card;
    }));
  }
  for (const d of s.devices) drawDevice(s, d);
}

function drawDevice(s, d) {
  const card = byId('device-' + d.id);
  const isOpen = open === d.id;
  card.classList.toggle('open', isOpen);
  const head = card.firstChild;
  head.setAttribute('aria-expanded', isOpen);
  const facts = [d.driver + ' ' + d.endpoint + (d.unit === undefined ? '' : ' unit ' + d.unit), d.tags + (d.tags === 1 ? ' tag' : ' tags')];
  if (d.monitored !== undefined) facts.push(d.monitored + ' of ' + d.tags + ' monitored');
  if (d.last_time) facts.push('answered ' + span(s.now - d.last_time) + ' ago');
  if (d.scan_ms) facts.push('scan ' + (d.scan_ms < 10 ? d.scan_ms.toFixed(1) : Math.round(d.scan_ms)) + ' ms of ' + d.interval_ms + ' ms');
  if (d.bad_tags) facts.push(d.bad_tags + ' bad');
  if (d.lost) facts.push(count(d.lost) + ' values lost in the device’s queue');
  if (d.missed) facts.push(count(d.missed) + ' scans missed');
  head.replaceChildren(
    el('div', 'row', el('strong', '', d.id), el('span', 'pill ' + shade[d.state], d.state + ' for ' + span(s.now - d.since))),
    el('div', 'dim', facts.join(' · ')));
  if (isOpen && d.identity) head.append(el('p', 'dim', 'It says it is: ' + nameplate(d.identity)));
  if (d.reason) head.append(el('p', 'reason', d.reason));
  const advice = d.advice || [];
  for (const text of isOpen ? advice : advice.slice(0, 1)) head.append(el('p', 'dim', 'Suggestion: ' + text));
  if (!isOpen && advice.length > 1) head.append(el('p', 'dim', '… and ' + (advice.length - 1) + ' more'));
  if (!isOpen) card.lastChild.replaceChildren();
}

// nameplate is what a device says of itself.
function nameplate(i) {
  const parts = [[i.maker, i.model || i.product].filter(Boolean).join(' ')];
  if (i.model && i.product) parts.push(i.product);
  if (i.serial) parts.push('serial number ' + i.serial);
  if (i.version) parts.push('version ' + i.version);
  if (i.software) parts.push('answered by ' + i.software);
  return parts.filter(Boolean).join(', ');
}

function drawValues(id, values) {
  const card = byId('device-' + id);
  if (!card || open !== id) return;
  const table = el('table', '', el('thead', '', el('tr', '', el('th', '', 'Tag'), el('th', 'num', 'Value'), el('th', '', ''), el('th', '', 'Quality'), el('th', '', 'Age'), el('th', 'wide', 'Address'))));
  const body = el('tbody');
  for (const v of values) {
    const name = el('td', '', v.name);
    if (v.description) name.title = v.description;
    body.append(el('tr', '', name, valueCell(v), el('td', 'dim unit', v.unit || ''),
      quality(v),
      el('td', 'dim', v.time ? span(status.now - v.time) : '–'), el('td', 'dim wide address', v.address)));
  }
  table.append(body);
  card.lastChild.replaceChildren(table);
}

// valueCell shows the beginning of a long value; all of it is in its title.
function valueCell(v) {
  const long = v.value && v.value.length > 24;
  const cell = el('td', long ? 'num long' : 'num', long ? el('div', '', v.value) : v.value || '–');
  if (long) cell.title = v.value;
  return cell;
}

function quality(v) {
  if (v.quality === 'none') return el('td', 'off', 'not read yet');
  const cell = el('td', shade[v.quality], v.quality + (v.reason ? ' (' + v.reason + ')' : ''));
  if (words[v.reason]) cell.append(el('div', 'dim', words[v.reason]));
  return cell;
}

function choose(id) {
  open = id;
  listen();
}

function listen() {
  if (source) source.close();
  source = new EventSource('api/events' + (open ? '?device=' + encodeURIComponent(open) : ''));
  source.onmessage = (m) => {
    const e = JSON.parse(m.data);
    last = Date.now();
    live(true);
    draw(e.status);
    if (e.values) drawValues(e.device, e.values);
    if (open === null && !listen.chosen && e.status.devices.length > 0) {
      listen.chosen = true; // the first device is open when the page opens
      choose(e.status.devices[0].id);
    }
  };
  source.onerror = () => live(false);
}

function live(on) {
  const p = byId('live');
  p.className = 'pill ' + (on ? 'good' : 'bad');
  p.textContent = on ? 'live' : 'no connection to the agent';
}

setInterval(() => { if (last && Date.now() - last > 5000) live(false); }, 1000);
listen();
