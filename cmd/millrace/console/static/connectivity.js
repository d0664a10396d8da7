// The connectivity view: it draws what /api/connectivity says, each half
// minute. All text that comes from outside goes in as text, never as markup.
'use strict';

const byId = (id) => document.getElementById(id);
const el = (tag, className, ...children) => {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.append(...children);
  return e;
};
const svg = (tag, attributes, ...children) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children);
  return e;
};

const words = {
  en: {
    title: 'Connectivity', back: 'Status page', '24h': 'last 24 hours', '7d': 'last 7 days', '30d': 'last 30 days',
    figures: 'Figures', over: 'Networking rate over time', heat: 'Availability of the devices', worst: 'Devices, the worst first', outages: 'Outages, the newest first',
    equipment_digitalisation: 'Equipment digitalisation', equipment_networking: 'Equipment networking', digital_equipment_networking: 'Networking of digital equipment',
    key_equipment_networking: 'Key equipment networking', key_process_collection: 'Key process collection', availability: 'Availability', read_rate: 'Collected of due', valid_rate: 'Valid of collected', delivery_rate: 'Delivered',
    machines: 'machines', processes: 'processes', seconds: 's', readings: 'readings', points: 'points', nothing: 'nothing to measure',
    device: 'Device', state: 'State', networked: 'Networked', availabilityShort: 'Availability', expected: 'Due', read: 'Collected', good: 'Valid', delivered: 'Delivered', times: 'Outages',
    yes: 'yes', no: 'no', from: 'From', to: 'To', length: 'Duration', reason: 'Reason', goeson: 'goes on', none: 'There were none.',
    gone: 'not observed', counted: 'Counted up to', noledger: 'There is no equipment ledger: the devices stand for the equipment, so the rates by equipment are not those of the site. Add equipment: FILE to the configuration (millrace report --template).',
    began: 'Counting began at', rule: (f) => 'Networked: data delivered in at least ' + f.hours * 100 + ' % of the planned time' + (f.completeness ? ' (an hour counts from ' + f.completeness * 100 + ' % of its readings on)' : '') + '. Planned: ' + f.calendar.en + '. Delivered: acknowledged by ' + (f.uplink || '–') + '.',
    stopped: 'The agent was stopped', killed: 'The agent ended without a word; the last minute before is not counted', failed: 'The figures cannot be had: ',
    online: 'online', degraded: 'degraded', offline: 'offline', disabled: 'disabled',
  },
  zh: {
    title: '设备联网率', back: '状态页', '24h': '最近 24 小时', '7d': '最近 7 天', '30d': '最近 30 天',
    figures: '指标', over: '联网率趋势', heat: '采集设备在线热力图', worst: '采集设备（按在线率从低到高）', outages: '离线时段（最近的在前）',
    equipment_digitalisation: '生产设备数字化率', equipment_networking: '生产设备联网率', digital_equipment_networking: '数字化生产设备联网率',
    key_equipment_networking: '关键设备联网率', key_process_collection: '关键工序数据采集率', availability: '设备在线率', read_rate: '实采率（实采/应采）', valid_rate: '有效率（有效/实采）', delivery_rate: '送达率（送达/应送）',
    machines: '台', processes: '道工序', seconds: '秒', readings: '个读数', points: '分', nothing: '无可统计对象',
    device: '采集设备', state: '状态', networked: '联网', availabilityShort: '在线率', expected: '应采', read: '实采', good: '有效', delivered: '送达', times: '离线次数',
    yes: '是', no: '否', from: '开始', to: '结束', length: '时长', reason: '原因', goeson: '持续中', none: '无离线记录。',
    gone: '未观测', counted: '统计截至', noledger: '未提供设备台账：以采集设备代替生产设备，按设备计算的比率不代表全厂。请在配置中增加 equipment: 文件（millrace report --template 可生成空白台账）。',
    began: '开始统计时间：', rule: (f) => '联网判定：数据送达时间不少于计划时间的 ' + f.hours * 100 + '%' + (f.completeness ? '（每小时送达不少于 ' + f.completeness * 100 + '% 才计入）' : '') + '。计划时间：' + f.calendar.zh + '。送达：由上行链路 ' + (f.uplink || '–') + ' 确认。',
    stopped: '网关程序已停止', killed: '网关程序异常终止，此前最后一分钟未计入', failed: '无法获取指标：',
    online: '在线', degraded: '降级', offline: '离线', disabled: '停用',
  },
};
const shade = { online: 'good', degraded: 'warn', offline: 'bad', disabled: 'off' };
let lang = localStorage.getItem('lang') || (navigator.language.startsWith('zh') ? 'zh' : 'en');
let period = '24h';
let figures = null;
const t = (key) => words[lang][key] || key;

