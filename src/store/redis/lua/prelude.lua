-- Prepended to every script. KEYS[1] = the queue, KEYS[2] = its meta hash; all other keys share their hash
-- slot because their tag is the queue's whole name (PROTOCOL.md P12). Key names: ../keys.rs.
-- ARGV[1..3] = lease, life of an ended job, and `<life of a dead job> <most ended jobs>`; times in ms.
-- A script that fails half-way is not rolled back, so: write the new place before leaving the old one.
local unpack = unpack or table.unpack
local call = redis.call
local Q, META = KEYS[1], KEYS[2]
local T = '{' .. Q .. '}:'
local LEASE, JOB_TTL = tonumber(ARGV[1]), ARGV[2]
local PENDING, RUN, LATER, WAITING = T .. 'pending', T .. 'run', T .. 'later', T .. 'waiting'
local clock = call('TIME')
local us = clock[1] * 1000000 + clock[2]
local now = math.floor(us / 1000)

local function JOB(id) return T .. 'job:' .. id end
local function WORKER(wid) return T .. 'worker:' .. wid end
local function HELD(wid) return T .. 'held:' .. wid end
local function number(text) return tonumber(text or '') or 0 end
local function total(name, by) call('HINCRBY', META, 'n:' .. name, by or 1) end

-- Every transition is an event of the fleet, and from the first attempt on an entry of the job's log.
local function tell(id, state, fault, worker, attempt, message, in_log)
  fault, worker, attempt, message = fault or '', worker or '', attempt or '', message or ''
  if fault == '' and message == '' then        -- most of them
    call('XADD', T .. 'events', 'MAXLEN', '~', '10000', '*', 'id', id, 's', state, 'w', worker, 'a', attempt)
    if in_log then call('XADD', T .. 'log:' .. id, '*', 's', state, 'w', worker, 'a', attempt) end
    return
  end
  call('XADD', T .. 'events', 'MAXLEN', '~', '10000', '*',
    'id', id, 's', state, 'f', fault, 'w', worker, 'a', attempt, 'm', message)
  if in_log then
    call('XADD', T .. 'log:' .. id, '*', 's', state, 'f', fault, 'w', worker, 'a', attempt, 'm', message)
  end
end

-- Scores of `pending`: 2^48 apart per priority, inside it by sequence; raw pushes taken from the head go
-- before (2^46), jobs that were handed back before those (2^47). All below 2^53: exact in a double.
local NORMAL, RAW, HEAD = 0, -70368744177664, -140737488355328
local function score(priority, seq, region)
  return -number(priority) * 281474976710656 + region + number(seq)
end

-- One runnable job more: its entry in `pending` and one ticket in the queue, always together (P1).
local function enqueue(id, priority, seq, region)
  call('ZADD', PENDING, score(priority, seq, region), id)
  call(region == HEAD and 'LPUSH' or 'RPUSH', Q, '.')
end

-- Caps: `k:<concurrency key>` with the job's own limit, `p:<profile>` with the fleet's. The set of running
-- ids is the count, so a crashed holder cannot leave it wrong for longer than its lease.
local function unpark(cap)
  local park = T .. 'park:' .. cap
  local best = call('ZRANGE', park, 0, 0, 'WITHSCORES')
  if best[1] then
    call('ZADD', PENDING, best[2], best[1])
    call('LPUSH', Q, '.')
    call('ZREM', park, best[1])
    call('HDEL', JOB(best[1]), 'park')
  end
  if call('ZCARD', park) == 0 then call('SREM', T .. 'parks', cap) end
end
local function leave_cap(cap, id)
  if call('SREM', T .. 'ckey:' .. cap, id) == 1 then unpark(cap) end
end
local function leave_caps(id, key, profile)
  if key then leave_cap('k:' .. key, id) end
  if profile and call('EXISTS', T .. 'ckey:p:' .. profile) == 1 then leave_cap('p:' .. profile, id) end
end

-- What KEDA and packing read of a worker with an ordinal: `busy` and the unary `floor` (highest busy, not
-- draining ordinal + 1), and `free` (workers that have room).
local function occupy(wid)
  local w = call('HMGET', WORKER(wid), 'ordinal', 'slots', 'draining', 'quarantine')
  local ordinal, held = tonumber(w[1] or ''), call('SCARD', HELD(wid))
  if ordinal and held > 0 and not w[3] then call('ZADD', T .. 'busy', ordinal, wid)
  else call('ZREM', T .. 'busy', wid) end
  if ordinal and held < number(w[2]) and not w[3] and not w[4] then call('ZADD', T .. 'free', ordinal, wid)
  else call('ZREM', T .. 'free', wid) end
  local top = call('ZREVRANGE', T .. 'busy', 0, 0, 'WITHSCORES')
  local want, have = top[2] and tonumber(top[2]) + 1 or 0, call('LLEN', T .. 'floor')
  for _ = have + 1, want do call('RPUSH', T .. 'floor', 'x') end
  if want == 0 then call('DEL', T .. 'floor')
  elseif have > want then call('LTRIM', T .. 'floor', 0, want - 1) end
end

-- The job has ended. Only now may its keys expire (P11). `ended` = the fence of the attempt that ended it.
local function retire(id, state, fault, worker, attempt, message, idem, ended)
  local dead = state == 'dead'
  local ttl = dead and ARGV[3]:match('%d+') or JOB_TTL
  call('ZADD', T .. (dead and 'dead' or 'done'), now, id)
  call('HSET', JOB(id), 'state', state, 'finished', now, 'fault', fault or '', 'ended', ended or '')
  total(state)
  tell(id, state, fault, worker, attempt, message, true)
  call('PEXPIRE', JOB(id), ttl)
  call('PEXPIRE', T .. 'spec:' .. id, ttl)
  call('PEXPIRE', T .. 'log:' .. id, ttl)
  call('PEXPIRE', T .. 'result:' .. id, ttl)
  if idem then call('PEXPIRE', T .. 'idem:' .. idem, ttl) end
end

-- Every trace of an ended job.
local function forget_job(id)
  local idem = call('HGET', JOB(id), 'idem')
  call('ZREM', T .. 'done', id)
  call('ZREM', T .. 'dead', id)
  call('DEL', JOB(id), T .. 'spec:' .. id, T .. 'log:' .. id, T .. 'result:' .. id)
  if idem then call('DEL', T .. 'idem:' .. idem) end
end

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
  for _, cap in ipairs(call('SRANDMEMBER', T .. 'parks', 4)) do     -- heals a lost hand-over of a place
    local best = call('ZRANGE', T .. 'park:' .. cap, 0, 0)
    local limit = best[1] and (cap:sub(1, 2) == 'k:' and call('HGET', JOB(best[1]), 'limit')
      or call('HGET', T .. 'limits', 'profile:' .. cap:sub(3)))
    if not limit or call('SCARD', T .. 'ckey:' .. cap) < tonumber(limit) then unpark(cap) end
  end
  trim(32)
end
