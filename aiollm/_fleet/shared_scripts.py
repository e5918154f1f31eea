"""The scripts for what calls share beside health and limits.

Budgets, where caches are warm, and what was seen of refusals.
"""

from __future__ import annotations

from aiollm._fleet.scripts import Script

MONEY = """
-- KEYS: budget. ARGV: channel, who, spent, held, wanted, needed, sum, was told before
-- Each process says what it has spent and may use; all in millionths of a dollar. So a message that
-- is lost is mended by the next, and what a process held that died stays held: it may be spent.
local key, who = KEYS[1], ARGV[2]
local spent, held, wanted = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local needed, sum = tonumber(ARGV[6]), tonumber(ARGV[7])
local v = redis.call('HMGET', key, 'of|' .. who, 'held', 'spent', 'settles', 'wish')
local own_held, own_spent = string.match(v[1] or '', '^(%d+):(%d+)$')
own_held, own_spent = number(own_held, 0), number(own_spent, 0)
local others = math.max(0, number(v[2], 0) - own_held)
local others_spent = math.max(0, number(v[3], 0) - own_spent)
local settles = number(v[4], 0)
if not v[1] and ARGV[8] == '1' then
  -- Redis has forgotten it: the others say again what they hold before anyone gets more.
  settles = now + 2500000
  redis.call('HSET', key, 'settles', us(settles))
end
local kept, grant = math.min(held, wanted), math.min(wanted, math.max(0, sum - others))
local waits = settles > now and settles < now + 3000000
-- A part that lets nobody go would only be kept from the others.
if waits or grant < math.max(kept, needed) then grant = kept end
redis.call('HSET', key, 'of|' .. who, us(grant) .. ':' .. us(spent))
redis.call('HSET', key, 'held', us(others + grant), 'spent', us(others_spent + spent))
redis.call('PEXPIRE', key, 35 * 24 * 3600000)
if needed > grant then
  redis.call('HSET', key, 'wish', us(now))
  redis.call('PUBLISH', ARGV[1], cjson.encode({'money', key, who, 'wanted'}))
elseif grant < own_held and now - number(v[5], 0) < 3000000 then
  redis.call('PUBLISH', ARGV[1], cjson.encode({'money', key, who, 'free'}))
end
return {us(grant), us(others), us(others_spent)}
"""

_WARM = """
local MOST = 4
local function warm_of(key)
  -- The places where a session's cache is warm, the one used last first.
  local found, all = {}, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local ends, used = string.match(all[i + 1], '^(%d+):(%d+)$')
    ends, used = number(ends, 0), number(used, 0)
    if ends > now and ends < now + 48 * HOUR then
      found[#found + 1] = {all[i], ends, used}
    end
  end
  table.sort(found, function(a, b) return a[3] > b[3] end)
  return found
end
"""

WARM = """
-- KEYS: session
local shown = {}
for i, each in ipairs(warm_of(KEYS[1])) do
  if i <= MOST then
    shown[#shown + 1] = each[1]
    shown[#shown + 1] = left(each[2])
  end
end
return shown
"""

WARMED = """
-- KEYS: session. ARGV: place, how long it stays warm
local key = KEYS[1]
local found, ends = warm_of(key), now + tonumber(ARGV[2])
redis.call('DEL', key)
redis.call('HSET', key, ARGV[1], us(ends) .. ':' .. us(now))
local kept = 1
for _, each in ipairs(found) do
  if each[1] ~= ARGV[1] and kept < MOST then
    kept = kept + 1
    ends = math.max(ends, each[2])
    redis.call('HSET', key, each[1], us(each[2]) .. ':' .. us(each[3]))
  end
end
redis.call('PEXPIRE', key, us((ends - now) / 1000))
return kept
"""

SEEN = """
-- KEYS: quota. ARGV: model, and what was seen before its 429 that was not told yet: requests, those
-- refused, refusals that are explained, requests a minute. Returns what all processes saw
local field, sums = 'seen|' .. ARGV[1], {}
local known = redis.call('HGET', KEYS[1], field) or ''
local told = {string.match(known, '^(%S+) (%S+) (%S+) (%S+)$')}
for i = 1, 4 do sums[i] = string.format('%.3f', number(told[i], 0) + tonumber(ARGV[1 + i])) end
redis.call('HSET', KEYS[1], field, table.concat(sums, ' '))
redis.call('PEXPIRE', KEYS[1], 600000)
return sums
"""

money = Script(MONEY)
warm, warmed = Script(_WARM, WARM), Script(_WARM, WARMED)
seen = Script(SEEN)
ALL = (money, warm, warmed, seen)