const count = (n) => n.toLocaleString('en-GB').replaceAll(',', ' ');
// percent never shows as 100.00 % what is not all, nor as 0.00 % what is something.
const percent = (n, of) => {
  if (!of) return '–';
  let h = Math.round(n / of * 10000);
  if (n < of && h >= 10000) h = 9999;
  if (n > 0 && h === 0) return '< 0.01 %';
  return (h / 100).toFixed(2) + ' %';
};
const span = (ms) => {
  const s = Math.max(Math.round(ms / 1000), 0);
  const zh = lang === 'zh';
  if (s < 60) return s + (zh ? ' 秒' : ' s');
  if (s < 3600) return Math.floor(s / 60) + (zh ? ' 分' : ' min');
  if (s < 172800) return Math.floor(s / 3600) + (zh ? ' 小时 ' : ' h ') + Math.floor(s % 3600 / 60) + (zh ? ' 分' : ' min');
  return Math.floor(s / 86400) + (zh ? ' 天' : ' d');
};
// Times are those of the gateway's time zone, whoever looks from where.
const stamp = (ms, what) => {
  // Swedish is ISO 8601: 2026-03-02 18:00:00.
  const text = new Date(ms).toLocaleString('sv-SE', { timeZone: figures.timezone });
  if (what === 'day') return text.slice(5, 10);
  return what === 'hour' ? text.slice(11, 16) : text.slice(5, 16);
};
const stepText = (ms) => stamp(ms, figures.step_ms > 3600000 ? 'day' : 'hour');

function draw() {
  document.documentElement.lang = lang === 'zh' ? 'zh-CN' : 'en';
  document.title = 'Millrace · ' + t('title');
  byId('title').textContent = t('title');
  byId('back').textContent = t('back');
  for (const key of ['figures', 'over', 'heat', 'worst', 'outages']) byId(key + '-title').textContent = t(key);
  drawTabs();
  const f = figures;
  if (!f) return;
  const warnings = [];
  if (!f.ledger) warnings.push(t('noledger'));
  if (f.began) warnings.push(t('began') + ' ' + stamp(f.began));
  for (const p of f.pauses.slice(-3)) warnings.push(t(p.ended) + ': ' + stamp(p.from) + ' – ' + stamp(p.to));
  byId('warning').hidden = warnings.length === 0;
  byId('warning').textContent = warnings.join('\n');
  byId('warning').style.whiteSpace = 'pre-line';
  byId('counted').textContent = t('counted') + ' ' + stamp(f.until) + ' (' + f.timezone + ')';
  byId('rule').textContent = t('rule')(f);
  byId('figures').replaceChildren(...f.indicators.map((x) => {
    const card = el('div', 'card', el('span', 'dim', t(x.id)), el('strong', '', percent(x.numerator, x.denominator)));
    let text = x.denominator ? count(x.numerator) + ' / ' + count(x.denominator) + ' ' + t(x.unit) : t('nothing');
    if (x.points !== undefined) text += ' · ' + x.points + ' ' + t('points');
    card.append(el('span', 'dim', text));
    return card;
  }));
  drawOver(f);
  drawHeat(f);
  drawWorst(f);
  drawOutages(f);
}

function drawTabs() {
  const button = (text, pressed, click) => {
    const b = el('button', '', text);
    b.type = 'button';
    b.setAttribute('aria-pressed', pressed);
    b.addEventListener('click', click);
    return b;
  };
  byId('tabs').replaceChildren(
    ...['24h', '7d', '30d'].map((p) => button(t(p), p === period, () => { period = p; load(); })),
    el('span', 'spring'),
    ...[['en', 'English'], ['zh', '中文']].map(([code, name]) => button(name, code === lang, () => { lang = code; localStorage.setItem('lang', code); draw(); })));
}

const width = 720;

function axis(f, left, y) {
  const n = f.series.length;
  const every = Math.max(Math.ceil(n / 12), 1);
  const texts = [];
  for (let i = 0; i < n; i += every) {
    texts.push(svg('text', { x: left + (width - left) * (i + 0.5) / n, y, 'text-anchor': 'middle' }, stepText(f.series[i].from)));
  }
  return texts;
}

