-- Forgets ended jobs, a bounded number at a time. ARGV from 4: is_dry_run. Answers how many it forgot, or
-- with a dry run how many there are to forget.
if ARGV[4] == '0' then return trim(500) end
local dead_ttl, history = ARGV[3]:match('(%d+) (%d+)')
local count = 0
for name, ttl in pairs({ done = JOB_TTL, dead = dead_ttl }) do
  local old = call('ZCOUNT', T .. name, '-inf', now - tonumber(ttl))
  count = count + math.max(old, call('ZCARD', T .. name) - tonumber(history))
end
return count
