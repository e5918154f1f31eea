"""What runs inside Redis, in Lua: each script is one step that nothing comes between.

Only Redis's clock counts, and only durations cross the wire, so no two clocks are compared. Times
are whole microseconds. A breaker is a hash, and each script that writes
one publishes what has changed. `seq` counts changes, `gen` openings.
"""

from __future__ import annotations

from hashlib import sha1

PRELUDE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local FIELDS = {'seq', 'gen', 'n', 'until', 'probe', 'nb', 'lease', 'holder', 'err', 'status'}
local HOUR = 3600000000
local function us(x) return string.format('%.0f', x) end
local function number(text, other)
  -- Others may write here, too: neither a word nor "nan" may count for ever.
  local n = tonumber(text or '')
  if n and n > -1e18 and n < 1e18 then return n end
  return other
end
local function read(key)
  local v = redis.call('HMGET', key, unpack(FIELDS))
  local s = {}
  for i, name in ipairs(FIELDS) do
    if i <= 7 then s[name] = number(v[i], 0) else s[name] = v[i] or '' end
  end
  for _, name in ipairs({'until', 'probe', 'nb', 'lease'}) do
    if s[name] > now + HOUR + 60000000 then s[name] = now end
  end
  if s.lease <= now then s.holder = '' end
  return s
end
local function left(at) return us(math.max(0, at - now)) end
local function shown(key, s)
  return cjson.encode({key, us(s.seq), us(s.gen), us(s.n), left(s['until']), left(s.probe),
    left(s.nb), left(s.lease), s.holder, s.err, s.status})
end
local function write(key, s, channel, open)
  s.seq = s.seq + 1
  redis.call('HSET', key, 'seq', us(s.seq), 'gen', us(s.gen), 'n', us(s.n), 'until',
    us(s['until']), 'probe', us(s.probe), 'nb', us(s.nb), 'lease', us(s.lease),
    'holder', s.holder, 'err', s.err, 'status', s.status)
  redis.call('PEXPIRE', key, us((math.max(0, s['until'] - now) + HOUR) / 1000))
  if s.n > 0 then
    redis.call('ZADD', open, us(now + HOUR), key)
  else
    redis.call('ZREM', open, key)
  end
  redis.call('PEXPIRE', open, us(2 * HOUR / 1000))
  redis.call('PUBLISH', channel, shown(key, s))
end
"""

OPENED = """
-- KEYS: breaker, open ones. ARGV: channel, gen, opens, is suspect, machine, base, share of it,
-- hang, stated wait, probe after, is long, error, status
local key = KEYS[1]
local s = read(key)
local opens = ARGV[3] == '1' and (s.n == 0 or s.gen == tonumber(ARGV[2]))
local stated = tonumber(ARGV[9])
if ARGV[4] == '1' and s.n == 0 then
  -- One machine's connection failures may be its own; two machines' are the server's.
  local v = redis.call('HMGET', key, 'machine', 'seen')
  local fresh = v[1] and now - number(v[2], 0) < 10000000
  if not (fresh and v[1] ~= ARGV[5]) then
    if opens then
      redis.call('HSET', key, 'machine', ARGV[5], 'seen', us(now))
      redis.call('PEXPIRE', key, us(HOUR / 1000))
    end
    return shown(key, s)
  end
end
if opens then
  s.gen = math.max(s.gen, tonumber(ARGV[2])) + 1
  s.n = s.n + 1
  local full = math.min(300000000, tonumber(ARGV[6]) * 2 ^ math.min(s.n - 1, 40))
  local cooldown, probe, hang = full * tonumber(ARGV[7]), tonumber(ARGV[10]), tonumber(ARGV[8])
  if ARGV[11] == '1' then cooldown = 300000000 else probe = math.min(probe, full) end
  s['until'] = math.max(s['until'], now + math.max(cooldown, hang))
  s.probe = now + probe
  s.nb = math.max(s.nb, now + hang)
  s.err = ARGV[12]
  s.status = ARGV[13]
  s.holder = ''
  s.lease = 0
