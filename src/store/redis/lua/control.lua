-- How the fleet works. ARGV from 4: verb (pause, resume, limit, drain, leave, forget), then its arguments.
local verb, a, b = ARGV[4], ARGV[5], ARGV[6]

local function poke(wid)
  call('RPUSH', T .. 'poke:' .. wid, verb)
  call('LTRIM', T .. 'poke:' .. wid, 0, 0)
end

if verb == 'pause' then
  call('HSET', META, 'paused', a)
  tell('-', 'queued', '', '', '', 'fleet paused by ' .. a)
elseif verb == 'resume' then
  call('HDEL', META, 'paused')
  tell('-', 'queued', '', '', '', 'fleet resumed')
elseif verb == 'limit' and a == '' then       -- of the fleet; b = '' lifts it
  if b == '' then call('HDEL', META, 'limit') else call('HSET', META, 'limit', b) end
  tell('-', 'queued', '', '', '', 'fleet limit ' .. (b == '' and 'lifted' or b))
elseif verb == 'limit' then                   -- of profile a
  local cap = 'p:' .. a
  if b == '' then
    call('HDEL', T .. 'limits', 'profile:' .. a)
    call('DEL', T .. 'ckey:' .. cap)
  else
    call('HSET', T .. 'limits', 'profile:' .. a, b)
    for _, id in ipairs(call('ZRANGE', RUN, 0, -1)) do      -- those that run already count
      if call('HGET', JOB(id), 'profile') == a then call('SADD', T .. 'ckey:' .. cap, id) end
    end
  end
  local capped = call('HLEN', T .. 'limits')
  if capped == 0 then call('HDEL', META, 'capped') else call('HSET', META, 'capped', capped) end
  for promised = 0, 999 do
    if not unpark(cap, promised) then break end
  end
  tell('-', 'queued', '', '', '', 'limit of profile ' .. a .. ' ' .. (b == '' and 'lifted' or b))
elseif verb == 'drain' then                   -- worker a hands back what still runs in b milliseconds
  if call('EXISTS', WORKER(a)) == 0 then return '!unknown' end
  local by = number(call('HGET', WORKER(a), 'drain_by'))
  local wanted = now + math.min(tonumber(b), 1e15)
  call('HSET', WORKER(a), 'draining', 1, 'drain_by', by > 0 and math.min(by, wanted) or wanted)
  occupy(a)
  poke(a)
elseif verb == 'leave' then
  for _, id in ipairs(call('SMEMBERS', HELD(a))) do take_back(id, false, 'interrupted', 'its worker left') end
  forget_worker(a)
elseif verb == 'forget' then                  -- a silent worker, unless it has come back
  if call('SCARD', HELD(a)) == 0 then forget_worker(a) end
end
return 'ok'
