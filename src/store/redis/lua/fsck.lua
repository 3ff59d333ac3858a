-- Compares records with the places they are in, for the ids given; with none, the places as a whole.
-- ARGV from 4: ids. Reads only. Answers what does not fit, one line each.
local found = {}
local function say(...) found[#found + 1] = table.concat({ ... }, ' ') end
local ENDED = { succeeded = 'done', failed = 'done', canceled = 'done', rejected = 'done', dead = 'dead' }

local function places(id, park)
  local at = {}
  for _, name in ipairs({ 'pending', 'run', 'later', 'waiting', 'done', 'dead' }) do
    if call('ZSCORE', T .. name, id) then at[#at + 1] = name end
  end
  if park and call('ZSCORE', T .. 'park:' .. park, id) then at[#at + 1] = 'park' end
  return at
end

for i = 4, #ARGV do
  local id = ARGV[i]
  local h = call('HMGET', JOB(id), 'state', 'park', 'worker', 'fence')
  local at = table.concat(places(id, h[2]), '+')
  local fits = ENDED[h[1]] == at or h[1] == 'running' and at == 'run' or h[1] == 'waiting' and at == 'waiting'
    or h[1] == 'deferred' and at == 'later' or h[1] == 'queued' and (at == 'pending' or at == 'later' or at == 'park')
  if not h[1] then say('job', id, 'has no record but is in', at == '' and 'no place' or at)
  elseif not fits then say('job', id, 'is', h[1], 'but in', at == '' and 'no place' or at) end
  if h[1] and call('EXISTS', T .. 'spec:' .. id) == 0 then say('job', id, 'has no spec') end
  if h[1] == 'running' and call('SISMEMBER', HELD(h[3] or ''), id) == 0 then say('job', id, 'runs but its worker does not hold it') end
  local ttl = call('PTTL', JOB(id))
  if h[1] and not ENDED[h[1]] and ttl >= 0 then say('job', id, 'is', h[1], 'but expires') end
  if ENDED[h[1]] and ttl < 0 then say('job', id, 'is', h[1], 'but never expires') end
end

if #ARGV == 3 then
  local tickets = 0
  for _, ticket in ipairs(call('LRANGE', Q, 0, -1)) do if ticket == '.' then tickets = tickets + 1 end end
  if tickets ~= call('ZCARD', PENDING) then say('the queue has', tickets, 'tickets for', call('ZCARD', PENDING), 'pending jobs') end
  local held, top = 0, 0
  for _, wid in ipairs(call('ZRANGE', T .. 'workers', 0, -1)) do
    for _, id in ipairs(call('SMEMBERS', HELD(wid))) do
      held = held + 1
      if not call('ZSCORE', RUN, id) then say('worker', wid, 'holds', id, 'which does not run') end
    end
    local w = call('HMGET', WORKER(wid), 'ordinal', 'draining')
    if w[1] and not w[2] and call('SCARD', HELD(wid)) > 0 then top = math.max(top, tonumber(w[1]) + 1) end
  end
  if held ~= call('ZCARD', RUN) then say(call('ZCARD', RUN), 'jobs run but workers hold', held) end
  if top ~= call('LLEN', T .. 'floor') then say('the busy floor is', call('LLEN', T .. 'floor'), 'but should be', top) end
  for _, cap in ipairs(call('HKEYS', PARKS)) do
    if call('ZCARD', T .. 'park:' .. cap) == 0 then say('cap', cap, 'is listed as parked but nothing is') end
  end
  for _, id in ipairs(call('ZRANGE', RUN, 0, -1)) do
    local h = call('HMGET', JOB(id), 'key', 'limit')
    if h[1] and call('SISMEMBER', T .. 'ckey:k:' .. h[1], id) == 0 then say('job', id, 'runs uncounted under its key') end
  end
end
return found
