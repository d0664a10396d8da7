-- Takes the data of Millrace gateways (format json) into PostgreSQL 13 or newer.
--
--   psql -d plant -f postgres.sql
--
-- Whatever brings the messages from the broker calls, for each of them,
--
--   select millrace.ingest('millrace/plant-2/gw-1/press-1/data', '{"v":1,...}');
--
-- It may be called again with the same message, in any order, by several
-- connections at once. It says what it did: new, repeat, old, or ignored.

create schema if not exists millrace;

-- A batch is known by gateway, stream and seq: that is what repeats are dropped
-- by. seq has 64 bits without a sign, which is more than bigint holds.
create table if not exists millrace.batch (
  gateway     text           not null,
  stream      text           not null,
  seq         numeric(20, 0) not null,
  grp         text           not null,  -- gateway.group, from the topic
  device      text           not null,
  ts          timestamptz    not null,  -- when the device's answer arrived
  historical  boolean        not null,
  clock_unset boolean        not null,  -- ts is not to be trusted
  received    timestamptz    not null default now(),
  primary key (gateway, stream, seq)
);
create index if not exists batch_device_ts on millrace.batch (gateway, device, ts);

-- One row for each reading. at is the device's own time where it gave one.
create table if not exists millrace.reading (
  gateway text           not null,
  device  text           not null,
  tag     text           not null,
  at      timestamptz    not null,
  quality text           not null check (quality in ('good', 'uncertain', 'bad')),
  reason  text,                          -- of uncertain and bad: a stable code
  value   jsonb,                         -- as it came; null: bad
  number  numeric,                       -- of a number, with all its digits
  stream  text           not null,
  seq     numeric(20, 0) not null,
  primary key (gateway, stream, seq, tag)
);
create index if not exists reading_tag_at on millrace.reading (gateway, device, tag, at);

-- Batches that will never come.
create table if not exists millrace.gap (
  gateway  text           not null,
  stream   text           not null,
  from_seq numeric(20, 0) not null,
  to_seq   numeric(20, 0) not null,
  readings numeric        not null,
  reason   text           not null,
  oldest   timestamptz,
  newest   timestamptz,
  received timestamptz    not null default now(),
  primary key (gateway, stream, from_seq, to_seq)
);

create table if not exists millrace.device_state (
  gateway text        not null,
  device  text        not null,
  state   text        not null,
  since   timestamptz not null,
  reason  text        not null,
  primary key (gateway, device, since, state)
);

create table if not exists millrace.gateway_status (
  gateway  text        primary key,
  online   boolean     not null,
  reason   text,
  version  text,
  received timestamptz not null default now()
);

-- Milliseconds since 1970, with decimals, as a time; 0 and nothing: null.
create or replace function millrace.at_ms(ms numeric) returns timestamptz
  language sql immutable as $$ select case when ms <> 0 then to_timestamp(ms / 1000) end $$;

create or replace function millrace.ingest(topic text, payload text) returns text
  language plpgsql as $$
declare
  levels text[] := string_to_array(topic, '/');
  n      int    := array_length(levels, 1);
  kind   text   := levels[n];
  m      jsonb;
  rows   bigint;
begin
  if coalesce(payload, '') = '' then
    if kind = 'state' then  -- the device was taken out of the configuration
      delete from millrace.device_state where gateway = levels[n - 2] and device = levels[n - 1];
    end if;
    return 'ignored';
  end if;
  m := payload::jsonb;
  if (m ->> 'v') is distinct from '1' then
    return 'ignored';
  end if;

  case kind
  when 'data' then
    insert into millrace.batch (gateway, stream, seq, grp, device, ts, historical, clock_unset)
    values (m ->> 'gateway', m ->> 'stream', (m ->> 'seq')::numeric, levels[n - 3], m ->> 'device', millrace.at_ms((m ->> 'ts')::numeric),
            coalesce((m ->> 'historical')::boolean, false), m ? 'clock')
    on conflict do nothing;
    get diagnostics rows = row_count;
    if rows = 0 then
      return 'repeat';
    end if;
    insert into millrace.reading (gateway, device, tag, at, quality, reason, value, number, stream, seq)
    select m ->> 'gateway', m ->> 'device', r.tag, millrace.at_ms(coalesce((m -> 'source_ts' ->> r.tag)::numeric, (m ->> 'ts')::numeric)),
           r.quality, r.reason, r.value, case when jsonb_typeof(r.value) = 'number' then r.value::numeric end, m ->> 'stream', (m ->> 'seq')::numeric
    from (
      select v.key as tag, case when m -> 'uncertain' ? v.key then 'uncertain' else 'good' end as quality, m -> 'uncertain' ->> v.key as reason, v.value
      from jsonb_each(m -> 'values') v
      union all
      select b.key, 'bad', b.value, null
      from jsonb_each_text(coalesce(m -> 'bad', '{}')) b
    ) r;
    return 'new';

  when 'gap' then
    insert into millrace.gap (gateway, stream, from_seq, to_seq, readings, reason, oldest, newest)
    values (m ->> 'gateway', m ->> 'stream', (m -> 'gap' ->> 'from')::numeric, (m -> 'gap' ->> 'to')::numeric, (m -> 'gap' ->> 'readings')::numeric,
            m -> 'gap' ->> 'reason', millrace.at_ms((m -> 'gap' ->> 'oldest')::numeric), millrace.at_ms((m -> 'gap' ->> 'newest')::numeric))
    on conflict do nothing;

  when 'state' then
    insert into millrace.device_state (gateway, device, state, since, reason)
    values (m ->> 'gateway', m ->> 'device', m ->> 'state', millrace.at_ms((m ->> 'since')::numeric), m ->> 'reason')
    on conflict (gateway, device, since, state) do update set reason = excluded.reason
    where millrace.device_state.reason is distinct from excluded.reason;

  when 'status' then
    insert into millrace.gateway_status (gateway, online, reason, version)
    values (m ->> 'gateway', (m ->> 'online')::boolean, m ->> 'reason', m ->> 'version')
    on conflict (gateway) do update
    set online = excluded.online, reason = excluded.reason, version = coalesce(excluded.version, millrace.gateway_status.version), received = now();
    return 'new';

  else
    return 'ignored';
  end case;
  get diagnostics rows = row_count;
  return case when rows = 0 then 'repeat' else 'new' end;
end $$;

-- What has not come and was not announced: it is still on its way, or the
-- uplink has a filter (devices, tags), or it is a fault.
create or replace view millrace.hole as
with covered as (
  select gateway, stream, seq as a, seq as b from millrace.batch
  union all
  select gateway, stream, from_seq, to_seq from millrace.gap
), ordered as (
  select *, coalesce(max(b) over (partition by gateway, stream order by a, b rows between unbounded preceding and 1 preceding), 0) as before
  from covered
)
select gateway, stream, before + 1 as from_seq, a - 1 as to_seq from ordered where a > before + 1;

-- The newest reading of each tag. Late and historical data does not push newer
-- values aside.
create or replace view millrace.latest as
select distinct on (gateway, device, tag) gateway, device, tag, at, quality, reason, value, number
from millrace.reading order by gateway, device, tag, at desc, seq desc;

-- The state of each device; while its gateway is offline, nobody knows.
create or replace view millrace.device as
select distinct on (d.gateway, d.device) d.gateway, d.device, case when s.online then d.state else 'unknown' end as state, d.since, d.reason
from millrace.device_state d left join millrace.gateway_status s using (gateway)
order by d.gateway, d.device, d.since desc;
