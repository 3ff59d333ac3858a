-- Opens what anyone pushed: names and kinds of all fields are checked here, so that a wrong push is told
-- with the field's name and never reaches a worker. Rust parses the same bytes again, with types.
-- This list is compared with core/spec.rs by a test. s string, a strings, m names to strings, i integer. Tables
-- are made when a raw ticket is opened: most calls see none.
local function kinds()
  local FIELDS = {
    id = 's', prompt = 's', task = 's', command = 'a', repo = 's', repo_url = 's', ref = 's', base_ref = 's',
    profile = 's', agent = 's', model = 's', env = 'm', priority = 'i', delay_ms = 'i', timeout_s = 'i',
    timeout = 'i', max_attempts = 'i', concurrency_key = 's', concurrency_limit = 'i', idempotency_key = 's',
    labels = 'm', publish = 's',
  }
  local RANGES = {
    priority = { -10, 10 }, delay_ms = { 0, 31622400000 }, timeout_s = { 1, 2678400 }, timeout = { 1, 2678400 },
    max_attempts = { 1, 100 }, concurrency_limit = { 1, 10000 },
  }
  return FIELDS, RANGES
end
local KEYS_MAX, SPEC_MAX, MAP_MAX = 200, 4194304, 256

-- Whether bytes are UTF-8, by what may follow each first byte. What is none would stop every reader of records.
local function is_text(raw)
  if not raw:find('[\128-\255]') then return true end
  for _, letter in ipairs({
    '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
    '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
    '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]',
  }) do raw = raw:gsub(letter, '.') end
  return not raw:find('[\128-\255]')
end

local function wrong(name, value, FIELDS, RANGES)
  local kind = FIELDS[name]
  if not kind then return 'unknown field `' .. tostring(name):sub(1, 100) .. '`' end
  if value == cjson.null then
    if kind == 's' or kind == 'i' and name ~= 'priority' then return nil end
    return '`' .. name .. '` must not be null'
  end
  if kind == 's' then
    if type(value) ~= 'string' then return '`' .. name .. '` must be a string' end
  elseif kind == 'i' then
    if type(value) ~= 'number' or value ~= math.floor(value) then return '`' .. name .. '` must be a whole number' end
    local range = RANGES[name]
    if value < range[1] or value > range[2] then
      return '`' .. name .. '` must be ' .. range[1] .. ' to ' .. range[2]
    end
  else
    if type(value) ~= 'table' then return '`' .. name .. '` must be ' .. (kind == 'a' and 'a list' or 'an object') end
    local entries = 0
    for k, v in pairs(value) do
      entries = entries + 1
      if type(v) ~= 'string' or type(k) ~= (kind == 'a' and 'number' or 'string') then
        return '`' .. name .. '` must be ' .. (kind == 'a' and 'a list of strings' or 'an object of strings')
      end
      if name == 'env' and not k:match('^[%a_][%w_]*$') then return '`env` has a name that no process can have' end
      if name ~= 'labels' and v:find('%z') then return '`' .. name .. '` must not contain NUL bytes' end
    end
    if kind == 'm' and entries > MAP_MAX then return '`' .. name .. '` has more than 256 entries' end
    if kind == 'a' and value[1] == '' then return '`command` starts with an empty program name' end
  end
end

-- A field under its name and under an older one: neither is the right one.
local function is_twice(o)
  for alias, name in pairs({ task = 'prompt', repo_url = 'repo', base_ref = 'ref', timeout = 'timeout_s' }) do
    if o[alias] ~= nil and o[name] ~= nil then return '`' .. alias .. '` and `' .. name .. '` are the same field' end
  end
end

