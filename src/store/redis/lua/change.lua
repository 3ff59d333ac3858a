-- One job, changed by a person. ARGV from 4: id, verb (cancel, retry, delete), by, fresh.
-- Answers the state it has then, or a problem behind '!'.
local id, verb, by = ARGV[4], ARGV[5], ARGV[6]
local h = call('HMGET', JOB(id), 'state', 'worker', 'key', 'profile', 'priority', 'attempt', 'idem', 'park', 'cancel')
local state = h[1]
local over = state == 'succeeded' or state == 'failed' or state == 'canceled' or state == 'dead' or state == 'rejected'

if not state and verb == 'cancel' then       -- perhaps pushed under this id, and not opened yet
  for i, raw in ipairs(call('LRANGE', Q, 0, 999)) do
    if raw ~= '.' and raw:find(id, 1, true) then
      local ok, o = pcall(cjson.decode, raw)
      if ok and type(o) == 'table' and o.id == id and not problem(raw, o) then
        local _, new = create(id, raw, o.priority or 0, 1, o.concurrency_key, o.concurrency_limit, o.profile, o.idempotency_key)
        if new then
          total('adopted')
          call('HSET', JOB(id), 'cancel', by)
          retire(id, 'canceled', 'canceled', '', '', 'canceled by ' .. by, o.idempotency_key)
          call('ZREM', LATER, id)
        end
        call('LSET', Q, i - 1, '\0removed')
        call('LREM', Q, 1, '\0removed')
        return 'canceled'
      end
    end
  end
end
if not state then return '!unknown' end

local function leave_places()                -- a queued, deferred or waiting job: out of wherever it is
  local runnable = call('ZREM', PENDING, id) == 1
  if runnable then                           -- any ticket will do; one at an end is found at once
    if call('LINDEX', Q, -1) == '.' then call('RPOP', Q) else call('LREM', Q, 1, '.') end
  end
  call('ZREM', LATER, id)
  call('ZREM', WAITING, id)
  if h[8] then
    call('ZREM', T .. 'park:' .. h[8], id)
    if call('EXISTS', T .. 'park:' .. h[8]) == 0 then call('HDEL', PARKS, h[8]) end
    call('HDEL', JOB(id), 'park')
  end
  if runnable and h[3] then offer('k:' .. h[3]) end          -- places that it was about to take
  if runnable and h[4] then offer('p:' .. h[4]) end
end

if verb == 'cancel' then
  if over then return state end
  call('HSET', JOB(id), 'cancel', by)
  if state == 'running' then
    if not h[9] then
      tell(id, 'running', '', h[2], h[6], 'cancel requested by ' .. by, true)
      call('RPUSH', T .. 'poke:' .. h[2], 'cancel')
      call('LTRIM', T .. 'poke:' .. h[2], 0, 0)
    end
    return 'running'
  end
  retire(id, 'canceled', 'canceled', h[2], h[6], 'canceled by ' .. by, h[7])
  leave_places()
  return 'canceled'
end

if verb == 'retry' then
  if not over then return state == 'queued' and 'queued' or '!not ended' end
  if call('EXISTS', T .. 'spec:' .. id) == 0 then return '!unknown' end
  for _, key in ipairs({ JOB(id), T .. 'spec:' .. id, T .. 'log:' .. id, T .. 'result:' .. id }) do call('PERSIST', key) end
  if h[7] then call('SET', T .. 'idem:' .. h[7], id) end
  local seq = call('HINCRBY', META, 'seq', 1)
  enqueue(id, h[5], seq, NORMAL)
  call('HSET', JOB(id), 'state', 'queued', 'seq', seq)
  call('HDEL', JOB(id), 'charged', 'lost', 'overloaded', 'infrastructure', 'fault', 'finished', 'cancel', 'due', 'park', 'head')
  if ARGV[7] == '1' then call('HSET', JOB(id), 'fresh', 1) else call('HDEL', JOB(id), 'fresh') end
  call('ZREM', T .. 'done', id)
  call('ZREM', T .. 'dead', id)
  total('retried')
  tell(id, 'queued', '', '', h[6], 'retried by ' .. by, true)
  return 'queued'
end

if not over then return '!not ended' end
forget_job(id)
tell(id, state, '', '', '', 'deleted by ' .. by)
return state