elseif s.n == 0 or now + stated <= s.nb then
  return shown(key, s)
end
s.nb = math.max(s.nb, now + stated)
s['until'] = math.max(s['until'], s.nb)
write(key, s, ARGV[1], KEYS[2])
return shown(key, s)
"""

RESTORED = """
-- KEYS: breaker, open ones. ARGV: channel, gen, openings, left until, probe and the earliest,
-- error, status
local key = KEYS[1]
local s = read(key)
if s.n == 0 and s.gen < tonumber(ARGV[2]) then
  s.gen, s.n = tonumber(ARGV[2]), tonumber(ARGV[3])
  s['until'] = now + tonumber(ARGV[4])
  s.probe = now + tonumber(ARGV[5])
  s.nb = now + tonumber(ARGV[6])
  s.err, s.status = ARGV[7], ARGV[8]
  write(key, s, ARGV[1], KEYS[2])
end
return shown(key, s)
"""

CLOSED = """
-- KEYS: breaker, open ones. ARGV: channel, gen
local key = KEYS[1]
local s = read(key)
if s.n > 0 and s.gen == tonumber(ARGV[2]) then
  s.n = 0
  s['until'], s.probe, s.nb, s.lease, s.holder, s.err, s.status = 0, 0, 0, 0, '', '', ''
  write(key, s, ARGV[1], KEYS[2])
end
return shown(key, s)
"""

CLAIMED = """
-- KEYS: breaker, open ones. ARGV: channel, process, lease, is waiting
local key = KEYS[1]
local s = read(key)
local at = s['until']
if ARGV[4] == '1' then at = math.max(s.nb, s.probe) end
if s.n == 0 or now + 2000 < at or (s.holder ~= '' and s.holder ~= ARGV[2]) then
  return shown(key, s)
end
local mine = s.holder ~= ''
s.holder = ARGV[2]
s.lease = now + tonumber(ARGV[3])
if mine then
  redis.call('HSET', key, 'lease', us(s.lease))
else
  write(key, s, ARGV[1], KEYS[2])
end
return shown(key, s)
"""

RELEASED = """
-- KEYS: breaker, open ones. ARGV: channel, process
local key = KEYS[1]
local s = read(key)
if s.holder == ARGV[2] then
  s.holder = ''
  s.lease = 0
  write(key, s, ARGV[1], KEYS[2])
