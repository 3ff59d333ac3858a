-- ARGV from 4: n, then n times id, bytes, priority, delay_ms, key, limit, profile, idempotency key ('' = none).
local function some(text) return text ~= '' and text or nil end
local answers, made = {}, 0
for i = 0, tonumber(ARGV[4]) - 1 do
  local id, bytes, priority, delay, key, limit, profile, idem = unpack(ARGV, 5 + 8 * i, 12 + 8 * i)
  local known, new = create(id, bytes, tonumber(priority), tonumber(delay), some(key), some(limit), some(profile), some(idem))
  answers[i + 1] = { known, new and 1 or 0 }
  if new then
    made = made + 1
    tell(id, 'queued')
  end
end
if made > 0 then total('submitted', made) end
return answers
