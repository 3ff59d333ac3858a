-- The shared-clone lock: SET NX PX, a random owner, renewed and released by compare. Value: owner, space, fence.
-- ARGV from 4: name, owner, life in ms ('' = release). Answers the fence while the owner holds it.
local key, owner, life = T .. 'lock:' .. ARGV[4], ARGV[5], ARGV[6]
local held, fence = (call('GET', key) or ''):match('^(%S+) (%d+)$')
if held and held ~= owner then return '' end
if life == '' then
  if held then call('DEL', key) end
  return ''
end
if held then call('PEXPIRE', key, life)
else
  fence = string.format('%.0f', math.max(number(call('HGET', META, 'fence')) + 1, us))
  if not call('SET', key, owner .. ' ' .. fence, 'NX', 'PX', life) then return '' end
  call('HSET', META, 'fence', fence)
end
return fence
