-- Pushes that were no jobs. ARGV from 4: verb (requeue, drop), then the tickets' ids (none: all).
-- An element is: number, milliseconds, reason, newline, the bytes as pushed. The number is its id.
local bad, verb = T .. 'bad', ARGV[4]
local chosen, done = {}, {}
for i = 5, #ARGV do chosen[ARGV[i]] = true end
for _, element in ipairs(call('LRANGE', bad, 0, -1)) do
  local id = element:match('^(%d+) ')
  if #ARGV == 4 or chosen[id] then
    if verb == 'requeue' then call('RPUSH', Q, element:sub((element:find('\n', 1, true)) + 1)) end
    call('LREM', bad, 1, element)
    done[#done + 1] = element
  end
end
return done