end
return shown(key, s)
"""

STATES = """
-- KEYS: breakers
local found = {}
for i, key in ipairs(KEYS) do found[i] = shown(key, read(key)) end
return found
"""

OPEN = """
-- KEYS: open ones
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', us(now))
local found = {}
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], -4096, -1)) do
  found[#found + 1] = shown(key, read(key))
end
return found
"""

BEAT = """
-- KEYS: processes. ARGV: process, how long it counts as alive, channel
-- First what a full memory refuses: Redis asks only before the first write of a script.
local is_new = redis.call('ZADD', KEYS[1], us(now + tonumber(ARGV[2])), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', us(now))
redis.call('ZREMRANGEBYSCORE', KEYS[1], us(now + HOUR / 60), '+inf') -- the clock was set back
redis.call('PEXPIRE', KEYS[1], us(tonumber(ARGV[2]) / 1000))
local count = redis.call('ZCARD', KEYS[1])
if is_new == 1 then redis.call('PUBLISH', ARGV[3], count) end
return count
"""

CHECK = """
-- KEYS: quota, alive, held, waiting and a breaker of nobody's scope; open ones. ARGV: own channel
-- It uses what all others use, for a server may refuse some of it to this user.
local hash, set = KEYS[1], KEYS[2]
for _, key in ipairs({hash, KEYS[3], KEYS[5]}) do redis.call('HSET', key, 'a', '1', 'b', '2') end
for _, key in ipairs({set, KEYS[4]}) do redis.call('ZADD', key, us(now), 'a') end
read(hash)
for _, command in ipairs({'HGET', 'HEXISTS', 'HDEL'}) do redis.call(command, hash, 'a') end
for _, command in ipairs({'HGETALL', 'HLEN'}) do redis.call(command, hash) end
for _, command in ipairs({'ZSCORE', 'ZRANK', 'ZREM'}) do redis.call(command, set, 'a') end
redis.call('ZRANGE', KEYS[6], 0, 0)
redis.call('ZRANGEBYSCORE', set, '-inf', '+inf')
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', us(now))
redis.call('ZCARD', set)
redis.call('PUBLISH', ARGV[1], '')
for i = 1, 5 do redis.call('PEXPIRE', KEYS[i], 1) end
return 1
"""

_LIMITS = """
-- A meter is the time at which all that was booked has flowed off (GCRA). Its rate leaves two
-- seconds of each minute unused, for requests larger than a burst make a minute uneven.
-- What is further ahead than MOST is nonsense, so nothing is booked further than FAR.
local BURST, SPARE, FAR, MOST, DECREASE = 500000, 62000000, 100000000, 180000000, 0.5
local function rate_of(limit) return tonumber(limit) / SPARE end
local function booked_until(q, field, most)
  local at = number(redis.call('HGET', q, field), 0)
  if at > now + (most or MOST) then at = now end
  return at
end
local function free_of(field) return 'free' .. string.sub(field, 3) end
local function free(field)
  -- What answers took less than was booked, as the time that it takes to flow off.
  return math.max(0, math.min(BURST, number(redis.call('HGET', KEYS[1], free_of(field)), 0)))
end
local q, alive, held, waiting = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local function count(who) return math.max(0, number(redis.call('HGET', held, who), 0)) end
local function recount()
  -- Keys may be lost one by one: who is not alive holds nothing, and waits for nothing.
  local all, each = 0, redis.call('HGETALL', held)
  for i = 1, #each, 2 do
    if each[i] == '#' then -- the sum
    elseif redis.call('ZSCORE', alive, each[i]) then
      all = all + math.max(0, number(each[i + 1], 0))
    else
      redis.call('HDEL', held, each[i])
    end
  end
  for _, who in ipairs(redis.call('ZRANGE', waiting, 0, -1)) do
    if not redis.call('ZSCORE', alive, who) then redis.call('ZREM', waiting, who) end
  end
  redis.call('HSET', held, '#', us(all))
end
local function reap()
  for _, range in ipairs({{'-inf', us(now)}, {us(now + HOUR / 60), '+inf'}}) do
    for _, gone in ipairs(redis.call('ZRANGEBYSCORE', alive, range[1], range[2])) do
      local had = count(gone)
      if had > 0 then redis.call('HSET', held, '#', us(math.max(0, count('#') - had))) end
      redis.call('HDEL', held, gone)
      redis.call('ZREM', alive, gone)
      redis.call('ZREM', waiting, gone)
    end
  end
  local known = redis.call('HLEN', held)
  if known > 0 and known ~= redis.call('ZCARD', alive) + 1 then recount() end
end
local function hold(me, more, ttl)
  -- Relative, for commands of one connection come in order; each beat says the sum.
  redis.call('ZADD', alive, us(now + ttl), me)
  local had, all = count(me), count('#')
  more = math.max(more, -had)
  if more ~= 0 or redis.call('HEXISTS', held, me) == 0 then
    all = math.max(0, all + more)
    redis.call('HSET', held, '#', us(all), me, us(had + more))
  end
  for _, key in ipairs({alive, held, waiting}) do redis.call('PEXPIRE', key, 120000) end
  return all, had
end
local function slots_of(given)
  -- "~8": a number that is found, 8 to begin with.
  if string.sub(given, 1, 1) ~= '~' then return tonumber(given) end
  local found = number(redis.call('HGET', q, 'slots'), 0)
  if found >= 1 and found <= 1e6 then return found end
  return tonumber(string.sub(given, 2))
end
local function resize(channel, was, slots)
  local value = string.format('%.17g', slots)
  redis.call('HSET', q, 'slots', value)
  if math.floor(was) ~= math.floor(slots) then
    redis.call('PUBLISH', channel, cjson.encode({'learn', q, 'slots', value}))
  end
end
local function wake(channel, free)
  if free <= 0 then return end
  for _, who in ipairs(redis.call('ZRANGE', waiting, 0, free - 1)) do
    redis.call('PUBLISH', channel .. ':' .. who, q)
  end
end
"""

ENTER = """
-- KEYS: quota, alive, held, waiting. ARGV: channel, process, alive for, patience, slots, model,
-- then four of each meter: field, limit, units, and how far ahead this process knows it to be
-- booked. Of each meter it returns the same
local me, ttl, patience = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local slots = math.floor(slots_of(ARGV[5]))
local blocked = booked_until(q, 'until|' .. ARGV[6], HOUR)
local wait = math.max(0, blocked - now)
local own = wait -- of the model alone
local meters, goes_between = {}, blocked <= now
-- Meters that Redis lost are made anew from what each process knows, within two seconds.
local lost = number(redis.call('HGET', q, 'lost'), 0)
for i = 7, #ARGV, 4 do
  local cost = tonumber(ARGV[i + 2]) / rate_of(ARGV[i + 1])
  local at, ahead = booked_until(q, ARGV[i]), tonumber(ARGV[i + 3])
  if at == 0 and ahead > 0 then
    lost = now
    redis.call('HSET', q, 'lost', us(lost))
    redis.call('PEXPIRE', q, 600000)
  end
  if math.abs(now - lost) < 2000000 then at = math.max(at, now + ahead) end
  local ready = at
  if cost <= BURST then ready = at + cost - BURST end
  wait = math.max(wait, ready - now)
  if string.find(ARGV[i], '|', 4, true) then own = math.max(own, ready - now) end
  local booked, left = math.min(now + MOST, math.max(at, now) + cost), nil
  if ready > now then
    left = free(ARGV[i]) - cost
    goes_between = goes_between and left >= 0
  end
  meters[#meters + 1] = {ARGV[i], booked, at, left}
end
if goes_between then wait, own = 0, 0 end
if wait > patience then return {'busy', us(wait)} end
-- What is booked during a block would go all at once when it ends: it is asked for again later.
if blocked > now or wait > FAR then return {'aside', us(wait)} end
if slots > 0 then
  reap()
  local free = slots - hold(me, 0, ttl)
  if own > 1000000 then return {'aside', us(wait)} end -- slots are for other models meanwhile
  local ahead = redis.call('ZRANK', waiting, me) or redis.call('ZCARD', waiting)
  if free <= ahead then
    if patience > 0 then
      redis.call('ZADD', waiting, 'NX', us(now), me)
      redis.call('PEXPIRE', waiting, 120000)
    end
    return {'full', '0'}
  end
  if wait > 1000000 then return {'later', us(wait)} end
  hold(me, 1, ttl)
  redis.call('ZREM', waiting, me)
end
local reply = {'granted', us(wait)}
for i, each in ipairs(meters) do
  local field, booked, at, left = unpack(each, 1, 4)
  if goes_between and left then
    redis.call('HSET', q, free_of(field), us(left))
    booked = at
  else
    redis.call('HSET', q, field, us(booked), 'last' .. string.sub(field, 3), us(now + wait))
  end
  reply[2 + i] = us(math.max(0, booked - now))
end
redis.call('PEXPIRE', q, 600000)
return reply
"""

LEAVE = """
-- KEYS: quota, alive, held, waiting. ARGV: channel, process, alive for, slots given back, or "="
-- and those held, slots, whether calls wait here, verdict, then three of each meter: field, limit,
-- units more than booked
local me, slots = ARGV[2], slots_of(ARGV[5])
for i = 8, #ARGV, 3 do
  local at, more = booked_until(q, ARGV[i]), tonumber(ARGV[i + 2]) / rate_of(ARGV[i + 1])
  local promised = number(redis.call('HGET', q, 'last' .. string.sub(ARGV[i], 3)), 0)
  if more < 0 and ARGV[7] == 'answered' and promised > now then
    -- What is promised stays where it is, or what follows would be booked between: so less was
    -- used just now, and whoever asks next may have that.
    redis.call('HSET', q, free_of(ARGV[i]), us(math.min(BURST, free(ARGV[i]) - more)))
  elseif at > 0 then
    redis.call('HSET', q, ARGV[i], us(math.min(now + MOST, math.max(at + more, now - SPARE))))
  end
end
if slots > 0 then
  reap()
  local is_sum = string.sub(ARGV[4], 1, 1) == '='
  -- About once a second one of the beats counts anew.
  if is_sum and now % math.max(1, redis.call('ZCARD', alive)) == 0 then recount() end
  local more = -(tonumber(ARGV[4]) or 0)
  local all, had = hold(me, 0, tonumber(ARGV[3]))
  if string.sub(ARGV[5], 1, 1) == '~' and ARGV[7] ~= '' then
    local was, cut = slots, number(redis.call('HGET', q, 'cut'), 0)
    local is_used = ARGV[6] == '1' or all >= math.floor(was) or redis.call('ZCARD', waiting) > 0
    if ARGV[7] == 'answered' and is_used then
      slots = was + 1 / was
    elseif ARGV[7] == 'refused' and (now - cut >= 1000000 or cut > now) then
      slots = math.max(1, all * DECREASE)
      redis.call('HSET', q, 'cut', us(now))
    end
    if slots ~= was then resize(ARGV[1], was, slots) end
    redis.call('PEXPIRE', q, 600000)
  end
  if is_sum then more = tonumber(string.sub(ARGV[4], 2)) - had end
  local total = hold(me, more, tonumber(ARGV[3]))
  if ARGV[6] == '0' then redis.call('ZREM', waiting, me) end
  wake(ARGV[1], math.floor(slots) - total)
end
return 1
"""

LEARN = """
-- KEYS: quota. ARGV: channel, field, value, whether it is a time from now
local value = ARGV[3]
if ARGV[4] == '1' then
  local most = string.sub(ARGV[2], 1, 6) == 'until|' and HOUR
  local known = booked_until(KEYS[1], ARGV[2], most)
  if most and known <= now then redis.call('HDEL', KEYS[1], 'seen' .. string.sub(ARGV[2], 6)) end
  value = us(math.max(now + tonumber(value), known))
end
redis.call('HSET', KEYS[1], ARGV[2], value)
redis.call('PEXPIRE', KEYS[1], 600000)
if string.sub(ARGV[2], 1, 3) ~= 'at|' then
  redis.call('PUBLISH', ARGV[1], cjson.encode({'learn', KEYS[1], ARGV[2], ARGV[3]}))
end
return 1
"""

LEARNT = """
-- KEYS: quota. Returns what was announced and learnt, and until when 429s keep models back.
local found = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local field, value = all[i], all[i + 1]
  if string.find(field, '^until|') then value = left(booked_until(KEYS[1], field, HOUR)) end
  if string.find(field, '^until|') or string.find(field, '^limit|')
    or string.find(field, '^size|') or field == 'slots' then
    found[#found + 1] = cjson.encode({'learn', KEYS[1], field, value})
  end
end
return found
"""


class Script:
    """A script that Redis knows by the hash of its text."""

    __slots__ = ("sha", "text")

    def __init__(self, *texts: str) -> None:
        self.text = "".join((PRELUDE, *texts))
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


opened, restored, closed = Script(OPENED), Script(RESTORED), Script(CLOSED)
claimed, released = Script(CLAIMED), Script(RELEASED)
states, open_ones, beat, check = Script(STATES), Script(OPEN), Script(BEAT), Script(CHECK)
enter, leave = Script(_LIMITS, ENTER), Script(_LIMITS, LEAVE)
learn, learnt = Script(_LIMITS, LEARN), Script(_LIMITS, LEARNT)
ALL = (
    *(opened, restored, closed, claimed, released, states, open_ones),
    *(beat, check, enter, leave, learn, learnt),
)