local function problem(raw, o)
  if not is_text(raw) then return 'not JSON: the bytes are no UTF-8' end
  local twice = type(o) == 'table' and is_twice(o)
  if twice then return twice end
  if type(o) ~= 'table' or raw:match('^%s*(.)') ~= '{' then return 'a job is a JSON object' end
  local FIELDS, RANGES = kinds()
  for name, value in pairs(o) do
    local why = wrong(name, value, FIELDS, RANGES)
    if why then return why end
    if value == cjson.null then o[name] = nil end
  end
  local id = o.id
  if id and (#id > 64 or not id:match('^%w[%w._-]*$') or id:find('..', 1, true)
    or id:match('%.$') or id:match('%.lock$')) then return '`id` is not usable as a name' end
  for _, name in ipairs({ 'concurrency_key', 'idempotency_key' }) do
    if o[name] and (#o[name] == 0 or #o[name] > KEYS_MAX) then return '`' .. name .. '` must be 1 to 200 bytes' end
  end
  if o.publish and o.publish ~= 'none' and o.publish ~= 'branch' then return '`publish` must be none or branch' end
  if o.concurrency_limit and not o.concurrency_key then return '`concurrency_limit` needs a `concurrency_key`' end
  local prompt = o.prompt or o.task
  if not (o.command and o.command[1]) and not (prompt and prompt:find('%S')) then
    return 'a job needs a `command`, or a `prompt` for its profile\'s agent'
  end
end

local function reject(raw, why)
  local n = call('HINCRBY', META, 'n:bad', 1)
  call('RPUSH', T .. 'bad', n .. ' ' .. now .. ' ' .. why:gsub('%c', ' ') .. '\n' .. raw)
  call('LTRIM', T .. 'bad', -1000, -1)
end

-- Writes the record of a new job; answers the id that stands for it, and whether it is new.
local function create(id, bytes, priority, delay, key, limit, profile, idem, region)
  if call('EXISTS', JOB(id)) == 1 then total('duplicate'); return id, false end
  if idem then
    local known = call('GET', T .. 'idem:' .. idem)
    if known then total('duplicate'); return known, false end
  end
  local seq = call('HINCRBY', META, 'seq', 1)
  call('SET', T .. 'spec:' .. id, bytes)
  local fields = { 'state', 'queued', 'created', now, 'seq', seq }
  local function field(name, value) if value then fields[#fields + 1] = name; fields[#fields + 1] = value end end
  field('priority', priority ~= 0 and priority)
  field('key', key)
  field('limit', key and (limit or 1))
  field('profile', profile)
  field('idem', idem)
  field('due', delay > 0 and now + delay)
  call('HSET', JOB(id), unpack(fields))
  if idem then call('SET', T .. 'idem:' .. idem, id) end
  if delay > 0 then call('ZADD', LATER, now + delay, id)
  elseif region then call('ZADD', PENDING, score(priority, seq, region), id)   -- the caller has the ticket
  else enqueue(id, priority, seq, NORMAL) end
  return id, true
end

-- Turns the raw ticket at the head of the queue into a job. The ticket stays, as `.`, if the job is runnable.
local function adopt(raw)
  local fits, ok, o = #raw <= SPEC_MAX, false, ''
  if fits then ok, o = pcall(cjson.decode, raw) end
  local why = not fits and 'larger than 4 MiB' or not ok and 'not JSON: ' .. tostring(o):gsub('^.*: ', '')
    or problem(raw, o)
  if why then
    reject(raw, why)
    call('LPOP', Q)
    return
  end
  local id = o.id
  if not id then
    local digest = redis.sha1hex(string.format('%.0f %.0f ', us, number(call('HGET', META, 'seq'))) .. raw)
    id = table.concat({ digest:sub(1, 8), digest:sub(9, 12), '8' .. digest:sub(14, 16), 'a' .. digest:sub(18, 20),
      digest:sub(21, 32) }, '-')                                      -- UUID version 8 (RFC 9562)
  end
  local delay = o.delay_ms or 0
  local profile = o.profile or (o.command and o.command[1] and 'command') or nil
  local _, new = create(id, raw, o.priority or 0, delay, o.concurrency_key, o.concurrency_limit, profile,
    o.idempotency_key, RAW)
  if new then
    total('adopted')
    tell(id, 'queued', '', '', '', 'pushed')
  end
  if new and delay == 0 then call('LSET', Q, 0, '.') else call('LPOP', Q) end
end