function drawOver(f) {
  const left = 34, base = 130;
  const picture = svg('svg', { viewBox: '0 0 ' + width + ' 150', role: 'img', 'aria-label': t('over') });
  for (const p of [0, 50, 100]) {
    const y = base - p * 1.2;
    picture.append(svg('line', { x1: left, x2: width, y1: y, y2: y, class: 'grid' }), svg('text', { x: left - 4, y: y + 3, 'text-anchor': 'end' }, p + ' %'));
  }
  const w = (width - left) / Math.max(f.series.length, 1);
  f.series.forEach((p, i) => {
    const h = p.planned ? (p.machines ? 120 * p.networked / p.machines : 0) : 120;
    const bar = svg('rect', { x: left + w * i, y: base - h, width: Math.max(w - 1, 0.5), height: h, class: p.planned ? 'bar' : 'hx' });
    bar.append(svg('title', {}, stamp(p.from) + ': ' + p.networked + ' / ' + p.machines));
    picture.append(bar);
  });
  picture.append(...axis(f, left, 146));
  byId('over').replaceChildren(picture);
}

function drawHeat(f) {
  const left = 120, row = 13, n = f.series.length;
  const height = f.devices.length * row + 16;
  const picture = svg('svg', { viewBox: '0 0 ' + width + ' ' + height, role: 'img', 'aria-label': t('heat') });
  const w = (width - left) / Math.max(n, 1);
  f.devices.forEach((d, i) => {
    const name = d.id.length > 22 ? d.id.slice(0, 21) + '…' : d.id;
    picture.append(svg('text', { x: left - 4, y: i * row + 9, 'text-anchor': 'end' }, name));
    for (let a = 0; a < d.heat.length;) { // equal neighbours are one rectangle
      let b = a + 1;
      while (b < d.heat.length && d.heat[b] === d.heat[a]) b++;
      const cell = svg('rect', { x: left + w * a, y: i * row + 0.5, width: w * (b - a), height: row - 1.5, class: 'h' + (d.heat[a] === '-' ? 'x' : d.heat[a]) });
      cell.append(svg('title', {}, d.id + ' ' + stamp(f.series[a].from)));
      picture.append(cell);
      a = b;
    }
  });
  picture.append(...axis(f, left, height - 3));
  byId('heat').replaceChildren(picture);
  byId('legend').replaceChildren(...[['5', '≥ 99.9 %'], ['4', '≥ 95 %'], ['3', '≥ 75 %'], ['2', '> 25 %'], ['1', '> 0 %'], ['0', '0 %'], ['x', t('gone')]].map(([c, text]) => {
    const box = el('span', 'chart-key');
    const s = svg('svg', { viewBox: '0 0 10 10' }, svg('rect', { width: 10, height: 10, class: 'h' + c }));
    box.append(s, text);
    return box;
  }));
}

function fill(id, head, rows) {
  const table = byId(id);
  if (rows.length === 0) {
    table.replaceChildren(el('tbody', '', el('tr', '', el('td', 'dim', t('none')))));
    return;
  }
  table.replaceChildren(el('thead', '', el('tr', '', ...head.map(([key, c]) => el('th', c || '', t(key))))), el('tbody', '', ...rows));
}

function drawWorst(f) {
  fill('worst', [['device'], ['state'], ['networked'], ['availabilityShort', 'num'], ['expected', 'num wide'], ['read', 'num'], ['good', 'num'], ['delivered', 'num'], ['times', 'num']],
    f.devices.slice(0, 50).map((d) => el('tr', '', el('td', '', d.id), el('td', 'unit ' + (shade[d.state] || ''), d.state ? t(d.state) : '–'), el('td', d.networked ? 'good' : 'bad', t(d.networked ? 'yes' : 'no')),
      el('td', 'num', percent(d.answering_s, d.planned_s)), el('td', 'num wide', count(d.expected)), el('td', 'num', percent(d.read, d.expected)), el('td', 'num', percent(d.good, d.read)),
      el('td', 'num', percent(d.delivered, d.due)), el('td', 'num', count(d.outages)))));
}

function drawOutages(f) {
  fill('outages', [['device'], ['from'], ['to'], ['length', 'num'], ['reason']],
    f.outages.map((o) => el('tr', '', el('td', '', o.device), el('td', 'unit', stamp(o.from)), el('td', 'unit', o.to ? stamp(o.to) : t('goeson')),
      el('td', 'num', span((o.to || f.until) - o.from)), el('td', 'dim', o.reason))));
}

async function load() {
  drawTabs();
  const asked = period;
  try {
    const answer = await fetch('api/connectivity?period=' + asked);
    const body = answer.ok ? await answer.json() : await answer.text();
    if (asked !== period) return;
    if (!answer.ok) throw new Error(body);
    figures = body;
    draw();
  } catch (e) {
    byId('warning').hidden = false;
    byId('warning').textContent = t('failed') + e.message;
  }
}

draw();
load();
setInterval(load, 30000);
