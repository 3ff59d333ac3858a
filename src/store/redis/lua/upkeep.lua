-- Behind the prelude of scripts that workers call: what any worker does for all of them.

-- Forgets ended jobs whose life is over, or that are too many; `most` of each kind. Answers how many.
local function trim(most)
  local dead_ttl, history = ARGV[3]:match('(%d+) (%d+)')
  local count = 0
  for name, ttl in pairs({ done = JOB_TTL, dead = dead_ttl }) do
    for _, id in ipairs(call('ZRANGEBYSCORE', T .. name, '-inf', now - tonumber(ttl), 'LIMIT', 0, most)) do
      forget_job(id)
      count = count + 1
    end
    local extra = call('ZCARD', T .. name) - tonumber(history)
    for _, id in ipairs(extra > 0 and call('ZRANGE', T .. name, 0, math.min(extra, most) - 1) or {}) do
      forget_job(id)
      count = count + 1
    end
  end
  return count
end

-- A worker vanished with this job (or left it behind): back to the head, uncharged; poison after the
-- fourth time. `counts` = whether it counts as lost.
local function take_back(id, counts, fault, message)
  local h = call('HMGET', JOB(id), 'worker', 'key', 'profile', 'priority', 'seq', 'cancel', 'attempt', 'idem', 'state')
  if h[9] == 'running' then
    local lost = counts and call('HINCRBY', JOB(id), 'lost', 1) or 0
    if h[6] then retire(id, 'canceled', 'canceled', h[1], h[7], message, h[8])
    elseif lost > 3 then retire(id, 'dead', fault, h[1], h[7], 'its worker vanished ' .. lost .. ' times', h[8])
    else
      enqueue(id, h[4], h[5], HEAD)
      call('HSET', JOB(id), 'state', 'queued', 'fault', fault)
      tell(id, 'queued', fault, h[1], h[7], message, true)
    end
  end
  call('ZREM', RUN, id)
  leave_caps(id, h[2], h[3])
  if h[1] then call('SREM', HELD(h[1]), id); occupy(h[1]) end
end

local function forget_worker(wid)
  for _, id in ipairs(call('SMEMBERS', HELD(wid))) do take_back(id, true, 'lost', 'worker ' .. wid .. ' is gone') end
  call('ZREM', T .. 'workers', wid)
  call('DEL', WORKER(wid), HELD(wid), T .. 'poke:' .. wid)
  occupy(wid)
end

-- Moves what is due to the queue, in the order in which it became due.
local function promote()
  for _, id in ipairs(call('ZRANGEBYSCORE', LATER, '-inf', now, 'LIMIT', 0, 64)) do
    local h = call('HMGET', JOB(id), 'priority', 'seq', 'head', 'state')
    if h[4] == 'queued' or h[4] == 'deferred' then
      enqueue(id, h[1], h[2], h[3] and HEAD or NORMAL)
      call('HSET', JOB(id), 'state', 'queued')
      call('HDEL', JOB(id), 'due', 'head')
      if h[4] == 'deferred' then tell(id, 'queued', '', '', '', 'due again', true) end
    end
    call('ZREM', LATER, id)
  end
end

-- What any worker does for all of them, a bounded piece at a time; there is no leader.
local function upkeep(tick, grace)
  tick, grace = tonumber(tick or '') or now, number(grace)
  if now - tick > LEASE / 2 then       -- nobody reached the store: no lease runs out because of that (P9)
    grace = now + LEASE
    call('HSET', META, 'grace', grace)
  end
  call('HSET', META, 'tick', now)
  promote()
  if now >= grace then
    for _, id in ipairs(call('ZRANGEBYSCORE', RUN, '-inf', now, 'LIMIT', 0, 16)) do
      total('reaped')
      take_back(id, true, 'lost', 'the lease ran out')
    end
  end
  for _, wid in ipairs(call('ZRANGEBYSCORE', T .. 'workers', '-inf', now - math.max(600000, 4 * LEASE), 'LIMIT', 0, 4)) do
    if call('SCARD', HELD(wid)) == 0 then forget_worker(wid) end
  end
  for _, cap in ipairs(call('HRANDFIELD', PARKS, 4)) do offer(cap) end
  -- Somebody emptied the list by hand: the jobs are still there, and get their tickets again.
  for _ = call('LLEN', Q) + 1, math.min(call('ZCARD', PENDING), call('LLEN', Q) + 1000) do call('RPUSH', Q, '.') end
  trim(32)
end
